"""What a changed policy would move and cost, and doing it.

Owns the walk over a bucket's objects. The comparison is ``policy.plan``'s, the moving ``transfer.replication``'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import trio.lowlevel

from gsfs.admin import policy_of
from gsfs.answers import NEEDS_REGION, prices_of
from gsfs.copying import make_copies, planned
from gsfs.errors import ConfigError, Incomplete
from gsfs.model import LocationId, ReplicaState
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.replicas import Event
from gsfs.policy.bucket import BucketPolicy
from gsfs.policy.plan import Action, Move, PlanSummary, plan
from gsfs.transfer.replication import Wanted
from gsfs.volume import Volume

PAGE = 500
Tell = Callable[[dict[str, Any]], Awaitable[None]]


async def moves(
    volume: Volume, bucket: Bucket, policy: BucketPolicy, summary: PlanSummary
) -> AsyncGenerator[list[Move], None]:
    """Steps that bring the bucket's sealed objects in line with ``policy``; requests are answered between two pages."""
    steward, after = volume.steward, 0
    reads, prices, promise = steward.reads_per_month(bucket), prices_of(volume), steward.promise(bucket)
    if not steward.region:
        raise ConfigError(f"placement {NEEDS_REGION}")
    volume.store.flush()
    volume.store.objects.flush()  # which objects are live is known to the tables now
    while page := volume.store.objects.in_bucket(bucket.ino, after, PAGE):
        after = page[-1].id
        items = [planned(volume, object_) for object_ in page]
        yield list(
            plan(
                items, policy, steward.regions, prices, steward.clock(),
                via=steward.region, summary=summary, reads_per_month=reads, promise=promise,
            )
        )  # fmt: skip
        await trio.lowlevel.checkpoint()


async def show(volume: Volume, bucket: Bucket, policy: BucketPolicy | None = None) -> dict[str, Any]:
    """What applying the policy would do: counts, bytes and USD; nothing is moved."""
    summary = PlanSummary()
    async with aclosing(moves(volume, bucket, policy or policy_of(bucket), summary)) as pages:
        async for _page in pages:
            pass
    return summary.to_json()


async def apply(volume: Volume, bucket: Bucket, tell: Tell) -> dict[str, Any]:
    """Do what ``show`` shows: copies first, then the rest. Raises Incomplete when some could not be made."""
    summary, steps = PlanSummary(), list[Move]()
    async with aclosing(moves(volume, bucket, policy_of(bucket), summary)) as pages:
        async for page in pages:
            steps += page
    await carry_out(volume, steps, tell)
    return summary.to_json()


async def carry_out(volume: Volume, steps: list[Move], tell: Tell) -> None:
    """Take the steps of a plan. A crash in between leaves replicas more, never fewer; run it again."""
    _make_permanent(volume, [s for s in steps if s.action is Action.KEEP])
    copies = [s for s in steps if s.action is Action.COPY]
    copies.sort(key=lambda s: bool(s.source))  # what is in the cache first, before fetches push it out
    wanted = [Wanted(s.object_id, LocationId(s.region), None) for s in copies]
    failed = await make_copies(volume, wanted, [s.size_bytes for s in copies], tell)
    _make_permanent(volume, copies)
    uncopied = {item.object for item in failed}
    kept = _let_go(volume, [step for step in steps if step.object_id not in uncopied])
    await volume.committer.durable()
    if failed:
        raise Incomplete(
            f"{len(failed)} of {len(copies)} copies could not be made; run it again when the location answers"
        )
    if kept:
        raise Incomplete(f"{kept} replicas are in use and could not be let go yet; run it again")


def _make_permanent(volume: Volume, steps: list[Move]) -> None:
    """Replicas that are there stay for good: no expiry comes between this and what is dropped for it."""
    objects = volume.store.objects
    for step in steps:
        replica = objects.replica(step.object_id, step.region)
        if replica is not None and replica.state is not ReplicaState.TOMBSTONE:
            if replica.state is ReplicaState.EXPIRING:
                objects.advance(step.object_id, replica.location, Event.RENEW)
            objects.set_expiry(step.object_id, replica.location, None)
    volume.store.changed()


def _let_go(volume: Volume, steps: list[Move]) -> int:
    """Drop and shorten as planned; how many replicas could not be dropped."""
    objects, kept = volume.store.objects, 0
    for step in steps:
        location = LocationId(step.region)
        replica = objects.replica(step.object_id, location)
        if replica is None or replica.state is ReplicaState.TOMBSTONE:
            continue  # gone meanwhile
        if step.action is Action.RETIME and replica.expires_ns is not None:
            objects.set_expiry(step.object_id, location, int(step.expires_s * 1e9))
        elif step.action is Action.DROP:
            kept += not volume.replication.drop(step.object_id, location)
    volume.store.changed()
    return kept
