"""Budgets and what they are judged by: reads that are refused are no reads, and no moment is free of charge."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import trio

from gsfs import admin
from gsfs.answers import cost, explain, month_cost_usd
from gsfs.errors import InputOutput, InvalidArgument, QuotaExceeded
from gsfs.model import MIB, LocationId
from gsfs.namespace.policies import LedgerRow
from gsfs.policy.ledger import By
from gsfs.policy.placement import first_month_usd
from gsfs.policy.prices import load_prices
from gsfs.transfer.replication import Wanted
from tests.support.regions import DAY_S, EAST, EUROPE, REGIONS, WEST, Regional

PRICES = load_prices()
READ_USD = Fraction(MIB, 1 << 30) * Fraction(PRICES.egress_usd_per_gib(EAST, WEST)) + Fraction(
    PRICES.get_usd(EAST)
)


@pytest.fixture
def regional(tmp_path: Path) -> Iterator[Regional]:
    made = Regional(tmp_path, ttl="none")
    yield made
    made.close()


def spent(regional: Regional) -> Fraction:
    """Of the bucket, by the ledger."""
    row = admin.show_bucket(regional.volume, "bucket")
    return Fraction(row["spent_usd_this_month"])


def test_a_burst_of_reads_ends_at_the_budget_though_the_ledger_is_looked_at_now_and_then(
    regional: Regional,
) -> None:
    """Within the ten seconds between two looks it used to read as much as it liked."""

    async def work() -> None:
        inos = [await regional.write(b"%d" % n, bytes([n]) * MIB) for n in range(8)]
        await regional.forget_local()
        budget = spent(regional) + READ_USD * 3 + READ_USD / 2
        regional.set(budget=f"{float(budget):.12f}", budget_action="refuse")
        refused = 0
        for ino in inos:
            try:
                await regional.read(ino)
            except QuotaExceeded:
                refused += 1
        assert refused == 5
        assert spent(regional) <= budget

    regional.run(work)


def test_a_refused_read_teaches_no_rule_and_counts_no_other_read_anew(regional: Regional) -> None:
    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        other = await regional.write(b"other", bytes(MIB))
        regional.set(ttl="adaptive")
        await regional.forget_local()
        await regional.read(other)
        await regional.forget_local()
        steward = regional.volume.steward
        before = steward.memory(regional.ino).to_bytes()
        regional.set(budget="0", budget_action="refuse")
        with pytest.raises(QuotaExceeded, match="to lift it: gsfs bucket set bucket budget="):
            await regional.read(ino)
        assert steward.memory(regional.ino).to_bytes() == before
        assert regional.volume.store.policies.trail(regional.objects(ino)[0], WEST) is None
        regional.set(budget="none")
        await regional.forget_local()
        trail = steward.trail(regional.objects(other)[0])
        await regional.read(other)
        assert steward.trail(regional.objects(other)[0]) == trail  # still the same read as before

    regional.run(work)


def test_the_warning_comes_once_for_each_budget_and_month(
    regional: Regional, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        for budget in ("0.000001", "0.000002"):
            regional.set(budget=budget)
            for _ in range(2):
                regional.clock.now_s += 60
                await regional.forget_local()
                await regional.read(ino)
        regional.clock.now_s += 40 * DAY_S
        for _ in range(2):
            regional.clock.now_s += 60
            await regional.forget_local()
            await regional.read(ino)

    with caplog.at_level(logging.WARNING, "gsfs.transfer.steward"):
        regional.run(work)
    assert [r.getMessage().count("budget spent") for r in caplog.records] == [1, 1, 1]


def test_refusals_do_not_fill_the_log(regional: Regional, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel asks again for every page that it could not read ahead."""

    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        regional.set(budget="0", budget_action="refuse")
        await regional.forget_local()
        for _ in range(5):
            with pytest.raises(QuotaExceeded):
                await regional.read(ino)
        regional.clock.now_s += 61
        with pytest.raises(QuotaExceeded):
            await regional.read(ino)

    regional.run(work)
    assert len(caplog.records) == 2


def test_what_is_spent_is_told_as_of_now(regional: Regional) -> None:
    """It used to be up to ten seconds old, and to leave out what is stored."""

    async def work() -> None:
        await regional.write(b"file", bytes(MIB))
        first = spent(regional)
        regional.clock.now_s += 3600
        told = await cost(regional.volume, "bucket", None, 31)
        assert Fraction(told["groups"]["bucket"]["total"]) == spent(regional) > first

    regional.run(work)


def test_the_total_is_the_same_however_it_is_grouped(regional: Regional) -> None:
    """Two kinds of lines are the namespace's own; of the two one used to be lost, and each group was rounded."""
    hour, volume = int(regional.clock.now_s // 3600), regional.volume
    volume.store.policies.add_lines(
        LedgerRow(hour - at, bucket, location, "get", "", 1, 0)
        for at, bucket in enumerate(["", "0", str(regional.ino), "99"])
        for location in REGIONS
    )
    volume.store.policies.add_lines(
        LedgerRow(hour, str(regional.ino), location, "egress", WEST, 0, 1) for location in (EAST, EUROPE)
    )
    totals = {by: trio.run(cost, volume, by, None, 31)["total"] for by in By}
    assert len(set(totals.values())) == 1, totals
    groups = trio.run(cost, volume, "bucket", None, 31)["groups"]
    gets = sum(Fraction(PRICES.get_usd(location)) for location in REGIONS)
    assert Fraction(groups["(the namespace itself)"]["requests"]) == 2 * gets
    assert all("E" not in amount for group in groups.values() for amount in group.values())


def test_directories_together_cost_what_is_stored_dead_bytes_and_shared_ones_included(
    regional: Regional,
) -> None:
    volume = regional.volume

    async def work() -> None:
        ino = await regional.write(b"file", b"x" * MIB)
        other = await regional.write(b"other", b"y" * MIB)
        inode = volume.core.inode(ino)
        volume.attributes.truncate(inode, MIB // 4)  # three quarters of its object are dead
        [run] = volume.store.extents.runs(volume.core.inode(other), 0, MIB)
        volume.store.extents.write(inode, MIB // 4, MIB, run.object, 0)  # and it shares the other's
        inode.size = MIB // 4 + MIB
        volume.store.charge(inode)
        volume.store.changed()
        month = Fraction(2 * MIB, 1 << 30) * Fraction(PRICES.storage_usd_per_gib_month(EAST))
        told = await cost(volume, "directory", None, 31)
        assert Fraction(told["total"]) == pytest.approx(month, abs=1e-12)
        alone = sum(month_cost_usd(volume, volume.core.inode(i)) for i in (ino, other))
        assert Fraction(alone) == pytest.approx(month, abs=2e-12)

    regional.run(work)


def test_the_forecast_looks_back_a_week_whatever_is_shown(regional: Regional) -> None:
    hour, volume = int(regional.clock.now_s // 3600), regional.volume
    volume.store.policies.add_lines([LedgerRow(hour - 100, str(regional.ino), EAST, "put", "", 1000, 0)])
    forecasts = {trio.run(cost, volume, "bucket", 30, days)["forecast"] for days in (1, 31)}
    assert len(forecasts) == 1
    assert Decimal(forecasts.pop()) > 0


def test_a_bucket_beside_its_reader_does_not_seem_unread_to_cheapest(regional: Regional) -> None:
    """Reads that crossed no border used to be left out: the next plan moved the bucket away from its reader."""

    async def work() -> None:
        regional.set(home=WEST)
        ino = await regional.write(b"file", bytes(MIB))
        for _ in range(3):
            regional.clock.now_s += 3600
            await regional.forget_local()
            await regional.read(ino)
        assert regional.volume.steward.reads_per_month(regional.bucket) == {WEST: 3.0}

    regional.run(work)


def test_explain_compares_what_is_really_placed_and_tells_what_the_file_costs(regional: Regional) -> None:
    volume = regional.volume
    regional.set(placement=f"push:{EUROPE}")

    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        assert explain(volume, ino)["bytes_to_fetch"] == 0
        await regional.forget_local()
        told = explain(volume, ino)
        assert told["bytes_to_fetch"] == MIB
        assert Fraction(told["read_usd"]) == pytest.approx(READ_USD, abs=1e-12)
        write, read = told["explanations"]
        [chosen] = [a for a in write["alternatives"] if a["chosen"]]
        assert chosen["what"] == f"home {EAST}, and {EUROPE}"
        assert chosen["usd"] == first_month_usd((EAST, EUROPE), WEST, REGIONS, PRICES, {}, MIB)
        assert read["why"] == f"ttl=none: reads leave no replica in {WEST}"
        assert told["month_usd"] == f"{month_cost_usd(volume, volume.core.inode(ino)):f}"
        before = Fraction((await cost(volume, "kind", None, 31))["total"])
        await regional.read(ino)
        after = Fraction((await cost(volume, "kind", None, 31))["total"])
        assert after - before == pytest.approx(Fraction(told["read_usd"]), abs=2e-12)

    regional.run(work)


@pytest.mark.parametrize(
    ("key", "value"), [("placement", "all"), ("ttl", "t_even"), ("budget", "5"), ("on_read", "always")]
)
def test_a_policy_that_would_have_no_effect_without_a_region_is_refused(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"{key}={value}: needs \[mount\] region"):
        admin.check_settings({key: value}, ["local:store"], "")
    assert admin.check_settings({key: value}, ["local:store"], "aws:us-east-1")["policy"] == {key: value}


@pytest.mark.parametrize("setting", ["quota_bytes=-1", "quota_inodes=1.5", "quota_inodes=10KiB"])
def test_a_wrong_quota_is_named(setting: str) -> None:
    key, _, value = setting.partition("=")
    with pytest.raises(InvalidArgument, match=f"^{setting}: takes"):
        admin.check_settings({key: value}, ["local:store"])


def test_a_replica_that_cannot_be_made_for_lack_of_room_is_told_and_leaves_no_empty_file(
    regional: Regional, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = regional.volume

    async def work() -> None:
        ino = await regional.write(b"file", bytes(MIB))
        regional.set(ttl="forever")
        await regional.forget_local()

        async def fail(*_arguments: object, **_named: object) -> None:
            raise InputOutput("cannot be read")

        monkeypatch.setattr(volume.downloads, "fetch", fail)
        [id_] = regional.objects(ino)
        assert await volume.replication.settle([Wanted(id_, LocationId(WEST), None)])
        assert id_ not in volume.cache
        told = admin.status(volume, "/mnt")["replication"]
        assert told["failures"] == [{"object": id_, "location": WEST, "cause": "cannot be read"}]

    regional.run(work)
