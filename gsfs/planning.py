"""What a changed policy would move and cost, and doing it.

Owns the walk over a bucket's objects. The comparison is ``policy.plan``'s, the moving ``transfer.replication``'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

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


def planned_objects(volume: Volume, bucket: Bucket) -> Iterator[PlannedObject]:
    """Every sealed object of the bucket that is in use."""
    after = 0
    while page := volume.store.objects.in_bucket(bucket.ino, after, PAGE):
        for object_ in page:
            after = object_.id
            facts = volume.steward.facts(volume.store.objects.replicas(object_.id))
            yield PlannedObject(
                object_.id, object_.size, tuple(facts), volume.steward.region or str(bucket.home)
            )


def moves(volume: Volume, bucket: Bucket, policy: BucketPolicy, summary: PlanSummary) -> Iterator[Move]:
    """Steps that bring the bucket in line with ``policy``."""
    return plan(
        planned_objects(volume, bucket),
        policy,
        volume.steward.regions,
        prices_of(volume),
        volume.steward.clock(),
        summary=summary,
        reads_per_month=volume.steward.reads_per_month(bucket),
    )


def show(volume: Volume, bucket: Bucket, policy: BucketPolicy | None = None) -> dict[str, Any]:
    """What applying the policy would do: counts, bytes and USD; nothing is moved."""
    summary = PlanSummary()
    for _move in moves(volume, bucket, policy or policy_of(bucket), summary):
        pass
    return summary.to_json()


async def apply(volume: Volume, bucket: Bucket, tell: Tell) -> dict[str, Any]:
    """Do what ``show`` shows: copies first, then the rest. Raises Incomplete when some could not be made."""
    summary = PlanSummary()
    steps = list(moves(volume, bucket, policy_of(bucket), summary))
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
