"""Days of accesses over three emulated regions on a virtual clock: every byte is accounted for."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from gsfs.errors import ObjectExists, ObjectNotFound
from gsfs.policy.bucket import parse_policy
from gsfs.policy.ledger import Kind, total_usd
from gsfs.policy.prices import parse_prices, shipped_prices
from gsfs.sim.emulate import EmulatedBucket, EmulatedLocation
from gsfs.sim.world import REGION_SETS, World, make_world

REGIONS = REGION_SETS[3]
DAY_MS = 86_400_000
SETTINGS = [
    {"placement": "local", "ttl": "adaptive"},
    {"placement": "single", "ttl": "t_even"},
    {"placement": f"push:{REGIONS[1]}", "ttl": "fixed:2d"},
    {"placement": "all"},
    {"placement": "cheapest", "ttl": "ewma:4"},
    {"placement": "local", "ttl": "forever"},
    {"placement": "single", "ttl": "none"},
]


def live(settings: dict[str, str], world: World, days: int = 60) -> EmulatedBucket:
    """Writes, reads and deletes for ``days`` of virtual time."""
    chance, bucket = random.Random(7), EmulatedBucket(parse_policy(settings), world)
    alive: list[int] = []
    for number in range(days * 6):
        bucket.advance(bucket.now_ms + chance.randrange(2 * DAY_MS // 6))
        if number % 4 == 0:
            bucket.write(number, chance.randrange(1, 1 << 26), chance.choice(REGIONS))
            alive.append(number)
        elif number % 37 == 0:
            bucket.remove(alive.pop(chance.randrange(len(alive))))
        else:
            recent = alive[-1 - min(len(alive) - 1, int(chance.expovariate(0.1)))]
            bucket.read(recent, chance.choice(REGIONS))
        assert all(replicas for key, replicas in bucket.replicas.items())
    return bucket


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "/".join(s.values()))
def test_ledger_total_equals_what_the_locations_counted(settings: dict[str, str]) -> None:
    world = make_world(REGIONS)
    bucket = live(settings, world)
    ledger = bucket.close_books()
    counted: dict[tuple[str, Kind, str], tuple[int, int]] = {}
    for key, count in ledger:
        name = (key.region, key.kind, key.dst)
        before = counted.get(name, (0, 0))
        counted[name] = (before[0] + count.requests, before[1] + count.amount)
    expected = Fraction(0)
    for region, location in bucket.locations.items():
        assert counted.get((region, Kind.PUT, ""), (0, 0)) == (location.puts, location.bytes_in)
        assert counted.get((region, Kind.GET, ""), (0, 0))[0] == location.gets
        assert counted.get((region, Kind.DELETE, ""), (0, 0))[0] == location.deletes
        byte_ms = location.settled_byte_ms(bucket.now_ms)
        assert counted.get((region, Kind.STORAGE, ""), (0, 0))[1] == byte_ms
        prices = shipped_prices()
        expected += location.puts * Fraction(prices.put_usd(region)) + location.gets * Fraction(
            prices.get_usd(region)
        )
        expected += Fraction(byte_ms, (1 << 30) * 730 * 3_600_000) * Fraction(
            prices.storage_usd_per_gib_month(region)
        )
        for reader, size in location.sent_bytes.items():
            if reader != region:
                assert counted[region, Kind.EGRESS, reader] == (0, size)
                expected += Fraction(size, 1 << 30) * Fraction(prices.egress_usd_per_gib(region, reader))
    assert total_usd(ledger, world.prices) == expected


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "/".join(s.values()))
def test_replica_table_and_locations_agree_at_the_end(settings: dict[str, str]) -> None:
    bucket = live(settings, make_world(REGIONS), days=40)
    for region, location in bucket.locations.items():
        assert set(location.objects) == {key for key, have in bucket.replicas.items() if region in have}


def test_replicas_expire_at_their_own_moment_and_home_never_does() -> None:
    bucket = EmulatedBucket(parse_policy({"ttl": "fixed:2d"}), make_world(REGIONS))
    bucket.write(1, 1000, REGIONS[0])
    bucket.read(1, REGIONS[2])
    bucket.advance(DAY_MS)
    bucket.read(1, REGIONS[2])
    bucket.advance(3 * DAY_MS - 1)
    assert set(bucket.replicas[1]) == {REGIONS[0], REGIONS[2]}
    bucket.advance(400 * DAY_MS)
    assert set(bucket.replicas[1]) == {REGIONS[0]}
    assert bucket.locations[REGIONS[2]].byte_ms == 1000 * (3 * DAY_MS + 1)


def test_minimum_age_keeps_a_replica_that_would_be_billed_anyway() -> None:
    rows = f"kind,region,dst,value\nmin_age,{REGIONS[2]},,30\n"
    world = make_world(REGIONS, shipped_prices().overridden(parse_prices(rows, "t")))
    bucket = EmulatedBucket(parse_policy({"ttl": "fixed:2d"}), world)
    bucket.write(1, 1000, REGIONS[0])
    bucket.read(1, REGIONS[2])
    bucket.advance(29 * DAY_MS)
    gets = bucket.locations[REGIONS[0]].gets
    bucket.read(1, REGIONS[2])
    assert bucket.locations[REGIONS[0]].gets == gets
    bucket.advance(32 * DAY_MS)
    assert set(bucket.replicas[1]) == {REGIONS[0]}


def test_emulated_location_never_overwrites_and_never_invents() -> None:
    location = EmulatedLocation("r")
    location.put(1, 10, 0)
    with pytest.raises(ObjectExists):
        location.put(1, 10, 0)
    with pytest.raises(ObjectNotFound):
        location.get(2, "r")
    with pytest.raises(ObjectNotFound):
        location.delete(2, 0)
    bucket = EmulatedBucket(parse_policy({}), make_world(REGIONS))
    with pytest.raises(ObjectNotFound):
        bucket.read(5, REGIONS[0])
