"""The life of a replica: one table of transitions. Pure; the rows are in ``namespace.objects``."""

from __future__ import annotations

import enum

from gsfs.model import ReplicaState as S


class Event(enum.StrEnum):
    """What can happen to a replica."""

    START = "start"  # bytes begin to move
    VERIFIED = "verified"  # size and checksum agree at the destination
    EXPIRE = "expire"  # the policy no longer wants it
    RENEW = "renew"  # a read came while it was expiring
    DROP = "drop"  # to be removed
    REMOVED = "removed"  # the location has confirmed


TRANSITIONS: dict[tuple[S, Event], S] = {
    (S.INTENT, Event.START): S.TRANSFERRING,
    (S.INTENT, Event.DROP): S.TOMBSTONE,
    (S.TRANSFERRING, Event.VERIFIED): S.AVAILABLE,
    (S.TRANSFERRING, Event.DROP): S.TOMBSTONE,
    (S.AVAILABLE, Event.EXPIRE): S.EXPIRING,
    (S.AVAILABLE, Event.DROP): S.TOMBSTONE,
    (S.EXPIRING, Event.RENEW): S.AVAILABLE,
    (S.EXPIRING, Event.DROP): S.TOMBSTONE,
    (S.TOMBSTONE, Event.REMOVED): S.GONE,
}
"""What is not here is a bug and raises."""

READABLE = frozenset({S.AVAILABLE, S.EXPIRING})
"""States in which a replica's bytes can be read and count as a copy."""

COMING = frozenset({S.INTENT, S.TRANSFERRING})
"""States in which it is on its way."""


def step(state: S, event: Event) -> S:
    """The next state. Raises ValueError for what cannot happen."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"replica: {event} cannot happen while {state}") from None
