"""Pin, warm and evict: what stays in the cache on somebody's word, and what never goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gsfs import keeping
from gsfs.errors import NoSpace
from gsfs.model import MIB
from tests.support.regions import DAY_S, EAST, START_S, WEST, Regional


@pytest.fixture
def regional(tmp_path: Path) -> Iterator[Regional]:
    made = Regional(tmp_path, ttl="fixed:2d")
    yield made
    made.close()


async def silent(_progress: dict[str, Any]) -> None:
    """Nobody listens."""


def test_what_is_pinned_is_fetched_and_stays_when_everything_else_goes(regional: Regional) -> None:
    volume = regional.volume

    async def work() -> None:
        pinned, other = (
            await regional.write(b"pinned", b"p" * MIB),
            await regional.write(b"other", b"o" * MIB),
        )
        await regional.forget_local()
        answer = await keeping.pin(volume, pinned, False, silent)
        assert (answer["files"], answer["fetched_bytes"], answer["pinned_bytes"]) == (1, MIB, MIB)
        await keeping.warm(volume, other, silent)
        await regional.settle()
        await regional.forget_local()
        assert {id_ in volume.cache for id_ in regional.objects(pinned)} == {True}
        assert {id_ in volume.cache for id_ in regional.objects(other)} == {False}
        assert (await keeping.evict(volume, pinned, silent))["kept_objects"] == {"pinned": 1}
        await keeping.pin(volume, regional.ino, True, silent)
        assert (await keeping.evict(volume, pinned, silent)) == {"evicted_bytes": MIB, "kept_objects": {}}

    regional.run(work)


def test_a_pinned_replica_outlives_its_time(regional: Regional) -> None:
    volume = regional.volume

    async def work() -> None:
        ino = await regional.write(b"file", b"x" * 1000)
        await regional.forget_local()
        await regional.read(ino)
        await keeping.pin(volume, ino, False, silent)
        assert volume.replication.expire(START_S + 3 * DAY_S) == 0
        assert regional.locations(ino) == {EAST, WEST}
        await keeping.pin(volume, ino, True, silent)
        assert volume.replication.expire(START_S + 3 * DAY_S) == 1

    regional.run(work)


def test_pins_survive_a_restart_follow_what_is_written_and_go_with_the_file(regional: Regional) -> None:
    async def pin() -> int:
        ino = await regional.write(b"file", b"x" * MIB)
        await keeping.pin(regional.volume, ino, False, silent)
        return ino

    ino = regional.run(pin)
    regional.reopen()

    async def write_again() -> None:
        volume = regional.volume
        assert volume.keeper.objects == set(regional.objects(ino))
        handle, _ = volume.content.open(ino, 2)
        await volume.content.write(handle, 0, b"y" * MIB)
        volume.content.release(handle)
        await volume.flush()
        await volume.keeper.look()
        assert volume.keeper.objects == set(regional.objects(ino))
        await regional.forget_local()
        assert regional.objects(ino)[0] in volume.cache
        volume.names.unlink(regional.ino, b"file")
        assert list(volume.store.pins) == []

    regional.run(write_again)


def test_more_than_its_share_of_the_cache_cannot_be_pinned_nor_more_than_it_holds_be_fetched(
    regional: Regional,
) -> None:
    volume = regional.volume

    async def work() -> None:
        inos = [await regional.write(name, bytes([name[0]]) * MIB) for name in (b"a", b"b", b"c", b"d")]
        await regional.forget_local()
        volume.cache.capacity_bytes = 3 * MIB
        for ino in inos[:2]:
            volume.keeper.pin(volume.core.inode(ino))
        with pytest.raises(NoSpace):
            volume.keeper.pin(volume.core.inode(inos[2]))
        with pytest.raises(NoSpace):
            await keeping.warm(volume, regional.ino, silent)

    regional.run(work)


def test_the_only_copy_is_never_evicted(regional: Regional) -> None:
    volume = regional.volume

    async def work() -> None:
        volume.uploads.targets = lambda _bucket: ()
        ino = await regional.write(b"file", b"x" * MIB)
        assert (await keeping.evict(volume, ino, silent))["kept_objects"] == {"only copy": 1}
        assert await regional.read(ino) == b"x" * MIB

    regional.run(work)
