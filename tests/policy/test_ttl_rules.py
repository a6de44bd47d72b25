"""TTL rules: what each answers, and the bounds that are promised."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsfs.errors import DatabaseCorrupt
from gsfs.policy.credit import SAFE_RATIO, SPARE, CreditAccount, Slot, loss_at_worst
from gsfs.policy.histogram import (
    BIN_END_S,
    BINS,
    CONTEXTS,
    FIRST_READ,
    HORIZON_SLOTS,
    LARGEST_UNIT,
    SLOTS_PER_T_EVEN,
    GapHistogram,
    bin_of,
    context_of,
)
from gsfs.policy.prices import FOREVER_S
from gsfs.policy.skystore import SkyStoreTtl
from gsfs.policy.ttl import (
    FOREVER,
    NONE,
    AdaptiveTtl,
    BreakEvenTtl,
    EwmaTtl,
    FixedTtl,
    RegionMemory,
    Trail,
    TtlRule,
    forgettable,
)
from gsfs.sim.optimum import Clairvoyant

T_EVEN_S = 86_400.0
RULES: list[TtlRule] = [
    NONE,
    FOREVER,
    FixedTtl("fixed:1h", 3600.0),
    BreakEvenTtl(),
    EwmaTtl(),
    AdaptiveTtl(),
    SkyStoreTtl(),
]

gaps_of_one_object = st.lists(st.floats(0.0, 5 * T_EVEN_S), min_size=0, max_size=30)
objects = st.lists(
    st.tuples(st.floats(0, 10 * T_EVEN_S), st.floats(0.001, 1000.0), gaps_of_one_object),
    min_size=1,
    max_size=12,
)


def reads_of(things: Iterable[tuple[float, float, list[float]]]) -> list[tuple[float, int, float]]:
    """(time, object, size) of every read, in order."""
    reads = []
    for key, (begin, size, gaps) in enumerate(things):
        now = begin
        reads.append((now, key, size))
        for gap in gaps:
            now += gap
            reads.append((now, key, size))
    return sorted(reads)


def replay(
    rule: TtlRule, reads: Iterable[tuple[float, int, float]], memory: RegionMemory
) -> tuple[float, float]:
    """(cost, optimum) when a byte's transfer costs 1, and its storage 1 per T_even."""
    cost, trails = 0.0, {}
    for now, key, size in reads:
        per_s = size / T_EVEN_S
        if key not in trails:
            trails[key] = (Trail(), Clairvoyant.first(now, size, 0.0), per_s)
            cost += size
        else:
            trail, best, per_s = trails[key]
            gap = now - trail.last_read_s
            best.read(now, size, 0.0, per_s)
            cost += min(gap, trail.ttl_s) * per_s + (size if gap > trail.ttl_s else 0.0)
        rule.after_read(memory, trails[key][0], now, size, per_s)
    cost += sum(trail.ttl_s * per_s for trail, _, per_s in trails.values())
    return cost, sum(best.least_usd() for _, best, _ in trails.values())


@settings(max_examples=300, deadline=None)
@given(objects)
def test_t_even_never_costs_more_than_twice_the_optimum(
    things: list[tuple[float, float, list[float]]],
) -> None:
    cost, optimum = replay(BreakEvenTtl(), reads_of(things), RegionMemory(T_EVEN_S))
    assert cost <= 2.0 * optimum * (1 + 1e-9)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(0.0, 5.0), max_size=40),
    st.floats(1e-9, 1.0),
    st.floats(1e-9, 1.0),
)
def test_t_even_with_request_prices_stays_within_twice_an_optimum_that_pays_them(
    gaps_in_t_even: list[float], fetch_usd: float, put_usd: float
) -> None:
    """When every transfer costs N_eff = fetch + PUT, whoever makes it."""
    miss_usd, per_s = fetch_usd + put_usd, 1e-6
    t_even_s = miss_usd / per_s
    cost = (
        miss_usd
        + sum(min(g * miss_usd, miss_usd) + (miss_usd if g > 1 else 0) for g in gaps_in_t_even)
        + miss_usd
    )
    optimum = miss_usd + sum(min(g * t_even_s * per_s, miss_usd) for g in gaps_in_t_even)
    trail, now, told = Trail(), 0.0, 0.0
    for gap in [0.0, *(g * t_even_s for g in gaps_in_t_even)]:
        now += gap
        told = BreakEvenTtl().after_read(RegionMemory(t_even_s), trail, now, miss_usd, per_s, put_usd)
    assert told == pytest.approx(t_even_s)
    assert cost <= 2.0 * optimum * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(objects, st.integers(0, 40))
def test_what_the_histogram_chose_never_loses_more_than_the_spare(
    things: list[tuple[float, float, list[float]]], seed: int
) -> None:
    """The invariant of the bound, after every read of every trace: losses so far, and those still possible."""
    memory, trails = RegionMemory(T_EVEN_S), {}
    memory.account.draws = seed
    for now, key, size in reads_of(things):
        trail = trails.setdefault(key, Trail())
        ttl_s = AdaptiveTtl().after_read(memory, trail, now, size, size / T_EVEN_S)
        assert 0 <= ttl_s <= T_EVEN_S * (1 + 1e-9)
        account = memory.account
        reserve = sum(s.reserve_usd((i - account.slot) * account.slot_s) for i, s in account.slots.items())
        assert reserve <= account.reserved_usd + 1e-6
        assert account.loss_usd + reserve <= SPARE * account.optimum_usd + 1e-6
    memory.advance(100 * T_EVEN_S)
    assert not memory.account.slots
    assert memory.account.loss_usd <= SPARE * memory.account.optimum_usd + 1e-6


def one_hit(n: int) -> list[tuple[float, int, float]]:
    return [(i * T_EVEN_S / 100, i, 1.0) for i in range(n)]


def just_after(share: float, n: int) -> list[tuple[float, int, float]]:
    return reads_of((i * T_EVEN_S / 50, 1.0, [share * T_EVEN_S * 1.0001] * 20) for i in range(n // 20))


def alternating(n: int) -> list[tuple[float, int, float]]:
    """A habit that turns into its opposite as soon as it can have been learned."""
    chance = random.Random(5)
    return reads_of(
        (i * T_EVEN_S / 20, 1.0, [T_EVEN_S * (0.01 if (i // 40) % 2 else 1.5) * chance.uniform(0.5, 1.5)] * 4)
        for i in range(n // 5)
    )


@pytest.mark.parametrize(
    "reads",
    [
        one_hit(4000),
        *(just_after(share, 4000) for share in (0.01, 0.05, 0.2, 0.5, 0.8, 1.0)),
        alternating(4000),
    ],
    ids=[
        "one hit",
        "after 1%",
        "after 5%",
        "after 20%",
        "after 50%",
        "after 80%",
        "after T_even",
        "changing habits",
    ],
)
def test_adaptive_stays_within_twice_the_optimum_on_the_worst_traces_known(
    reads: list[tuple[float, int, float]],
) -> None:
    cost, optimum = replay(AdaptiveTtl(), reads, RegionMemory(T_EVEN_S))
    assert cost <= 2.0 * optimum


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.582, 0.8, 0.99, 1.01, 3.0])
def test_safe_rule_averages_e_over_e_minus_one_whatever_the_gap(share: float) -> None:
    account, n = CreditAccount(1.0), 20_000
    cost = sum(x + 1 if share > x else share for x in (account.draw() for _ in range(n))) / n
    if share > 1:
        assert cost == pytest.approx(SAFE_RATIO, rel=0.005)
    else:
        assert cost == pytest.approx(SAFE_RATIO * share, rel=0.02)


@given(st.floats(0.0, 1.0), st.floats(0.0, 3.0))
def test_loss_at_worst_covers_every_outcome(ttl: float, gap: float) -> None:
    cost, optimum = (gap, gap) if gap <= ttl else (ttl + 1.0, min(gap, 1.0))
    assert cost - SAFE_RATIO * min(optimum, 1.0) <= loss_at_worst(1.0, ttl) + 1e-9
    never_read_again = ttl - (SAFE_RATIO - 1.0)
    assert never_read_again <= loss_at_worst(1.0, ttl) + 1e-9


def test_adversary_that_sees_every_ttl_cannot_push_adaptive_far_past_the_bound() -> None:
    """Reads come just after each TTL, forever: no fixed trace does that; the account notices and holds to T_even."""
    memory, trail, now = RegionMemory(T_EVEN_S), Trail(), 0.0
    cost = optimum = 1.0
    for _ in range(2000):
        ttl_s = AdaptiveTtl().after_read(memory, trail, now, 1.0, 1.0 / T_EVEN_S)
        gap = ttl_s * 1.000001 + 1.0
        cost += ttl_s / T_EVEN_S + 1.0
        optimum += min(gap / T_EVEN_S, 1.0)
        now += gap
    assert cost / optimum <= 2.05


def test_adaptive_learns_that_objects_are_never_read_again() -> None:
    memory = RegionMemory(T_EVEN_S)
    early, late = one_hit(4000)[:2000], one_hit(4000)[2000:]
    replay(AdaptiveTtl(), early, memory)
    cost, optimum = replay(AdaptiveTtl(), late, memory)
    assert cost / optimum < 1.1


def test_adaptive_learns_a_period_and_holds_past_it_but_not_to_t_even() -> None:
    memory, trail = RegionMemory(T_EVEN_S), Trail()
    told = [AdaptiveTtl().after_read(memory, trail, i * 3600.0, 1.0, 1 / T_EVEN_S) for i in range(300)]
    assert 3600 <= told[-1] < T_EVEN_S / 2


def test_contexts_tell_first_reads_from_re_reads() -> None:
    """Half of the objects are read once, the others over and over: SkyStore's one histogram cannot tell them apart."""
    things = [(i * 2000.0, 1.0, [7200.0] * 30 if i % 8 == 0 else []) for i in range(600)]
    reads = reads_of(things)
    adaptive = replay(AdaptiveTtl(), reads, RegionMemory(T_EVEN_S))[0]
    skystore = replay(SkyStoreTtl(), reads, RegionMemory(T_EVEN_S))[0]
    assert adaptive < skystore


def test_simple_rules_answer_as_named() -> None:
    memory, per_s = RegionMemory(T_EVEN_S), 1 / T_EVEN_S
    assert NONE.after_read(memory, Trail(), 0.0, 1.0, per_s) == 0
    assert FOREVER.after_read(memory, Trail(), 0.0, 1.0, per_s) == FOREVER_S
    assert FixedTtl("fixed:1h", 3600.0).after_read(memory, Trail(), 0.0, 1.0, per_s) == 3600
    assert BreakEvenTtl(share=0.5).after_read(memory, Trail(), 0.0, 1.0, per_s) == pytest.approx(T_EVEN_S / 2)


def test_ewma_is_a_multiple_of_the_mean_gap_once_there_is_one() -> None:
    memory, trail, rule = RegionMemory(T_EVEN_S), Trail(), EwmaTtl(10.0)
    assert rule.after_read(memory, trail, 0.0, 1.0, 1 / T_EVEN_S) == pytest.approx(T_EVEN_S)
    assert rule.after_read(memory, trail, 100.0, 1.0, 1 / T_EVEN_S) == pytest.approx(1000.0)
    assert rule.after_read(memory, trail, 400.0, 1.0, 1 / T_EVEN_S) == pytest.approx(2000.0)


def test_small_objects_are_not_copied_before_reads_have_paid_for_the_put() -> None:
    memory, trail = RegionMemory(T_EVEN_S), Trail()
    fetch, put = 1e-6, 5e-6
    told = [
        AdaptiveTtl().after_read(memory, trail, 60.0 * i, fetch + put, 1e-15, put_usd=put) for i in range(6)
    ]
    assert told[:4] == [0.0] * 4
    assert told[5] > 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_renews_on_every_read(rule: TtlRule) -> None:
    memory, trail = RegionMemory(T_EVEN_S), Trail()
    for now in (5.0, 10.0, 100_000.0):
        ttl_s = rule.after_read(memory, trail, now, 1.0, 1 / T_EVEN_S)
        assert trail.last_read_s == now
        assert trail.ttl_s == ttl_s
        assert trail.expires_s() == now + ttl_s


def learned(n: int = 3000) -> RegionMemory:
    memory = RegionMemory(T_EVEN_S)
    chance = random.Random(2)
    things = [
        (chance.random() * 9e5, chance.random(), [chance.expovariate(1e-4) for _ in range(4)])
        for _ in range(n // 5)
    ]
    replay(AdaptiveTtl(), reads_of(things), memory)
    return memory


def test_memory_survives_a_restart_and_decides_the_same() -> None:
    memory = learned()
    again = RegionMemory.from_bytes(memory.to_bytes())
    assert again.to_bytes() == memory.to_bytes()
    for m in (memory, again):
        m.advance(2e6)
    for context in range(CONTEXTS):
        assert again.best_ttl_s(context, T_EVEN_S) == memory.best_ttl_s(context, T_EVEN_S)


def test_memory_is_bounded_whatever_is_read() -> None:
    sizes = [len(learned(n).to_bytes()) for n in (500, 5_000)]
    assert sizes[1] < 40_000
    histogram = learned(5_000).histogram
    assert all(len(row) == BINS for row in histogram.gaps)
    assert all(len(cohort) <= HORIZON_SLOTS + 1 for cohort in histogram.cohorts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-5],
        lambda b: b"",
        lambda b: b.replace(b'"version":1', b'"version":9'),
        lambda b: b'{"version":1}',
    ],
    ids=["cut", "empty", "newer", "hollow"],
)
def test_damaged_memory_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DatabaseCorrupt, match="policy memory"):
        RegionMemory.from_bytes(damage(learned(100).to_bytes()))


def test_trail_is_forgotten_only_when_it_has_no_effect() -> None:
    memory = RegionMemory(32.0)
    assert memory.horizon_s(100.0) == 200.0
    assert not forgettable(memory, Trail(last_read_s=100.0, ttl_s=50.0), 100.0, 300.0)
    assert forgettable(memory, Trail(last_read_s=100.0, ttl_s=50.0), 100.0, 301.0)
    assert not forgettable(memory, Trail(last_read_s=100.0, ttl_s=500.0), 100.0, 301.0)


@given(st.floats(1.0, FOREVER_S))
def test_bins_hold_the_gaps_they_are_named_for(gap_s: float) -> None:
    index = bin_of(gap_s)
    assert 2.0 ** (index / 4) * (1 - 1e-9) <= gap_s <= 2.0 ** ((index + 1) / 4) * (1 + 1e-9)


def test_context_depends_on_the_gap_in_units_of_t_even() -> None:
    assert [context_of(share, 1.0) for share in (0.001, 0.03, 0.1, 0.5, 1.0, 1.1)] == [1, 2, 3, 4, 4, 5]
    assert FIRST_READ == 0


def test_open_intervals_count_neither_as_re_reads_nor_as_last_reads() -> None:
    """Censoring: objects read a moment ago say nothing about longer gaps."""
    histogram = GapHistogram(100.0)
    for _ in range(200):
        slot = histogram.opened(FIRST_READ)
        histogram.closed(FIRST_READ, slot, 50.0)
    before = histogram.survival(FIRST_READ, 3200.0).after[-1]
    for _ in range(200):
        histogram.opened(FIRST_READ)
    histogram.known = None
    assert histogram.survival(FIRST_READ, 3200.0).after[-1] == pytest.approx(before, rel=0.01)
    assert math.isfinite(before)


def test_what_is_learned_after_the_evidence_was_gathered_is_in_none_of_its_numbers() -> None:
    """A bin of which more had ended than was ever at risk gave survival below zero until the next slot."""
    histogram = GapHistogram(100.0)
    for _ in range(200):
        histogram.opened(FIRST_READ)
    before = histogram.survival(FIRST_READ, 3200.0).after
    for _ in range(200):
        histogram.closed(FIRST_READ, 0, 50.0)
    assert histogram.survival(FIRST_READ, 3200.0).after == before


@given(
    st.lists(st.tuples(st.floats(0.0, 400.0), st.floats(0.0, 5000.0)), max_size=40), st.floats(1.0, 3000.0)
)
def test_evidence_halves_every_four_t_even_however_the_clock_passes(
    reads: list[tuple[float, float]], last_s: float
) -> None:
    """The unit grows instead of the bins shrinking: the masses are those of the plain rule."""
    histogram, expected, now = GapHistogram(1.0), [0.0] * BINS, 0.0
    for pause_s, gap_s in [*reads, (last_s, 1.0)]:
        now += pause_s
        slot = histogram.slot
        histogram.advance(now)
        expected = [mass * 0.5 ** ((histogram.slot - slot) / (4 * SLOTS_PER_T_EVEN)) for mass in expected]
        histogram.closed(1, histogram.opened(1), gap_s)
        expected[bin_of(gap_s)] += 1.0
    assert [mass / histogram.unit for mass in histogram.gaps[1]] == pytest.approx(expected)
    assert histogram.evidence() == pytest.approx(sum(expected))
    histogram.to_state()
    assert histogram.gaps[1] == pytest.approx(expected)


def test_units_of_evidence_do_not_overflow_in_a_century() -> None:
    histogram = GapHistogram(1.0)
    for slot in range(0, 1_000_000, 50):
        histogram.advance(float(slot))
        histogram.closed(FIRST_READ, histogram.opened(FIRST_READ), 7.0)
    assert histogram.unit <= LARGEST_UNIT
    assert histogram.evidence() == pytest.approx(1 / (1 - 0.5 ** (50 / (4 * SLOTS_PER_T_EVEN))), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(objects, st.integers(0, 40))
def test_a_reserve_reckoned_late_admits_what_one_reckoned_in_every_slot_does(
    things: list[tuple[float, float, list[float]]], seed: int
) -> None:
    late, punctual = RegionMemory(T_EVEN_S), RegionMemory(T_EVEN_S)
    late.account.draws = punctual.account.draws = seed
    trails: dict[int, tuple[Trail, Trail]] = {}
    for now, key, size in reads_of(things):
        pair = trails.setdefault(key, (Trail(), Trail()))
        punctual.advance(now)
        punctual.account.reserve_anew()
        told = [
            AdaptiveTtl().after_read(memory, trail, now, size, size / T_EVEN_S)
            for memory, trail in zip((late, punctual), pair, strict=True)
        ]
        assert told[0] == told[1]
        assert late.account.reserved_usd >= punctual.account.reserved_usd * (1 - 1e-9) - 1e-9


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, CONTEXTS - 1), st.floats(0.0, 3 * T_EVEN_S), st.booleans()), max_size=200
    ),
    st.floats(10.0, 4 * T_EVEN_S),
)
def test_best_ttl_is_the_end_of_a_bin_that_costs_least_of_all(
    reads: list[tuple[int, float, bool]], t_even_s: float
) -> None:
    histogram = GapHistogram(T_EVEN_S / SLOTS_PER_T_EVEN)
    for number, (context, gap_s, ends) in enumerate(reads):
        histogram.advance(number * 1000.0)
        cohort = histogram.opened(context)
        if ends:
            histogram.closed(context, cohort, gap_s)
    for context in range(CONTEXTS):
        survival = histogram.survival(context, t_even_s)
        assert all(0.0 < after <= 1.0 for after in survival.after)
        costs = [
            survival.expected_s(ttl_s, t_even_s) for ttl_s in (0.0, *BIN_END_S[: len(survival.after) - 1])
        ]
        told = survival.expected_s(histogram.best_ttl_s(context, t_even_s), t_even_s)
        assert told <= min(costs) * (1 + 1e-9)


class Untouched(dict[int, Slot]):
    """Slots that nobody may walk over."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("walked over every slot")

    keys = values = items = __iter__  # type: ignore[assignment]  # any way round the slots is refused


def test_a_slot_that_passes_costs_nothing_for_what_does_not_end_in_it() -> None:
    """Rewriting every bin and every open slot made most of the time of a trace with few requests per slot."""
    memory, rule = RegionMemory(T_EVEN_S), AdaptiveTtl()
    for number in range(200):
        size = 1.0 + number
        rule.after_read(memory, Trail(), number * 100.0, 1.0 + size, size / T_EVEN_S / (1 + number % 50))
    open_slots, rows = len(memory.account.slots), list(memory.histogram.gaps)
    assert open_slots > 40
    memory.account.slots = Untouched(memory.account.slots)
    memory.advance(memory.next_slot_s)
    assert len(memory.account.slots) >= open_slots - 1
    assert all(now is before for now, before in zip(memory.histogram.gaps, rows, strict=True))
