"""The local cache lets go first what is least worth its place: idle for long, large, cheap to fetch again."""

from __future__ import annotations

import time
from pathlib import Path

from gsfs.data.cache import BLOCK, CANDIDATES, ObjectCache
from gsfs.model import MIB, ObjectId
from tests.support.regions import DAY_S, EUROPE, WEST, Regional


def test_what_is_dear_to_fetch_stays_longer_than_what_lies_in_this_region(tmp_path: Path) -> None:
    regional = Regional(tmp_path, ttl="none", home=EUROPE)
    volume = regional.volume

    async def work() -> None:
        dear = await regional.write(b"dear", b"d" * MIB)
        regional.set(home=WEST)
        regional.clock.now_s += DAY_S
        cheap = await regional.write(b"cheap", b"c" * MIB)
        regional.clock.now_s += DAY_S
        for _ in range(2):
            volume.store.changed()
            await volume.committer.durable()
        volume.cache.capacity_bytes = 2 * MIB
        assert volume.cache.make_room(1, look_at_disk=False)
        assert {id_ in volume.cache for id_ in regional.objects(dear)} == {True}
        assert {id_ in volume.cache for id_ in regional.objects(cheap)} == {False}

    regional.run(work)
    regional.close()


def test_of_what_costs_the_same_the_longest_idle_goes_first(tmp_path: Path) -> None:
    regional = Regional(tmp_path, ttl="none")
    volume = regional.volume

    async def work() -> None:
        inos = []
        for name in (b"a", b"b", b"c"):
            inos.append(await regional.write(name, name * MIB))
            regional.clock.now_s += 60
        for _ in range(2):
            volume.store.changed()
            await volume.committer.durable()
        volume.cache.get(regional.objects(inos[0])[0])
        volume.cache.capacity_bytes = 3 * MIB
        assert volume.cache.make_room(1, look_at_disk=False)
        assert [regional.objects(ino)[0] in volume.cache for ino in inos] == [True, False, True]

    regional.run(work)
    regional.close()


def test_making_room_looks_at_a_bounded_number_of_files(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 10 * CANDIDATES * BLOCK, 0)
    for number in range(3 * CANDIDATES):
        cache.store_block(ObjectId(number), 0, b"x" * 1000)
    seen: list[int] = []

    def largest_number_first(candidates, need_bytes):  # type: ignore[no-untyped-def]
        seen.append(len(candidates))
        return sorted(candidates, key=lambda file: -file.id)

    cache.order = largest_number_first
    cache.capacity_bytes = cache.used_bytes - 500
    assert cache.make_room(0, look_at_disk=False)
    assert seen == [CANDIDATES]
    assert ObjectId(CANDIDATES - 1) not in cache and len(cache.ids()) == 3 * CANDIDATES - 1
    cache.on_evict = lambda id_: id_ >= 2 * CANDIDATES  # those asked first refuse: the next ones are asked
    assert cache.make_room(0, look_at_disk=False) is True
    cache.capacity_bytes = cache.used_bytes - 500
    assert cache.make_room(0, look_at_disk=False)
    assert cache.ids()[:5] == [0, 1, 2, 3, 4]
    cache.close()


def test_room_is_made_quickly_among_a_hundred_thousand_files(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 10**12, 0)
    first = cache.create(ObjectId(1))
    for number in range(2, 100_000):
        file = type(first)(ObjectId(number), tmp_path / str(number))
        file.bytes = 1000
        cache._files[file.id] = file
        cache.used_bytes += 1000
    cache.capacity_bytes = cache.used_bytes
    began = time.perf_counter()
    for _ in range(100):
        assert cache.make_room(1000, look_at_disk=False)
        cache.used_bytes += 1000
    assert (time.perf_counter() - began) / 100 < 0.005
    cache.close()
