"""Placement, sources, expiry and eviction: where bytes are, and that the last copy is never given up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsfs.policy.bucket import parse_policy
from gsfs.policy.decide import Edges, ReplicaFacts, decide_read, new_memory
from gsfs.policy.eviction import Cached, choose_victims
from gsfs.policy.expiry import early_delete_usd, expired, paid_until_s
from gsfs.policy.links import shipped_links
from gsfs.policy.placement import choose_source, decide_write, home_costs, source_order
from gsfs.policy.prices import parse_prices, shipped_prices
from gsfs.policy.ttl import Trail

EAST, WEST, AZURE, GCP = "aws:us-east-1", "aws:us-west-2", "azure:eastus", "gcp:us-east1-b"
REGIONS = (EAST, WEST, AZURE, GCP)
PRICES, LINKS = shipped_prices(), shipped_links()
MIB16 = 1 << 24


@pytest.mark.parametrize(
    ("placement", "writer", "permanent"),
    [
        ("single", WEST, (EAST,)),
        ("local", WEST, (WEST,)),
        ("local", "moon:1", (EAST,)),
        (f"push:{GCP}+{AZURE}", WEST, (EAST, GCP, AZURE)),
        (f"push:{EAST}+{GCP}", WEST, (EAST, GCP)),
        ("all", WEST, (WEST, EAST, AZURE, GCP)),
    ],
)
def test_placement_puts_objects_where_its_name_says(
    placement: str, writer: str, permanent: tuple[str, ...]
) -> None:
    decision = decide_write(parse_policy({"placement": placement}), writer, REGIONS, PRICES)
    assert decision.permanent == permanent
    assert placement.partition(":")[0] in decision.why


def test_home_setting_overrides_the_first_location() -> None:
    assert decide_write(parse_policy({"home": GCP}), WEST, REGIONS, PRICES).home == GCP


def test_cheapest_follows_the_readers_when_they_read_much_and_storage_when_nobody_reads() -> None:
    policy = parse_policy({"placement": "cheapest"})
    reads = {WEST: 0.3, AZURE: 0.01}
    assert decide_write(policy, WEST, REGIONS, PRICES, reads_per_month=reads).home == WEST
    costs = home_costs("moon:1", REGIONS, PRICES, {}, MIB16)
    assert min(costs, key=lambda r: costs[r]) == GCP


def test_sources_are_local_first_then_cheapest_then_fastest() -> None:
    order = source_order(EAST, REGIONS, PRICES, LINKS)
    assert order == (EAST, WEST, AZURE, GCP)
    assert source_order(WEST, ("aws:eu-west-1", "aws:us-west-1", EAST), PRICES, LINKS)[0] == "aws:us-west-1"


def test_source_skips_open_breakers_but_tries_one_when_all_are_open() -> None:
    assert choose_source(REGIONS, {WEST, GCP}) == WEST
    assert choose_source(REGIONS, {WEST, GCP}, broken={WEST}) == GCP
    assert choose_source(REGIONS, {WEST, GCP}, broken={WEST, GCP}) == WEST
    assert choose_source(REGIONS, set()) is None


def test_read_elsewhere_makes_a_replica_with_a_ttl_and_read_at_home_does_not() -> None:
    policy, edges = parse_policy({"ttl": "t_even"}), Edges(PRICES)
    home = (ReplicaFacts(EAST, permanent=True),)
    there = decide_read(
        policy, GCP, 50.0, MIB16, home, order=source_order(GCP, REGIONS, PRICES, LINKS), edges=edges,
        trail=Trail(), memory=new_memory(GCP, REGIONS, PRICES),
    )  # fmt: skip
    assert there is not None
    assert (there.source, there.replicate) == (EAST, True)
    assert there.ttl_s == pytest.approx(PRICES.edge(EAST, GCP).t_even_s(MIB16))
    assert there.expires_s == 50.0 + there.ttl_s
    at_home = decide_read(
        policy, EAST, 50.0, MIB16, home, order=source_order(EAST, REGIONS, PRICES, LINKS), edges=edges,
        trail=Trail(), memory=new_memory(EAST, REGIONS, PRICES),
    )  # fmt: skip
    assert at_home is not None
    assert (at_home.source, at_home.replicate, at_home.ttl_s) == (EAST, False, 0.0)


def test_ttl_is_reckoned_against_permanent_replicas_though_a_nearer_one_serves() -> None:
    """What expires cannot be counted on: N is the price of the cheapest replica that stays."""
    replicas = (ReplicaFacts(GCP, permanent=True), ReplicaFacts(WEST, False, expires_s=1e9))
    found = decide_read(
        parse_policy({"ttl": "t_even"}), EAST, 0.0, MIB16, replicas,
        order=source_order(EAST, REGIONS, PRICES, LINKS), edges=Edges(PRICES), trail=Trail(),
        memory=new_memory(EAST, REGIONS, PRICES),
    )  # fmt: skip
    assert found is not None
    assert found.source == WEST
    assert found.edge is not None
    assert found.edge.src == GCP


replicas_strategy = st.lists(
    st.builds(
        ReplicaFacts,
        region=st.sampled_from(REGIONS),
        permanent=st.booleans(),
        expires_s=st.floats(0, 100),
        created_s=st.floats(0, 50),
        pinned=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda r: r.region,
)


@given(replicas_strategy, st.floats(0, 200))
def test_expiry_never_removes_the_last_replica_nor_a_permanent_or_pinned_one(
    replicas: list[ReplicaFacts], now_s: float
) -> None:
    gone = expired(replicas, now_s, PRICES)
    assert not replicas or len(gone) < len(replicas)
    assert all(not r.permanent and not r.pinned and r.expires_s < now_s for r in gone)


def test_minimum_age_is_waited_for_and_its_rest_is_charged() -> None:
    table = parse_prices("kind,region,dst,value\nstorage,x,,0.01\nput,x,,0\nget,x,,0\nmin_age,x,,30\n", "t")
    replica = ReplicaFacts("x", False, expires_s=100.0, created_s=0.0)
    other = ReplicaFacts("y", True)
    assert paid_until_s(replica, table) == 30 * 86_400
    assert expired([replica, other], 86_400.0, table) == []
    assert expired([replica, other], 31 * 86_400.0, table) == [replica]
    month = 0.01 / (730 * 3600) * 20 * 86_400
    assert early_delete_usd(replica, 1 << 30, 10 * 86_400.0, table) == pytest.approx(month)
    assert early_delete_usd(replica, 1 << 30, 40 * 86_400.0, table) == 0


pieces = st.lists(
    st.builds(
        Cached,
        key=st.integers(0, 10_000),
        size_bytes=st.integers(0, 1000),
        last_used_s=st.floats(0, 100),
        fetch_usd=st.floats(0, 1),
        evictable=st.booleans(),
    ),
    max_size=20,
    unique_by=lambda p: p.key,
)


@given(pieces, st.integers(-5, 5000))
def test_eviction_frees_enough_and_no_more_and_never_what_must_stay(cached: list[Cached], need: int) -> None:
    victims = choose_victims(cached, need, 100.0)
    assert all(v.evictable for v in victims)
    assert len({v.key for v in victims}) == len(victims)
    possible = sum(p.size_bytes for p in cached if p.evictable)
    assert sum(v.size_bytes for v in victims) >= min(need, possible)
    assert sum(v.size_bytes for v in victims[:-1]) < max(need, 1)


def test_eviction_prefers_idle_large_and_cheap_to_fetch() -> None:
    old = Cached(1, 100, 0.0, 1.0)
    new = Cached(2, 100, 90.0, 1.0)
    cheap = Cached(3, 100, 90.0, 0.01)
    assert [p.key for p in choose_victims([new, old, cheap], 300, 100.0)] == [3, 1, 2]


def test_eviction_by_rent_costs_less_than_lru_when_fetch_prices_differ() -> None:
    """A cache of 50 of 200 equal pieces, a fifth of which is twenty times dearer to fetch."""

    def cost(by_rent: bool) -> float:
        chance, cache, spent = random.Random(3), {}, 0.0
        for now in range(20_000):
            key = int(chance.random() ** 2 * 200)
            price = 0.02 if key % 5 == 0 else 0.001
            if key not in cache:
                spent += price
            cache[key] = Cached(key, 1000, float(now), price)
            if len(cache) > 50:
                oldest = min(cache.values(), key=lambda p: p.last_used_s)
                victim = choose_victims(cache.values(), 1, float(now))[0] if by_rent else oldest
                del cache[victim.key]
        return spent

    assert cost(by_rent=True) < 0.8 * cost(by_rent=False)
