"""Ledger, limits, explanations and plans: exact sums, honest reasons."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsfs.errors import ConfigError
from gsfs.model import GIB, ObjectId
from gsfs.policy.bucket import parse_policy
from gsfs.policy.decide import Edges, ReplicaFacts, decide_read, new_memory
from gsfs.policy.explain import explain_read, explain_write
from gsfs.policy.ledger import (
    By,
    Count,
    EntryKey,
    Kind,
    Ledger,
    forecast_usd,
    summarise,
    to_decimal,
    total_usd,
    usd_of,
)
from gsfs.policy.limits import Quota, Verdict, judge_budget
from gsfs.policy.links import shipped_links
from gsfs.policy.placement import decide_write, source_order
from gsfs.policy.plan import Action, Fetch, PlannedObject, PlanSummary, plan, plan_object
from gsfs.policy.prices import PriceTable, shipped_prices
from gsfs.policy.ttl import Trail

EAST, AZURE, GCP = "aws:us-east-1", "azure:eastus", "gcp:us-east1-b"
REGIONS = (EAST, AZURE, GCP)
PRICES, LINKS = shipped_prices(), shipped_links()
MIB16 = 1 << 24


def test_a_gib_for_a_month_costs_the_list_price_to_the_last_digit() -> None:
    ledger = Ledger()
    ledger.stored("b", EAST, GIB, 0, 730 * 3_600_000)
    assert total_usd(ledger, PRICES) == Fraction("0.023")
    assert len(ledger.lines) == 730


def test_a_read_across_regions_costs_egress_and_a_get() -> None:
    ledger = Ledger()
    ledger.request(10.0, "b", EAST, Kind.GET, size_bytes=GIB, reader=AZURE)
    ledger.request(10.0, "b", EAST, Kind.GET, size_bytes=GIB, reader=EAST)
    assert to_decimal(total_usd(ledger, PRICES)) == Decimal("0.0900008")


def test_lists_and_heads_are_billed_and_deletes_are_free() -> None:
    def price(kind: Kind) -> Fraction:
        return usd_of(EntryKey(0, "b", EAST, kind), Count(1_000_000, 0), PRICES)

    assert price(Kind.LIST) == price(Kind.PUT) == 5
    assert price(Kind.HEAD) == price(Kind.GET) == Fraction("0.4")
    assert price(Kind.DELETE) == 0


amounts = st.lists(
    st.tuples(
        st.sampled_from(REGIONS),
        st.sampled_from(REGIONS),
        st.integers(0, 1 << 40),
        st.integers(0, 10**10),
        st.integers(0, 10**8),
    ),
    max_size=20,
)


@given(amounts)
def test_parts_of_every_grouping_add_up_exactly(rows: list[tuple[str, str, int, int, int]]) -> None:
    ledger = Ledger()
    for src, dst, size, since, lasted in rows:
        ledger.request(since / 1000, "b", src, Kind.GET, size_bytes=size, reader=dst)
        ledger.request(since / 1000, "c", dst, Kind.PUT, size_bytes=size)
        ledger.stored("b", dst, size, since, since + lasted)
    total = total_usd(ledger, PRICES)
    for by in By:
        groups = summarise(ledger, PRICES, by)
        assert sum((sum(parts.values(), Fraction(0)) for parts in groups.values()), Fraction(0)) == total


@given(st.integers(0, 1 << 40), st.integers(0, 10**9), st.integers(0, 10**9))
def test_splitting_at_hours_loses_no_byte_millisecond(size: int, since: int, lasted: int) -> None:
    ledger = Ledger()
    ledger.stored("b", EAST, size, since, since + lasted)
    assert sum(count.amount for _, count in ledger) == size * lasted


def test_unpriced_location_is_an_error_not_free() -> None:
    with pytest.raises(ConfigError, match="no price for storage at nowhere"):
        usd_of(EntryKey(0, "b", "nowhere", Kind.STORAGE), Count(0, 1), PriceTable())


def test_forecast_continues_the_last_week_and_what_is_stored_now() -> None:
    ledger = Ledger()
    for hour in range(24):
        ledger.request(hour * 3600.0, "b", EAST, Kind.PUT)
    assert forecast_usd(ledger, PRICES, 23, 30, {}) == 30 * 24 * Fraction("0.000005")
    young = Ledger()
    young.request(0.0, "b", EAST, Kind.PUT)
    assert forecast_usd(young, PRICES, 0, 30, {}) == 30 * Fraction("0.000005")  # not 720 times its first hour
    month = forecast_usd([], PRICES, 23, 30, {EAST: GIB})
    assert month == Fraction("0.023") * 30 * 24 / 730
    assert forecast_usd([], PRICES, 23, 30) == 0


def test_budget_warns_then_refuses_only_reads_that_leave_the_region() -> None:
    policy = parse_policy({"budget": "10", "budget_action": "refuse"})

    def verdict(spent: str, leaves: bool) -> Verdict:
        return judge_budget("b", policy, Decimal(spent), leaves).verdict

    assert verdict("7.99", True) is Verdict.GO
    assert verdict("8", True) is Verdict.WARN
    assert verdict("10.01", True) is Verdict.REFUSE
    assert verdict("10.01", False) is Verdict.WARN
    refused = judge_budget("b", policy, Decimal("9.99"), True, Decimal("0.02"))
    assert refused.verdict is Verdict.REFUSE
    assert "gsfs bucket set b budget=" in refused.message
    small = parse_policy({"budget": "0.0005"})
    assert "0.0004567 of 0.0005000 USD" in judge_budget("b", small, Decimal("0.00045671"), True).message
    assert judge_budget("b", parse_policy({}), Decimal(10**9), True).verdict is Verdict.GO


def test_quota_refuses_growth_beyond_it_and_nothing_else() -> None:
    quota = Quota("quota_bytes", 1024, 1000, "bytes")
    assert quota.allows(24)
    assert not quota.allows(25)
    assert Quota("quota_bytes", 1024, 5000, "bytes").allows(0)
    assert Quota("quota_bytes", None, 5000, "bytes").allows(1 << 60)
    assert "b: 1000 of 1024 bytes used; to lift it: gsfs bucket set b quota_bytes=" in quota.refusal("b")


def test_explanation_of_a_read_names_rule_numbers_and_alternatives() -> None:
    policy, edges, trail = parse_policy({"ttl": "adaptive"}), Edges(PRICES), Trail()
    memory, order = new_memory(GCP, REGIONS, PRICES), source_order(GCP, REGIONS, PRICES, LINKS)
    home = (ReplicaFacts(EAST, permanent=True), ReplicaFacts(AZURE, permanent=True))
    decision = decide_read(
        policy, GCP, 0.0, MIB16, home, order=order, edges=edges, trail=trail, memory=memory
    )
    assert decision is not None
    before = memory.to_bytes()
    told = explain_read(policy, GCP, 5.0, MIB16, home, order=order, edges=edges, trail=trail, memory=memory)
    assert memory.to_bytes() == before
    assert told.rule == "ttl=adaptive"
    assert told.numbers["ttl_days"] == pytest.approx(decision.ttl_s / 86_400)
    sources = {a.what: a for a in told.alternatives if a.unit == "per read"}
    assert sources[f"read from {decision.source}"].chosen
    assert sources[f"read from {EAST}"].usd > sources[f"read from {AZURE}"].usd
    ttls = [a for a in told.alternatives if a.unit == "expected"]
    best = next(a for a in ttls if "best" in a.what)
    assert all(best.usd <= other.usd + 1e-12 for other in ttls)
    assert json.dumps(told.to_json())
    assert any(line.startswith("rule: ttl=adaptive") for line in told.lines())


def test_explanation_at_home_and_without_replicas_says_so() -> None:
    policy, edges, trail = parse_policy({}), Edges(PRICES), Trail()
    memory, order = new_memory(EAST, REGIONS, PRICES), source_order(EAST, REGIONS, PRICES, LINKS)
    home = (ReplicaFacts(EAST, permanent=True),)
    at_home = explain_read(policy, EAST, 0.0, 1, home, order=order, edges=edges, trail=trail, memory=memory)
    assert "permanent replica is in aws:us-east-1" in at_home.why
    nowhere = explain_read(policy, EAST, 0.0, 1, (), order=order, edges=edges, trail=trail, memory=memory)
    assert nowhere.why == "there is no replica to read"


def test_explanation_of_a_write_compares_every_home() -> None:
    policy, reads = parse_policy({"placement": "cheapest"}), {GCP: 0.5}
    decision = decide_write(policy, EAST, REGIONS, PRICES, reads_per_month=reads)
    told = explain_write(decision, policy, EAST, REGIONS, PRICES, reads_per_month=reads, size_bytes=MIB16)
    costs = {a.what: a.usd for a in told.alternatives}
    assert costs[f"home {decision.home}"] == min(costs.values())
    assert [a.what for a in told.alternatives if a.chosen] == [f"home {decision.home}"]


def item(number: int, *replicas: ReplicaFacts, size: int = GIB, fetch: Fetch | None = None) -> PlannedObject:
    return PlannedObject(ObjectId(number), size, replicas, EAST, fetch or Fetch())


def test_plan_prices_every_move_before_anything_moves() -> None:
    """The machine that copies is in GCP: an object is fetched there once, by three GETs, and sent on from there."""
    summary = PlanSummary()
    items = [
        item(1, ReplicaFacts(EAST, True), fetch=Fetch(EAST, GIB, 3)),
        item(2, ReplicaFacts(EAST, True), ReplicaFacts(AZURE, False, 50.0)),  # this one is in the cache
    ]
    policy = parse_policy({"placement": "all"})
    moves = list(plan(items, policy, REGIONS, PRICES, 0.0, via=GCP, summary=summary))
    assert [(m.action, m.region) for m in moves] == [
        (Action.COPY, AZURE),
        (Action.COPY, GCP),
        (Action.COPY, GCP),
        (Action.KEEP, AZURE),
    ]
    there, on = (Fraction(PRICES.egress_usd_per_gib(*pair)) for pair in ((EAST, GCP), (GCP, AZURE)))
    put_azure, put_gcp = Fraction(PRICES.put_usd(AZURE)), Fraction(PRICES.put_usd(GCP))
    assert [m.usd for m in moves] == [
        there + 3 * Fraction("0.0000004") + on + put_azure,
        put_gcp,
        put_gcp,
        0,
    ]
    assert summary.bytes_moved == 3 * GIB
    assert summary.monthly_before_usd == 2 * Fraction("0.023")
    assert summary.monthly_after_usd == 2 * (Fraction("0.023") + Fraction("0.0208") + Fraction("0.02"))
    assert json.dumps(summary.to_json())


def test_plan_copies_before_it_drops_and_spares_pinned_replicas() -> None:
    policy = parse_policy({"placement": "single", "home": GCP})
    moves = plan_object(
        item(
            1,
            ReplicaFacts(EAST, True),
            ReplicaFacts(AZURE, True, pinned=True),
            fetch=Fetch(AZURE, GIB, 1),
        ),
        policy,
        REGIONS,
        PRICES,
        0.0,
    )
    assert [(m.action, m.region) for m in moves] == [(Action.COPY, GCP), (Action.DROP, EAST)]
    assert moves[0].source == AZURE


def test_plan_shortens_what_the_new_rule_would_not_keep() -> None:
    have = item(1, ReplicaFacts(EAST, True), ReplicaFacts(AZURE, False, expires_s=1e12))
    forever = plan_object(have, parse_policy({"ttl": "forever"}), REGIONS, PRICES, 1e9)
    fixed = plan_object(have, parse_policy({"ttl": "fixed:1d"}), REGIONS, PRICES, 1e9)
    assert [m.action for m in forever] == [Action.RETIME]
    assert [(m.action, m.expires_s) for m in fixed] == [(Action.RETIME, 1e9 + 86_400)]


@given(
    st.sets(st.sampled_from(REGIONS), min_size=1),
    st.sampled_from(["single", "local", f"push:{GCP}", "all", "cheapest"]),
)
def test_a_plan_carried_out_leaves_nothing_to_plan_and_never_no_replica(
    have: set[str], placement: str
) -> None:
    policy = parse_policy({"placement": placement})
    replicas = {region: ReplicaFacts(region, True) for region in have}
    for move in plan_object(item(1, *replicas.values()), policy, REGIONS, PRICES, 0.0):
        if move.action is Action.DROP:
            del replicas[move.region]
        else:
            replicas[move.region] = ReplicaFacts(move.region, True)
        assert replicas
    assert plan_object(item(1, *replicas.values()), policy, REGIONS, PRICES, 0.0) == []
