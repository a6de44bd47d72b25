"""Pin, warm and evict: what stays in the cache on somebody's word, and what never goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gsfs import keeping
from gsfs.errors import NoSpace
from gsfs.model import MIB
from gsfs.volume import Volume
from tests.support.regions import DAY_S, EAST, START_S, WEST, Regional
from tests.support.volumes import ROOT


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


# --- pinned directories


def directory(regional: Regional, parent: int, name: bytes) -> int:
    return regional.volume.names.mkdir(parent, name, 0o755, ROOT).ino


async def write_in(regional: Regional, parent: int, name: bytes, size: int = MIB) -> int:
    """A file at its location."""
    volume = regional.volume
    inode = volume.names.create(parent, name, 0o644, ROOT)
    handle = volume.content.open_inode(inode, 2)
    await volume.content.write(handle, 0, bytes([name[0]]) * size)
    volume.content.release(handle)
    await volume.flush()
    return inode.ino


def pinned(regional: Regional, *inos: int) -> list[bool]:
    volume = regional.volume
    return [volume.keeper.is_pinned(volume.core.inode(ino)) for ino in inos]


def here(regional: Regional, ino: int) -> bool:
    return all(id_ in regional.volume.cache for id_ in regional.objects(ino))


def test_what_comes_to_a_pinned_directory_later_is_pinned_before_it_can_be_evicted(
    regional: Regional,
) -> None:
    volume = regional.volume
    volume.keeper.run = trio.sleep_forever  # type: ignore[method-assign]  # no walk comes to help

    async def work() -> None:
        top = directory(regional, regional.ino, b"top")
        await keeping.pin(volume, top, False, silent)
        deep = directory(regional, directory(regional, top, b"new"), b"deeper")
        later = await write_in(regional, deep, b"later", 3 * MIB + 5)  # several objects in one commit
        other = await write_in(regional, regional.ino, b"other")
        await regional.forget_local()
        assert pinned(regional, top, deep, later, other) == [True, True, True, False]
        assert [here(regional, later), here(regional, other)] == [True, False]
        assert volume.keeper.bytes == 3 * MIB + 5
        assert len(regional.objects(later)) > 1

    regional.run(work)


def test_moving_in_and_out_of_a_pinned_directory_pins_and_lets_go(regional: Regional) -> None:
    volume = regional.volume

    async def work() -> None:
        top, tree = directory(regional, regional.ino, b"top"), directory(regional, regional.ino, b"tree")
        await keeping.pin(volume, top, False, silent)
        inside = await write_in(regional, tree, b"inside")
        single = await write_in(regional, regional.ino, b"single")
        linked = await write_in(regional, regional.ino, b"linked")
        await regional.forget_local()
        volume.names.rename(regional.ino, b"tree", top, b"tree", 0)
        volume.names.rename(regional.ino, b"single", top, b"single", 0)
        volume.names.link(linked, top, b"link")
        await volume.keeper.look()
        assert pinned(regional, inside, single, linked) == [True, True, True]
        assert all(here(regional, ino) for ino in (inside, single, linked))  # fetched again
        volume.names.rename(top, b"tree", regional.ino, b"tree", 0)
        volume.names.rename(top, b"single", regional.ino, b"single", 0)
        volume.names.unlink(top, b"link")
        await volume.keeper.look()
        assert pinned(regional, inside, single, linked) == [False, False, False]
        assert volume.keeper.objects == set()

    regional.run(work)


def test_the_last_word_about_a_directory_holds_for_all_below_it(regional: Regional) -> None:
    volume = regional.volume

    async def work() -> None:
        top = directory(regional, regional.ino, b"top")
        deep = directory(regional, top, b"deep")
        a, b, c = [
            await write_in(regional, parent, name)
            for parent, name in ((top, b"a"), (deep, b"b"), (deep, b"c"))
        ]
        await keeping.pin(volume, top, False, silent)
        assert pinned(regional, a, b, c) == [True, True, True]
        await keeping.pin(volume, deep, True, silent)  # an exception
        await keeping.pin(volume, c, False, silent)  # and one to that
        assert pinned(regional, top, a, deep, b, c) == [True, True, False, False, True]
        assert volume.keeper.objects == {*regional.objects(a), *regional.objects(c)}
        await keeping.pin(volume, a, True, silent)
        assert pinned(regional, a, c) == [False, True]
        await keeping.pin(volume, top, False, silent)
        assert pinned(regional, a, deep, b, c) == [True, True, True, True]
        await keeping.pin(volume, c, True, silent)
        await keeping.pin(volume, top, True, silent)
        assert pinned(regional, top, a, deep, b, c) == [False] * 5
        assert volume.store.pins.marked() == []
        assert volume.keeper.objects == set()

    regional.run(work)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_pinned_directories_and_their_exceptions_survive(regional: Regional, end: str) -> None:
    made: list[int] = []

    async def pin() -> None:
        top = directory(regional, regional.ino, b"top")
        await keeping.pin(regional.volume, top, False, silent)
        kept, let_go = await write_in(regional, top, b"kept"), await write_in(regional, top, b"let go")
        await keeping.pin(regional.volume, let_go, True, silent)
        made.extend((top, kept, let_go))

    regional.run(pin)
    if end == "kill":
        regional.volume.abandon()
        regional.volume = Volume(regional.config, clock=regional.clock)
    else:
        regional.reopen()
    assert pinned(regional, *made) == [True, True, False]
    assert regional.volume.keeper.objects == set(regional.objects(made[1]))

    async def remove() -> None:
        top, volume = made[0], regional.volume
        volume.names.unlink(top, b"kept")
        volume.names.unlink(top, b"let go")
        volume.names.rmdir(regional.ino, b"top")
        assert volume.store.pins.marked() == []

    regional.run(remove)


def test_pinned_files_that_grow_past_their_share_of_the_cache_do_not_end_writing(
    regional: Regional, caplog: pytest.LogCaptureFixture
) -> None:
    volume = regional.volume

    async def work() -> None:
        top = directory(regional, regional.ino, b"top")
        await keeping.pin(volume, top, False, silent)
        volume.cache.capacity_bytes = 4 * MIB
        for number in range(8):
            await write_in(regional, top, b"%d" % number)
            await regional.forget_local()
        await volume.keeper.look()
        assert volume.keeper.bytes == 3 * MIB
        assert volume.downloads.fetched_bytes == 0  # what is left out is not fetched again and again
        await regional.forget_local()
        assert volume.cache.used_bytes <= 4 * MIB

    regional.run(work)
    assert "pinned files have grown past" in caplog.text


def test_nothing_is_walked_while_nothing_changes(regional: Regional, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = regional.volume
    volume.keeper.run = trio.sleep_forever  # type: ignore[method-assign]  # no walk comes to help

    async def work() -> None:
        top = directory(regional, regional.ino, b"top")
        await write_in(regional, top, b"file")
        await keeping.pin(volume, top, False, silent)
        await volume.keeper.look()
        walks: list[int] = []
        real = volume.keeper._children
        monkeypatch.setattr(volume.keeper, "_children", lambda ino: walks.append(ino) or real(ino))
        await volume.keeper.look()
        assert walks == []
        await write_in(regional, top, b"another")
        await volume.keeper.look()
        assert walks == [top]

    regional.run(work)
