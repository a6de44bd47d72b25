"""Dead bytes are given up where that costs less than keeping them, and not before."""

from __future__ import annotations

import pytest

from gsfs.model import MIB
from gsfs.policy.compaction import pays_off
from gsfs.policy.decide import ReplicaFacts
from gsfs.policy.prices import parse_prices, shipped_prices

PRICES = shipped_prices()
EAST, WEST, GCP, SYDNEY = "aws:us-east-1", "aws:us-west-2", "gcp:us-east1", "aws:ap-southeast-2"
DAY_S = 86_400.0
HALF = (16 * MIB, 8 * MIB)


@pytest.mark.parametrize(
    ("sizes", "home", "via", "worth"),
    [
        (HALF, WEST, WEST, True),  # a PUT for 24 MiB-months of storage
        (HALF, EAST, WEST, True),  # 0.02 a GiB on the way, 0.069 saved
        (HALF, WEST, GCP, False),  # 0.12 a GiB on the way
        ((16 * MIB, 1 * MIB), WEST, GCP, True),  # little has to travel
        ((20_000, 10_000), EAST, EAST, False),  # the PUT costs more than a few kilobytes
        (HALF, WEST, "", True),
    ],
)
def test_a_copy_is_made_where_three_months_of_the_dead_bytes_pay_for_it(
    sizes: tuple[int, int], home: str, via: str, worth: bool
) -> None:
    assert pays_off(*sizes, [ReplicaFacts(home, True)], via, PRICES, 0.0) is worth


def test_a_minimum_age_is_waited_for_when_its_rest_costs_more_than_is_saved() -> None:
    aged = PRICES.overridden(parse_prices(f"kind,region,dst,value\nmin_age,{WEST},,180\n", "t"))
    replicas = [ReplicaFacts(WEST, True, created_s=0.0)]
    assert not pays_off(*HALF, replicas, WEST, aged, 10 * DAY_S)
    assert pays_off(*HALF, replicas, WEST, aged, 150 * DAY_S)
    assert pays_off(*HALF, replicas, WEST, aged, 190 * DAY_S)


def test_what_expires_by_itself_is_not_sent_again() -> None:
    replicas = [ReplicaFacts(WEST, True), ReplicaFacts(SYDNEY, False, expires_s=1e12)]
    assert pays_off(*HALF, replicas, WEST, PRICES, 0.0)
