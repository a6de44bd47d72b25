"""Replicas made because somebody asked for them: what that takes before, and making them, with progress.

Owns the batches; the copying itself is ``transfer.replication``'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import trio

from gsfs.answers import to_fetch
from gsfs.namespace.objects import PhysicalObject
from gsfs.policy.plan import PlannedObject
from gsfs.transfer.replication import Wanted
from gsfs.volume import Volume

BATCH = 200
PROGRESS_S = 1.0
Tell = Callable[[dict[str, Any]], Awaitable[None]]


def planned(volume: Volume, object_: PhysicalObject) -> PlannedObject:
    """What a plan must know of an object: its replicas, and what of it is not in the cache."""
    facts = tuple(volume.steward.facts(volume.store.objects.replicas(object_.id), coming=True))
    return PlannedObject(object_.id, object_.size, facts, volume.steward.region, to_fetch(volume, object_))


async def make_copies(volume: Volume, wanted: list[Wanted], sizes: list[int], tell: Tell) -> list[Wanted]:
    """Make these replicas, telling how many bytes are left; those that could not be made."""
    failed: list[Wanted] = []
    left = sum(sizes)
    for batch in _batches(list(zip(wanted, sizes, strict=True))):
        failed += await _make_batch(volume, batch, left, tell)
        left -= sum(size for _, size in batch)
    await tell({"left_bytes": left})
    return failed


async def _make_batch(
    volume: Volume, batch: list[tuple[Wanted, int]], left_bytes: int, tell: Tell
) -> list[Wanted]:
    failed: list[Wanted] = []
    gone: list[Exception] = []

    async def report() -> None:
        try:
            while True:
                there = sum(size for item, size in batch if volume.replication.is_there(item))
                await tell({"left_bytes": left_bytes - there})
                await trio.sleep(PROGRESS_S)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            gone.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        failed += await volume.replication.settle([item for item, _ in batch])
        nursery.cancel_scope.cancel()
    if gone:
        raise gone[0]
    return failed


def _batches(copies: list[tuple[Wanted, int]]) -> Iterator[list[tuple[Wanted, int]]]:
    """Copies of one object stay together: it is fetched once."""
    batch: list[tuple[Wanted, int]] = []
    for item in copies:
        if len(batch) >= BATCH and batch[-1][0].object != item[0].object:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
