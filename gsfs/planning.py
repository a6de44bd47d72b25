"""What a changed policy would move and cost, and doing it.

Owns the walk over a bucket's objects. The comparison is ``policy.plan``'s, the moving ``transfer.replication``'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import trio.lowlevel

from gsfs.admin import policy_of
from gsfs.answers import prices_of
from gsfs.errors import Incomplete
from gsfs.model import LocationId
from gsfs.namespace.buckets import Bucket
from gsfs.policy.bucket import BucketPolicy
from gsfs.policy.plan import Action, Move, PlannedObject, PlanSummary, plan
from gsfs.transfer.replication import Wanted
from gsfs.volume import Volume

PAGE = 500
Tell = Callable[[dict[str, Any]], Awaitable[None]]


async def moves(
    volume: Volume, bucket: Bucket, policy: BucketPolicy, summary: PlanSummary
) -> AsyncGenerator[list[Move], None]:
    """Steps that bring the bucket's sealed objects in line with ``policy``; requests are answered between two pages."""
    writer = volume.steward.region or str(bucket.home)
    reads, prices, after = volume.steward.reads_per_month(bucket), prices_of(volume), 0
    while page := volume.store.objects.in_bucket(bucket.ino, after, PAGE):
        after = page[-1].id
        items = [
            PlannedObject(
                o.id, o.size, tuple(volume.steward.facts(volume.store.objects.replicas(o.id))), writer
            )
            for o in page
        ]
        now_s = volume.steward.clock()
        yield list(
            plan(items, policy, volume.steward.regions, prices, now_s, summary=summary, reads_per_month=reads)
        )
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
    copies = [s for s in steps if s.action is Action.COPY]
    left = sum(s.size_bytes for s in copies)
    failed: list[Wanted] = []
    for at in range(0, len(copies), PAGE):
        batch = copies[at : at + PAGE]
        await tell({"left_bytes": left})
        failed += await volume.replication.settle(
            [Wanted(s.object_id, LocationId(s.region), None) for s in batch]
        )
        left -= sum(s.size_bytes for s in batch)
    objects = volume.store.objects
    for step in steps:
        location = LocationId(step.region)
        if step.action is Action.KEEP:
            objects.set_expiry(step.object_id, location, None)
        elif step.action is Action.RETIME:
            objects.set_expiry(step.object_id, location, int(step.expires_s * 1e9))
        elif step.action is Action.DROP:
            volume.replication.drop(step.object_id, location)
    volume.store.changed()
    await volume.committer.durable()
    if failed:
        raise Incomplete(
            f"{len(failed)} of {len(copies)} copies could not be made; run it again when the location answers"
        )
