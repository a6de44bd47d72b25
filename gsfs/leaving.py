"""Leaving a location for good, while the file system is in use. Owns the walk; moves nothing itself.

Each object is copied elsewhere, verified, and only then let go of here. Broken off at any point, it goes on
from there: what has been moved has no replica here any more.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from gsfs.errors import Incomplete, InvalidArgument, NotFoundError
from gsfs.model import GIB, LocationId, ObjectId, ReplicaState
from gsfs.namespace.locations import ACTIVE, DRAINING
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.replicas import READABLE, Event
from gsfs.policy.ledger import to_decimal
from gsfs.transfer.replication import Wanted
from gsfs.volume import Volume

BATCH = 200
Tell = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Evacuation:
    """What leaving a location means."""

    leaving: LocationId
    to: LocationId
    copies: tuple[PhysicalObject, ...]
    """Objects that no other location has."""
    drops: tuple[ObjectId, ...]
    """Objects that another location has already."""
    usd: str | None
    """Egress and requests of the copies; None where the mount has no prices."""

    @property
    def bytes(self) -> int:
        return sum(object_.size for object_ in self.copies)

    def to_json(self) -> dict[str, Any]:
        return {
            "location": self.leaving,
            "to": self.to,
            "objects_to_copy": len(self.copies),
            "bytes_to_copy": self.bytes,
            "objects_elsewhere": len(self.drops),
            "once_usd": self.usd,
        }


def survey(volume: Volume, leaving: str, to: str | None) -> Evacuation:
    """What would have to move. Raises NotFoundError, InvalidArgument."""
    here = _known(volume, leaving)
    target = _known(volume, to) if to else _best(volume, here)
    if target == here:
        raise InvalidArgument(f"{leaving}: cannot be left for itself")
    copies: list[PhysicalObject] = []
    drops: list[PhysicalObject] = []
    for replica in volume.store.objects.at(here):
        object_ = volume.store.objects.get(replica.object)
        if object_ is None or replica.state is ReplicaState.TOMBSTONE:
            continue
        (drops if _elsewhere(volume, object_.id, here) else copies).append(object_)
    prices = volume.steward.prices
    usd = None
    if prices is not None:
        size = Fraction(sum(o.size for o in copies), GIB)
        total = size * Fraction(prices.egress_usd_per_gib(here, target))
        total += len(copies) * (Fraction(prices.get_usd(here)) + Fraction(prices.put_usd(target)))
        usd = f"{to_decimal(total):f}"
    return Evacuation(here, target, tuple(copies), tuple(o.id for o in drops), usd)


def _known(volume: Volume, name: str) -> LocationId:
    if name not in volume.locations:
        raise NotFoundError(f"{name}: no such location; there are {', '.join(volume.locations)}")
    return LocationId(name)


def _best(volume: Volume, leaving: LocationId) -> LocationId:
    """The first of the others, in the order in which this mount prefers them."""
    draining = volume.store.locations.draining()
    others = [id_ for id_ in volume.steward.order if id_ != leaving and id_ not in draining]
    if not others:
        raise InvalidArgument(f"{leaving}: no other location takes objects; add one first")
    return LocationId(others[0])


def _elsewhere(volume: Volume, object_: ObjectId, here: LocationId) -> bool:
    """Whether another location has the object for good."""
    return any(
        r.location != here and r.state in READABLE and r.location in volume.locations and r.expires_ns is None
        for r in volume.store.objects.replicas(object_)
    )


async def leave(volume: Volume, leaving: str, to: str | None, tell: Tell) -> dict[str, Any]:
    """Move everything away; new objects go elsewhere from the first moment. Raises Incomplete."""
    plan = survey(volume, leaving, to)
    _turn_away(volume, plan)
    await volume.committer.durable()
    done = 0
    for at in range(0, len(plan.copies), BATCH):
        batch = plan.copies[at : at + BATCH]
        await tell({"left_bytes": plan.bytes - done})
        await volume.replication.settle([Wanted(object_.id, plan.to, None) for object_ in batch])
        for object_ in batch:
            _let_go(volume, object_.id, plan.leaving)
        done += sum(object_.size for object_ in batch)
    for id_ in plan.drops:
        _let_go(volume, id_, plan.leaving)
    await volume.committer.durable()
    await volume.garbage.collect()
    left = [r for r in volume.store.objects.at(plan.leaving) if r.state is not ReplicaState.TOMBSTONE]
    if left:
        raise Incomplete(f"{len(left)} objects are still at {leaving}; run the drain again")
    return {**plan.to_json(), "moved_at_s": time.time()}


def _turn_away(volume: Volume, plan: Evacuation) -> None:
    """No new object goes there; buckets that were at home there move house; uploads on their way turn back."""
    store = volume.store
    store.locations.set_state(plan.leaving, DRAINING)
    for bucket in store.buckets.all():
        if bucket.home == plan.leaving:
            bucket.home, bucket.changed = plan.to, True
    for replica in store.objects.at(plan.leaving):
        if replica.state is ReplicaState.INTENT:
            object_ = store.objects.get(replica.object)
            store.objects.advance(replica.object, plan.leaving, Event.DROP)
            store.objects.advance(replica.object, plan.leaving, Event.REMOVED)
            if object_ is not None and store.objects.replica(replica.object, plan.to) is None:
                store.objects.add_replica(replica.object, plan.to, ReplicaState.INTENT)
                volume.uploads.queue(replica.object, object_.size, plan.to)
    store.changed()


def _let_go(volume: Volume, object_: ObjectId, leaving: LocationId) -> None:
    """Only once the other copy is readable; what is garbage by now goes in its own way."""
    row = volume.store.objects.get(object_)
    if row is not None and (row.live == 0 or _elsewhere(volume, object_, leaving)):
        volume.replication.drop(object_, leaving)


def stay(volume: Volume, location: str) -> dict[str, Any]:
    """Take new objects there again."""
    volume.store.locations.set_state(_known(volume, location), ACTIVE)
    volume.store.changed()
    return {"location": location, "state": ACTIVE}


def check_left(volume: Volume, location: str) -> dict[str, Any]:
    """Refuse the removal of a location that something still needs. Raises InvalidArgument."""
    rows = volume.store.objects.at(LocationId(location))
    if rows:
        raise InvalidArgument(
            f"{location}: still holds {len(rows)} objects; drain it first (gsfs location drain)"
        )
    homes = [b for b in volume.store.buckets.all() if b.home == location]
    if homes:
        raise InvalidArgument(
            f"{location}: is the home of {len(homes)} buckets; drain it first (gsfs location drain)"
        )
    volume.store.locations.remove(location)
    volume.store.changed()
    return {"removed": location}
