"""Policies at work over three regions on a virtual clock: expiry, and what is forgotten with time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from gsfs.answers import cost
from gsfs.model import ROOT_INO
from gsfs.namespace.policies import LedgerRow
from tests.support.regions import DAY_S, EAST, START_S, WEST, Regional

Make = Callable[..., Regional]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Regional] = []

    def one(prices: str = "", **policy: str) -> Regional:
        made.append(Regional(tmp_path, prices=prices, **policy))
        return made[-1]

    yield one
    for regional in made:
        regional.close()


async def read_from_afar(regional: Regional, name: bytes = b"file", size: int = 500_000) -> int:
    """A file that a read has left a replica of in this region."""
    ino = await regional.write(name, bytes(size))
    await regional.forget_local()
    await regional.read(ino)
    assert regional.locations(ino) == {EAST, WEST}
    return ino


def test_a_replica_made_by_a_read_goes_after_its_time_and_the_home_replica_never(make: Make) -> None:
    regional = make(ttl="fixed:2d")

    async def work() -> None:
        ino = await read_from_afar(regional)
        await regional.forget_local()
        assert regional.volume.replication.expire(START_S + 2 * DAY_S - 60) == 0
        assert regional.volume.replication.expire(START_S + 2 * DAY_S + 60) == 1
        assert regional.volume.replication.expire(START_S + 900 * DAY_S) == 0
        assert regional.locations(ino) == {EAST}

    regional.run(work)


def test_a_replica_stays_until_the_minimum_age_for_which_it_is_billed_anyway(make: Make) -> None:
    regional = make(prices=f"min_age,{WEST},,30\n", ttl="fixed:2d")

    async def work() -> None:
        ino = await read_from_afar(regional)
        assert regional.volume.replication.expire(START_S + 29 * DAY_S) == 0
        assert regional.volume.replication.expire(START_S + 31 * DAY_S) == 1
        assert regional.locations(ino) == {EAST}

    regional.run(work)


def test_replicas_that_must_stay_do_not_keep_later_ones_from_expiring(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsfs.transfer.replication.EXPIRY_BATCH", 1)
    regional = make(ttl="fixed:2d")

    async def work() -> None:
        first = await read_from_afar(regional, b"first")
        second = await read_from_afar(regional, b"second")
        regional.volume.steward.pinned = frozenset(regional.objects(first))
        replication = regional.volume.replication
        assert sum(replication.expire(START_S + 3 * DAY_S) for _ in range(3)) == 1
        assert regional.locations(first) == {EAST, WEST}
        assert regional.locations(second) == {EAST}

    regional.run(work)


def test_a_trail_goes_with_its_object(make: Make) -> None:
    regional = make(ttl="adaptive")

    async def work() -> None:
        ino = await read_from_afar(regional)
        [id_] = regional.objects(ino)
        policies = regional.volume.store.policies
        assert policies.trail(id_, WEST)
        regional.volume.names.unlink(regional.ino, b"file")
        while await regional.volume.garbage.collect() or regional.volume.store.objects.get(id_):
            await trio.lowlevel.checkpoint()
        assert policies.trail(id_, WEST) is None

    regional.run(work)


def test_a_trail_is_forgotten_when_it_means_nothing_any_more_and_not_before(make: Make) -> None:
    regional = make(ttl="adaptive")

    async def work() -> None:
        ino = await read_from_afar(regional)
        [id_] = regional.objects(ino)
        policies, forgetting = regional.volume.store.policies, regional.volume.forgetting
        regional.clock.now_s += DAY_S
        await forgetting.forget()
        assert policies.trail(id_, WEST)
        regional.clock.now_s += 3000 * DAY_S
        await forgetting.forget()
        assert policies.trail(id_, WEST) is None
        assert regional.locations(ino) >= {EAST}

    regional.run(work)


def test_what_a_removed_bucket_remembered_is_forgotten(make: Make) -> None:
    regional = make(ttl="adaptive")

    async def work() -> None:
        await read_from_afar(regional)
        await regional.volume.committer.durable()
        policies = regional.volume.store.policies
        assert policies.memory_buckets() == [regional.ino]
        regional.volume.names.unlink(regional.ino, b"file")
        regional.volume.names.rmdir(ROOT_INO, b"bucket")
        await regional.volume.forgetting.forget()
        await regional.volume.committer.durable()
        assert policies.memory_buckets() == []

    regional.run(work)


def test_old_hours_of_the_ledger_become_days_older_days_go_and_no_sum_changes(make: Make) -> None:
    regional = make()
    hour, volume = int(START_S // 3600), regional.volume
    ages = [*range(24 * 40, 24 * 60, 5), 24 * 399, 24 * 450]
    volume.store.policies.add_lines(
        LedgerRow(hour - age, str(regional.ino), EAST, "get", "", 3, 10**25 + age) for age in ages
    )
    before = trio.run(cost, volume, "day", None, 390)
    trio.run(volume.forgetting.forget)
    assert trio.run(cost, volume, "day", None, 390) == before
    lines = volume.store.policies.lines()
    assert sum(line.requests for line in lines) == 3 * (len(ages) - 1)
    assert sum(line.amount for line in lines) == sum(10**25 + age for age in ages[:-1])
    assert len(lines) <= 23
    assert all(line.hour % 24 == 0 for line in lines)
    assert trio.run(volume.forgetting.forget) == 0
