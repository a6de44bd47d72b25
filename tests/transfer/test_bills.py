"""What a plan promises is what the ledger has afterwards, to the last request; and nothing is deleted early for free."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import trio

from gsfs import keeping, leaving, planning
from gsfs.admin import apply_settings, check_settings
from gsfs.backends.request import RequestKind
from gsfs.errors import Incomplete
from gsfs.model import MIB, LocationId, ReplicaState
from gsfs.policy.ledger import Count, EntryKey, Kind, to_decimal, total_usd
from gsfs.volume import Volume
from tests.support.regions import DAY_S, EAST, EUROPE, REGIONS, WEST, Regional
from tests.support.volumes import ROOT

SIZE = 21 * MIB + 4321
"""Two objects, of 16 MiB (two ranged reads) and of 5."""
AGES = f"min_age,{EAST},,30\nmin_age,{EUROPE},,90\n"


@pytest.fixture
def regional(tmp_path: Path) -> Iterator[Regional]:
    made = Regional(tmp_path, prices=AGES, segment_size="16MiB")
    yield made
    made.close()


async def silent(_progress: dict[str, Any]) -> None:
    """Nobody listens."""


def lines(regional: Regional) -> list[tuple[EntryKey, Count]]:
    volume = regional.volume
    volume.accounts.bring_up_to_date()
    return [
        (EntryKey(r.hour, r.bucket, r.location, Kind(r.kind), r.dst), Count(r.requests, r.amount))
        for r in volume.store.policies.lines()
        if r.bucket == str(regional.ino)
    ]


def paid(regional: Regional) -> Fraction:
    prices = regional.volume.steward.prices
    assert prices is not None
    return total_usd(lines(regional), prices)


def counted(regional: Regional, kind: Kind, location: str) -> int:
    """Amount of one kind at one location."""
    return sum(count.amount for key, count in lines(regional) if (key.kind, key.region) == (kind, location))


async def nothing_cached(regional: Regional, ino: int) -> None:
    await regional.forget_local()
    assert not any(id_ in regional.volume.cache for id_ in regional.objects(ino))


async def all_cached(regional: Regional, ino: int) -> None:
    assert all(id_ in regional.volume.cache for id_ in regional.objects(ino))


async def partly_cached(regional: Regional, ino: int) -> None:
    """A read in the middle of the first object; the policy must leave no replica for it."""
    await regional.forget_local()
    regional.set(ttl="none")
    handle, _ = regional.volume.content.open(ino, 0)
    await regional.volume.content.read(handle, 4 * MIB, 100)
    regional.volume.content.release(handle)
    assert 0 < regional.volume.cache.used_bytes < SIZE


Cached = Callable[[Regional, int], Awaitable[None]]
SETTINGS = [
    {"placement": "local"},
    {"placement": f"push:{EUROPE}"},
    {"placement": "all"},
    {"placement": "single", "home": EUROPE},
    {"placement": "single", "home": WEST, "ttl": "t_even"},
]


@pytest.mark.parametrize("cached", [nothing_cached, all_cached, partly_cached])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s.values()))
def test_a_plan_costs_exactly_what_apply_adds_to_the_ledger(
    regional: Regional, cached: Cached, settings: dict[str, str]
) -> None:
    volume = regional.volume

    async def work() -> None:
        ino = await regional.write(b"file", bytes(range(256)) * (SIZE // 256))
        regional.clock.now_s += 3 * DAY_S
        await cached(regional, ino)
        apply_settings(volume.store, regional.bucket, "bucket", check_settings(settings, list(REGIONS)))
        planned = await planning.show(volume, regional.bucket)
        before = paid(regional)
        done = await planning.apply(volume, regional.bucket, silent)
        assert done == planned
        assert to_decimal(paid(regional) - before) == Decimal(planned["once_usd"])
        assert planned["once_usd"] != "0.000000000000"
        again = await planning.show(volume, regional.bucket)
        assert not any(again["steps"].values())

    regional.run(work)


@pytest.mark.parametrize("cached", [nothing_cached, all_cached])
def test_a_drain_costs_exactly_what_it_said(regional: Regional, cached: Cached) -> None:
    volume = regional.volume

    async def work() -> None:
        ino = await regional.write(b"file", bytes(SIZE))
        regional.clock.now_s += 3 * DAY_S
        await cached(regional, ino)
        told = (await leaving.survey(volume, EAST, EUROPE)).to_json()
        before = paid(regional)
        assert (await leaving.leave(volume, EAST, EUROPE, silent))["once_usd"] == told["once_usd"]
        assert to_decimal(paid(regional) - before) == Decimal(told["once_usd"])
        assert regional.locations(ino) == {EUROPE}
        assert counted(regional, Kind.EARLY_DELETE, EAST) == SIZE * 27 * 86_400_000

    regional.run(work)


def test_a_drain_leaves_as_many_copies_as_the_bucket_promises(regional: Regional) -> None:
    regional.set(durability="remote:2")

    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        assert regional.locations(ino) == {EAST, WEST}
        await leaving.leave(regional.volume, EAST, None, silent)
        assert regional.locations(ino) == {WEST, EUROPE}

    regional.run(work)


def test_a_plan_keeps_the_copies_that_durability_promises(regional: Regional) -> None:
    """It used to drop the second location of remote:2, because the placement named one only."""
    regional.set(durability="remote:2")

    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        planned = await planning.show(regional.volume, regional.bucket)
        assert not any(planned["steps"].values())
        await planning.apply(regional.volume, regional.bucket, silent)
        assert regional.locations(ino) == {EAST, WEST}

    regional.run(work)


def test_a_plan_sends_nothing_back_to_a_location_that_is_being_left(regional: Regional) -> None:
    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        regional.set(placement=f"push:{EUROPE}")
        await leaving.leave(regional.volume, EUROPE, WEST, silent)
        planned = await planning.show(regional.volume, regional.bucket)
        assert not any(planned["steps"].values())
        assert regional.locations(ino) == {EAST}

    regional.run(work)


@pytest.mark.parametrize("age_days", [0, 7, 30, 31])
def test_what_is_removed_early_is_billed_for_the_rest_of_the_minimum_age(
    regional: Regional, age_days: int
) -> None:
    volume = regional.volume

    async def work() -> None:
        await regional.write(b"file", bytes(MIB))
        regional.clock.now_s += age_days * DAY_S
        volume.names.unlink(regional.ino, b"file")
        while await volume.garbage.collect() or volume.store.objects.in_state(ReplicaState.TOMBSTONE):
            await trio.lowlevel.checkpoint()
        kept, early = (counted(regional, kind, EAST) for kind in (Kind.STORAGE, Kind.EARLY_DELETE))
        assert kept == MIB * age_days * 86_400_000
        assert kept + early == MIB * max(age_days, 30) * 86_400_000

    regional.run(work)


def test_an_early_deletion_is_billed_once_whatever_restarts(regional: Regional) -> None:
    async def write_and_remove() -> None:
        await regional.write(b"file", bytes(MIB))
        regional.volume.names.unlink(regional.ino, b"file")
        await regional.volume.garbage.collect()

    regional.run(write_and_remove)
    early = counted(regional, Kind.EARLY_DELETE, EAST)
    assert early == MIB * 30 * 86_400_000
    regional.reopen()
    regional.run(regional.volume.garbage.collect)
    assert counted(regional, Kind.EARLY_DELETE, EAST) == early


def test_copying_by_apply_is_nobodys_read(regional: Regional) -> None:
    """It used to teach the TTL rule a read, and so to leave a replica here that no plan had shown."""

    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        await regional.forget_local()
        regional.set(placement=f"push:{EUROPE}", ttl="forever")
        await planning.apply(regional.volume, regional.bucket, silent)
        await regional.settle()
        assert regional.locations(ino) == {EAST, EUROPE}
        [id_] = regional.objects(ino)
        assert regional.volume.store.policies.trail(id_, WEST) is None

    regional.run(work)


def test_a_copy_that_cannot_be_made_drops_nothing(
    regional: Regional, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last replica at a location stays, though the local disk has the bytes as well."""
    volume = regional.volume

    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))

        async def fail(_wanted: Any) -> None:
            raise OSError("no")

        monkeypatch.setattr(volume.replication, "copy", fail)
        regional.set(home=EUROPE)
        with pytest.raises(Incomplete):
            await planning.apply(volume, regional.bucket, silent)
        assert regional.locations(ino) == {EAST}
        [id_] = regional.objects(ino)
        assert not volume.replication.drop(id_, volume.store.objects.at(EAST)[0].location)
        assert regional.locations(ino) == {EAST}

    regional.run(work)


def test_apply_tells_how_far_it_is(regional: Regional) -> None:
    told: list[int] = []

    async def listen(progress: dict[str, Any]) -> None:
        told.append(progress["left_bytes"])

    async def work() -> None:
        await regional.write(b"file", bytes(SIZE))
        regional.set(placement="all")
        await planning.apply(regional.volume, regional.bucket, listen)

    regional.run(work)
    assert told[0] == 2 * SIZE
    assert told[-1] == 0


def test_a_replica_that_was_applied_away_can_be_applied_back_at_once(regional: Regional) -> None:
    """Its tombstone used to pass for a copy that is there."""

    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        for home in (EUROPE, EAST, EUROPE):
            regional.set(home=home)
            await planning.apply(regional.volume, regional.bucket, silent)
            assert regional.locations(ino) == {home}
        await keeping.evict(regional.volume, ino, silent)
        assert await regional.read(ino) == bytes(MIB)

    regional.run(work)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_is_stored_is_billed_while_nothing_is_mounted(regional: Regional, end: str) -> None:
    """Locations bill it whether somebody looks or not; the time before a crash used to be lost as well."""

    async def write() -> None:
        await regional.write(b"file", bytes(MIB))
        regional.volume.accounts.bring_up_to_date()
        await regional.volume.committer.durable()

    regional.run(write)
    regional.clock.now_s += 3600  # not counted yet when the mount ends
    if end == "kill":
        regional.volume.abandon()
        regional.clock.now_s += 7 * DAY_S
        regional.volume = Volume(regional.config, clock=regional.clock)
    else:
        regional.close()
        regional.clock.now_s += 7 * DAY_S
        regional.volume = Volume(regional.config, clock=regional.clock)
    assert counted(regional, Kind.STORAGE, EAST) == MIB * int(7 * DAY_S + 3600) * 1000
    assert counted(regional, Kind.STORAGE, EAST) == MIB * int(7 * DAY_S + 3600) * 1000


@pytest.mark.parametrize(("age_days", "compacted"), [(1, False), (91, True)])
def test_compaction_waits_for_a_minimum_age_that_costs_more_than_it_saves(
    regional: Regional, age_days: int, compacted: bool
) -> None:
    volume = regional.volume
    regional.set(home=EUROPE)

    async def work() -> None:
        ino = await regional.write(b"file", bytes(4 * MIB))
        volume.attributes.truncate(volume.core.inode(ino), MIB)
        volume.store.changed()
        await volume.committer.durable()
        regional.clock.now_s += age_days * DAY_S
        assert (await volume.compaction.compact(0) > 0) is compacted

    regional.run(work)


def test_a_plan_counts_what_is_on_its_way_and_apply_turns_it_around(regional: Regional) -> None:
    """An upload that had not begun used to end at the old home as well, where nothing let it go again."""
    volume = regional.volume
    volume.uploads._gate = trio.Event()  # nothing is uploaded for now

    async def work() -> None:
        inode = volume.names.create(regional.ino, b"file", 0o644, ROOT)
        handle = volume.content.open_inode(inode, 2)
        await volume.content.write(handle, 0, bytes(MIB))
        volume.content.release(handle)
        volume.segments.seal_all()
        waiting = await planning.show(volume, regional.bucket)
        assert not any(waiting["steps"].values())
        regional.set(home=WEST)
        turned = await planning.show(volume, regional.bucket)
        assert (turned["steps"]["copy"], turned["steps"]["drop"]) == (1, 1)
        await planning.apply(volume, regional.bucket, silent)
        await volume.flush()
        assert regional.locations(inode.ino) == {WEST}
        assert volume.locations[LocationId(EAST)].counters.requests.get(RequestKind.PUT, 0) <= 1
        assert not any((await planning.show(volume, regional.bucket))["steps"].values())

    regional.run(work)


def test_a_read_leaves_no_replica_at_a_location_that_is_being_left(regional: Regional) -> None:
    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        regional.set(ttl="forever")
        await leaving.leave(regional.volume, WEST, None, silent)
        await regional.forget_local()
        await regional.read(ino)
        assert regional.locations(ino) == {EAST}
        assert leaving.check_left(regional.volume, WEST) == {"removed": WEST}

    regional.run(work)
