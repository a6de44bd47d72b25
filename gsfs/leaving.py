"""Leaving a location for good, while the file system is in use. Owns the walk; moves nothing itself.

Each object is copied elsewhere, verified, and only then let go of here. Broken off at any point, it goes on
from there: what has been copied is elsewhere already.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import trio.lowlevel

from gsfs.copying import make_copies, planned
from gsfs.errors import Incomplete, InvalidArgument, NotFoundError
from gsfs.model import LocationId, ObjectId, ReplicaState
from gsfs.namespace.locations import ACTIVE, DRAINING
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.replicas import READABLE, Event
from gsfs.policy.expiry import early_delete_usd
from gsfs.policy.ledger import to_decimal
from gsfs.policy.plan import copy_usd
from gsfs.transfer.replication import Wanted
from gsfs.volume import Volume

PAGE = 500
Tell = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Evacuation:
    """What leaving a location means."""

    leaving: LocationId
    to: LocationId
    copies: tuple[tuple[PhysicalObject, LocationId], ...]
    """Objects that too few other locations have, and where they go."""
    drops: tuple[ObjectId, ...]
    """Objects that other locations have already."""
    usd: str | None
    """Egress and requests of the copies, and the rest of a minimum age here; None where the mount has no region."""

    @property
    def bytes(self) -> int:
        return sum(object_.size for object_, _ in self.copies)

    def to_json(self) -> dict[str, Any]:
        return {
            "location": self.leaving,
            "to": self.to,
            "objects_to_copy": len({object_.id for object_, _ in self.copies}),
            "bytes_to_copy": self.bytes,
            "objects_elsewhere": len(self.drops),
            "once_usd": self.usd,
        }


async def survey(volume: Volume, leaving: str, to: str | None) -> Evacuation:
    """What would have to move. Raises NotFoundError, InvalidArgument."""
    here = _known(volume, leaving)
    target = _known(volume, to) if to else _best(volume, here)
    if target == here:
        raise InvalidArgument(f"{leaving}: cannot be left for itself")
    copies: list[tuple[PhysicalObject, LocationId]] = []
    drops: list[ObjectId] = []
    total = Fraction(0)
    for number, replica in enumerate(volume.store.objects.at(here)):
        if not number % PAGE:
            await trio.lowlevel.checkpoint()
        object_ = volume.store.objects.get(replica.object)
        if object_ is None or replica.state is ReplicaState.TOMBSTONE:
            continue
        targets = _targets(volume, object_, here, target)
        copies += [(object_, to) for to in targets]
        if not targets:
            drops.append(object_.id)
        total += _price(volume, object_, here, targets)
    usd = f"{to_decimal(total):f}" if volume.steward.prices is not None and volume.steward.region else None
    return Evacuation(here, target, tuple(copies), tuple(drops), usd)


def _price(volume: Volume, object_: PhysicalObject, here: LocationId, targets: list[LocationId]) -> Fraction:
    """What moving one object costs, as the ledger will have it; no targets: it is only let go of."""
    steward, total = volume.steward, Fraction(0)
    if steward.prices is None:
        return total
    item = planned(volume, object_)
    there = {fact.region for fact in item.replicas}  # a temporary replica becomes permanent for nothing
    for number, target in enumerate(to for to in targets if to not in there):
        total += copy_usd(item, target, steward.prices, steward.region, fetches=not number)
    for fact in item.replicas:
        if fact.region == here:
            total += early_delete_usd(fact, object_.size, steward.clock(), steward.prices)
    return total


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


def _targets(
    volume: Volume, object_: PhysicalObject, here: LocationId, first: LocationId
) -> list[LocationId]:
    """Where the object has to go so that as many locations have it as its bucket promises."""
    there = _elsewhere(volume, object_.id, here)
    bucket = volume.store.buckets.get(object_.bucket)
    missing = (bucket.copies if bucket is not None else 1) - len(there)
    draining = volume.store.locations.draining()
    others = [id_ for id_ in map(LocationId, volume.steward.order) if id_ != first and id_ not in draining]
    free = [id_ for id_ in (first, *others) if id_ != here and id_ not in there]
    return free[: max(0, missing)]


def _elsewhere(volume: Volume, object_: ObjectId, here: LocationId) -> set[LocationId]:
    """Other locations that have the object for good."""
    draining = volume.store.locations.draining()
    return {
        r.location
        for r in volume.store.objects.replicas(object_)
        if r.location != here and r.state in READABLE and r.expires_ns is None
        and r.location in volume.locations and r.location not in draining
    }  # fmt: skip


async def leave(volume: Volume, leaving: str, to: str | None, tell: Tell) -> dict[str, Any]:
    """Move everything away; new objects go elsewhere from the first moment. Raises Incomplete."""
    plan = await survey(volume, leaving, to)
    _turn_away(volume, plan)
    await volume.committer.durable()
    wanted = [Wanted(object_.id, to, None) for object_, to in plan.copies]
    failed = await make_copies(volume, wanted, [object_.size for object_, _ in plan.copies], tell)
    uncopied = {item.object for item in failed}
    moved = dict.fromkeys(object_.id for object_, _ in plan.copies if object_.id not in uncopied)
    for number, id_ in enumerate([*moved, *plan.drops]):
        if not number % PAGE:
            await trio.lowlevel.checkpoint()
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
    if row is not None and (row.live == 0 or not _targets(volume, row, leaving, leaving)):
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
