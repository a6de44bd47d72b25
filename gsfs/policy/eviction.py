"""What leaves the local disk when room is needed. Owns the order; never touches a file, never proposes dirty data.

The disk is a location with a capacity. Every cached piece rents its bytes from the moment of its last use, and goes
when its rent reaches what fetching it again would cost: ski rental, with the rent set so that just enough goes
(the Landlord algorithm: Young, "On-line file caching", 2002; it is as good as any deterministic cache can be).
So the order is by idle time * size / fetch cost, and no price of the disk is needed to know it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cached:
    """One evictable piece of the local cache: a physical object, or a run of its blocks."""

    key: int
    size_bytes: int
    last_used_s: float
    fetch_usd: float
    """What reading it again from its cheapest location costs: ``Edge.miss_usd`` without the PUT."""
    evictable: bool = True
    """False for what is dirty, pinned, open for transfer, or the last replica."""


FETCH_FLOOR_USD = 1e-9
"""Fetching again is never free: a piece from a free location still costs time."""


def rent(piece: Cached, now_s: float) -> float:
    """Idle byte-seconds per USD of fetch cost: the larger, the sooner it goes."""
    idle_s = max(0.0, now_s - piece.last_used_s)
    return (
        idle_s
        * piece.size_bytes
        / max(piece.fetch_usd, FETCH_FLOOR_USD * max(1, piece.size_bytes) / (1 << 20))
    )


def choose_victims(pieces: Iterable[Cached], need_bytes: int, now_s: float) -> list[Cached]:
    """The pieces to evict, in order, to free at least ``need_bytes``; all that can go when that is less."""
    if need_bytes <= 0:
        return []
    heap = [
        (-rent(piece, now_s), piece.key, piece) for piece in pieces if piece.evictable and piece.size_bytes
    ]
    heapq.heapify(heap)
    victims: list[Cached] = []
    freed = 0
    while heap and freed < need_bytes:
        victim = heapq.heappop(heap)[2]
        victims.append(victim)
        freed += victim.size_bytes
    return victims
