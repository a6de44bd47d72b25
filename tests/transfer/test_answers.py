"""What gsfs says about money and decisions, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import trio

from gsfs import admin
from gsfs.answers import cost, explain
from gsfs.errors import InvalidArgument
from gsfs.model import MIB, ROOT_INO
from gsfs.namespace.policies import LedgerRow
from gsfs.policy.prices import load_prices
from tests.support.regions import DAY_S, EAST, EUROPE, START_S, WEST, Regional
from tests.support.volumes import ROOT

HOUR = int(START_S // 3600)
PRICES = load_prices()


@pytest.fixture
def regional(tmp_path: Path) -> Iterator[Regional]:
    made = Regional(tmp_path, placement=f"push:{EUROPE}", ttl="fixed:2d", budget="12.5")
    yield made
    made.close()


def ledger(regional: Regional, *rows: tuple[int, str, str, str, int, int]) -> None:
    """(hours ago, location, kind, dst, requests, amount)."""
    regional.volume.store.policies.add_lines(
        LedgerRow(HOUR - ago, str(regional.ino), *where, requests, amount)
        for ago, *where, requests, amount in rows
    )


def test_the_forecast_is_a_weeks_flow_carried_on_and_what_is_stored_now(regional: Regional) -> None:
    async def work() -> None:
        await regional.write(b"file", b"x" * MIB)

    regional.run(work)
    ledger(
        regional,
        (71, EAST, "get", "", 1000, 0),  # three days of history: 72 hours
        (5, EAST, "egress", WEST, 0, 3 * 2**30),
        (24 * 8, EAST, "egress", WEST, 0, 10**15),  # more than a week ago: means nothing
    )
    told = trio.run(cost, regional.volume, "kind", 30, 31)
    once = (
        1000 * Fraction(PRICES.get_usd(EAST)) + 3 * Fraction(PRICES.egress_usd_per_gib(EAST, WEST))
        + Fraction(PRICES.put_usd(EAST)) + Fraction(PRICES.put_usd(EUROPE))
        + Fraction(MIB, 2**30) * sum(Fraction(PRICES.egress_usd_per_gib(WEST, to)) for to in (EAST, EUROPE))
    )  # fmt: skip
    month = Fraction(MIB, 2**30) * sum(
        Fraction(PRICES.storage_usd_per_gib_month(at)) for at in (EAST, EUROPE)
    )
    expected = once * 30 * 24 / 72 + month * 30 * 24 / 730
    assert abs(Fraction(told["forecast"]) - expected) < Fraction(1, 10**11)


def test_cost_by_directory_is_the_storage_of_what_lies_below_wherever_it_is_kept(regional: Regional) -> None:
    volume = regional.volume

    async def work() -> None:
        await regional.write(b"above", b"x" * MIB)
        deep = volume.names.mkdir(
            volume.names.mkdir(regional.ino, b"one", 0o755, ROOT).ino, b"two", 0o755, ROOT
        )
        inode = volume.names.create(deep.ino, b"below", 0o644, ROOT)
        handle = volume.content.open_inode(inode, 2)
        await volume.content.write(handle, 0, b"y" * (MIB // 2))
        volume.content.release(handle)
        await volume.flush()
        groups = (await cost(volume, "directory", None, 31))["groups"]
        a_mib = Fraction(MIB, 2**30) * sum(
            Fraction(PRICES.storage_usd_per_gib_month(at)) for at in (EAST, EUROPE)
        )
        assert {path: Fraction(group["total"]) for path, group in groups.items()} == {
            "/bucket": pytest.approx(a_mib, abs=1e-12),
            "/bucket/one": pytest.approx(a_mib / 2, abs=1e-12),
        }

    regional.run(work)


def test_explain_of_a_directory_is_its_buckets_decision(regional: Regional) -> None:
    told = explain(regional.volume, regional.ino)
    assert told["object"] is None
    assert [answer["rule"] for answer in told["explanations"]] == ["placement=push", "ttl=fixed:2d"]
    assert "not yet read in aws:us-west-2" in "\n".join(told["lines"])
    with pytest.raises(InvalidArgument):
        explain(regional.volume, ROOT_INO)


def test_a_bucket_shows_what_it_has_cost_since_the_month_began_and_its_budget(regional: Regional) -> None:
    ledger(regional, (1, EAST, "egress", WEST, 0, 2**31), (24 * 40, EAST, "egress", WEST, 0, 2**40))
    row = admin.show_bucket(regional.volume, "bucket")
    assert Decimal(row["spent_usd_this_month"]) == 2 * PRICES.egress_usd_per_gib(EAST, WEST)
    assert row["budget_usd_per_month"] == "12.5"
    assert admin.status(regional.volume, "/mnt")["buckets"] == [row]


def test_status_tells_what_replication_does_and_what_failed(regional: Regional) -> None:
    volume = regional.volume

    async def work() -> None:
        ino = await regional.write(b"file", b"x" * MIB)
        await regional.forget_local()
        await regional.read(ino)
        assert volume.replication.expire(START_S + 3 * DAY_S) == 1
        told = admin.status(volume, "/mnt")["replication"]
        assert told == {"waiting": 0, "failed": 0, "expired": 1, "failures": []}

    regional.run(work)
