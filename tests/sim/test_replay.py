"""The replay: exact counts, the same decisions as the mount's, an optimum that nobody beats."""

from __future__ import annotations

import gc
import itertools
import random
import time
import weakref
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsfs.errors import ConfigError
from gsfs.policy.bucket import parse_policy, parse_ttl
from gsfs.sim import run
from gsfs.sim.assign import Assigner, Assignment, _below
from gsfs.sim.emulate import EmulatedBucket
from gsfs.sim.generate import Scale, generate
from gsfs.sim.optimum import Clairvoyant, Yardstick
from gsfs.sim.replay import Meter, Replay
from gsfs.sim.requests import DELETE, GET, PUT, Placed, Row
from gsfs.sim.run import parse_spec, simulate
from gsfs.sim.single_cache import SingleCache
from gsfs.sim.statistics import bucket
from gsfs.sim.world import REGION_SETS, make_world, parse_regions

EAST, AZURE, GCP = REGION_SETS[3]
WORLD = make_world(REGION_SETS[3])
POLICIES = [
    "adaptive",
    "skystore",
    "t_even",
    "t_even:0.5",
    "ewma:30",
    "fixed:1d",
    "forever",
    "none",
    "single",
    "all",
]


def replay(spec: str, rows: list[Row], batch: int = 1000, scale: float = 1.0) -> tuple[Meter, Assigner]:
    assigner = Assigner(WORLD.regions, Assignment.D, scale)
    run = Replay(parse_spec(spec), WORLD, assigner.birth_region)
    for placed in assigner.place(rows):
        for start in range(0, len(placed), batch):
            run.feed(placed[start : start + batch])
    return run.finish(), assigner


def small_trace(name: str = "T15", objects: int = 300) -> list[Row]:
    return list(generate(bucket(name), Scale(objects, 60)))


@pytest.mark.parametrize("spec", POLICIES)
def test_counts_do_not_depend_on_how_the_trace_is_cut_into_batches(spec: str) -> None:
    rows = small_trace()
    assert replay(spec, rows, 7)[0] == replay(spec, rows, 100_000)[0]


@pytest.mark.parametrize("spec", POLICIES)
def test_replay_does_what_the_emulated_bucket_does_request_by_request(spec: str) -> None:
    """Both call the policies; one in a tight loop, the other through ``decide_read`` and real expiry."""
    rows = small_trace("T52", 250)
    meter, assigner = replay(spec, rows)
    twin = EmulatedBucket(parse_spec(spec), WORLD)
    alive: dict[int, int] = {}
    fresh = itertools.count()
    implied_puts = dict.fromkeys(WORLD.regions, 0)
    for now_s, op, key, size, _length, region in itertools.chain.from_iterable(
        Assigner(WORLD.regions).place(rows)
    ):
        twin.advance(round(now_s * 1000))
        if op in {PUT, DELETE} and key in alive:
            twin.remove(alive.pop(key))
        if op == PUT or (op == GET and key not in alive):
            writer = WORLD.regions[region if op == PUT else assigner.birth_region(key)]
            alive[key] = next(fresh)
            before = {name: there.sent_bytes.copy() for name, there in twin.locations.items()}
            twin.write(alive[key], size, writer)
            if op == GET:  # the trace did not write it: the replay bills neither PUT nor upload
                for r in twin.replicas[alive[key]]:
                    implied_puts[r] += 1
                for name, there in twin.locations.items():
                    there.sent_bytes = before[name]
        if op == GET:
            twin.read(alive[key], WORLD.regions[region])
    for i, name in enumerate(WORLD.regions):
        there = twin.locations[name]
        assert there.gets == meter.gets[i]
        assert there.puts - implied_puts[name] == meter.puts[i]
        sent = [there.sent_bytes.get(reader, 0) if reader != name else 0 for reader in WORLD.regions]
        assert sent == [b if j != i else 0 for j, b in enumerate(meter.egress_bytes[i])]
        assert there.settled_byte_ms(twin.now_ms) / 1000 == pytest.approx(meter.byte_s[i], rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.01, 4.0), min_size=1, max_size=9),
    st.floats(0.1, 2.0),
    st.floats(0.0, 2.0),
)
def test_clairvoyant_optimum_is_the_best_of_all_ways_to_keep_or_drop(
    gaps: list[float], fetch_usd: float, put_usd: float
) -> None:
    best, now = Clairvoyant.first(0.0, fetch_usd, put_usd), 0.0
    for gap in gaps:
        now += gap
        best.read(now, fetch_usd, put_usd, 1.0)
    costs = []
    for keeps in itertools.product([False, True], repeat=len(gaps)):
        cost, have = fetch_usd, False
        for gap, keep in zip(gaps, keeps, strict=True):
            if keep:
                cost += gap + (0.0 if have else put_usd)
            else:
                cost += fetch_usd
            have = keep
        costs.append(cost)
    assert best.least_usd() == pytest.approx(min(costs))


@pytest.mark.parametrize("assignment", list(Assignment))
def test_no_policy_with_local_writes_beats_the_lower_bound(assignment: Assignment) -> None:
    result = simulate(small_trace("T65", 60), WORLD, POLICIES[:-2], Assigner(WORLD.regions, assignment, 90.0))
    for outcome in result.outcomes:
        assert outcome.over_bound >= 1 - 1e-6, outcome
    assert result.bound_usd <= result.optimum_usd


def test_policies_keep_the_published_order_on_average() -> None:
    rules = ["adaptive", "t_even:0.5", "t_even", "ewma:30", "forever"]
    sums = dict.fromkeys(rules, 0.0)
    for name in ("T15", "T29", "T65", "T78", "T79", "T30", "T83"):
        trace = generate(bucket(name), Scale(400, 60))
        for rule in rules:
            sums[rule] += SingleCache(parse_ttl(rule)).run(trace).ratio
    assert sorted(rules, key=lambda rule: sums[rule]) == rules
    assert sums["adaptive"] / 7 < 1.30


def test_parts_add_up_to_the_total_exactly() -> None:
    result = simulate(small_trace(), WORLD, POLICIES, Assigner(WORLD.regions))
    for outcome in result.outcomes:
        parts = outcome.storage_usd + outcome.egress_usd + outcome.requests_usd
        assert abs(parts - outcome.total_usd) <= Decimal("2e-12")


def test_single_region_pays_egress_and_everywhere_pays_storage() -> None:
    result = simulate(
        small_trace("T65", 60), WORLD, ["single", "all"], Assigner(WORLD.regions, Assignment.A, 90.0)
    )
    single, everywhere = result.outcomes
    assert single.hit_share == 0
    assert everywhere.local_share == 1
    assert single.egress_usd > everywhere.egress_usd
    assert everywhere.storage_usd > 2 * single.storage_usd
    assert everywhere.mean_read_ms < single.mean_read_ms


def test_time_scale_stretches_storage_and_nothing_else() -> None:
    rows = small_trace()
    one, ninety = (
        simulate(rows, WORLD, ["none"], Assigner(WORLD.regions, time_scale=s)).outcomes[0] for s in (1, 90)
    )
    assert float(ninety.storage_usd) == pytest.approx(90 * float(one.storage_usd), rel=1e-6)
    assert ninety.egress_usd == one.egress_usd


def regions_of(assignment: Assignment) -> dict[str, tuple[set[int], set[int]]]:
    """Reading and writing regions by object."""
    rows: list[Row] = [(i, op, f"k{i % 40}", 10, 10, "") for i in range(2000) for op in (PUT, GET)]
    seen: dict[str, tuple[set[int], set[int]]] = {}
    placed = itertools.chain.from_iterable(Assigner(WORLD.regions, assignment).place(rows))
    for row, (_t, op, _k, _s, _l, region) in zip(rows, placed, strict=True):
        seen.setdefault(row[2], (set(), set()))[0 if op == GET else 1].add(region)
    return seen


def test_assignment_types_are_those_of_the_paper() -> None:
    assert all(len(r) == 3 and len(w) == 3 for r, w in regions_of(Assignment.A).values())
    b = regions_of(Assignment.B).values()
    assert all(len(r) == 1 and len(w) == 1 and r != w for r, w in b)
    assert len({tuple(r) for r, _ in b}) == 3
    assert len({(tuple(r), tuple(w)) for r, w in regions_of(Assignment.C).values()}) == 1
    assert all(len(r) == 3 and len(w) == 1 for r, w in regions_of(Assignment.D).values())
    mixed = {(len(r), len(w)) for r, w in regions_of(Assignment.E).values()}
    assert mixed == {(1, 1), (3, 1), (3, 3)}


def test_regions_of_the_trace_win_and_unknown_ones_are_refused() -> None:
    rows: list[Row] = [(0, PUT, "k", 10, 10, AZURE), (1, GET, "k", 10, 10, GCP)]
    placed = next(Assigner(WORLD.regions, Assignment.A).place(rows))
    assert [WORLD.regions[p[5]] for p in placed] == [AZURE, GCP]
    with pytest.raises(ConfigError, match="takes one of --regions"):
        next(Assigner(WORLD.regions).place([(0, GET, "k", 1, 1, "mars")]))


@pytest.mark.parametrize("text", ["4", "aws:us-east-1,aws:us-east-1", ""])
def test_bad_region_lists_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--regions"):
        make_world(parse_regions(text))


def test_ranged_reads_pay_for_their_range_unless_a_whole_replica_is_made() -> None:
    rows: list[Row] = [(0, PUT, "k", 1000, 1000, EAST), (1000, GET, "k", 1000, 10, GCP)]

    def moved(spec: str) -> int:
        meter = replay(spec, rows)[0]
        return sum(map(sum, meter.egress_bytes))

    assert moved("none") == 10
    assert moved("forever") == 1000


def test_memory_of_a_replay_is_bounded_by_live_objects() -> None:
    assigner = Assigner(WORLD.regions)
    run = Replay(parse_policy({"ttl": "adaptive", "placement": "local"}), WORLD, assigner.birth_region)
    rows = ((i * 1000, op, f"{i}", 10, 10, "") for i in range(5000) for op in (PUT, GET, DELETE))
    for batch in assigner.place(rows):
        run.feed(batch)
    assert not run.things


def test_forgetting_old_trails_changes_no_count() -> None:
    rows = small_trace("T79", 150)
    whole = replay("adaptive", rows, scale=90.0)[0]
    assigner = Assigner(WORLD.regions, Assignment.D, 90.0)
    run = Replay(parse_spec("adaptive"), WORLD, assigner.birth_region)
    for placed in assigner.place(rows):
        for start in range(0, len(placed), 50):
            run.feed(placed[start : start + 50])
            run._sweep()
    swept = run.finish()
    assert swept.gets == whole.gets
    assert swept.egress_bytes == whole.egress_bytes
    assert swept.byte_s == pytest.approx(whole.byte_s)


def hot_trace(n: int) -> list[Row]:
    chance = random.Random(1)
    return [(i * 50, GET, f"{int(chance.paretovariate(0.6)) % 2000}", 1 << 20, 1 << 20, "") for i in range(n)]


def cold_trace(n: int) -> list[Row]:
    """Every object is written, read once or twice, and most are deleted: nothing but first reads to learn from."""
    chance, rows = random.Random(2), []
    for key in range(n // 4):
        size = 1 << chance.randrange(10, 24)
        at = key * 200
        rows.append((at, PUT, f"{key}", size, size, ""))
        for _ in range(chance.randrange(1, 4)):
            rows.append((at + chance.randrange(10_000_000), GET, f"{key}", size, size, ""))
        if key % 4:
            rows.append((at + 20_000_000, DELETE, f"{key}", 0, 0, ""))
    return sorted(rows)


@pytest.mark.parametrize("trace", [hot_trace, cold_trace], ids=["hot", "cold"])
@pytest.mark.parametrize("spec", ["adaptive", "t_even"])
def test_replay_is_fast_enough_to_try_policies_on_months_of_requests(
    spec: str, trace: Callable[[int], list[Row]]
) -> None:
    """A fourth of the promised 300,000 requests per second: slow machines pass, a quadratic mistake does not."""
    rows = trace(60_000)
    run, batches = _placed(spec, rows)
    began = time.process_time()
    for batch in batches:
        run.feed(batch)
    run.finish()
    assert len(rows) / (time.process_time() - began) > 75_000


def _placed(spec: str, rows: list[Row]) -> tuple[Replay, list[list[Placed]]]:
    assigner = Assigner(WORLD.regions, Assignment.D, 90.0)
    batches = list(assigner.place(rows))
    return Replay(parse_spec(spec), WORLD, assigner.birth_region), batches


@pytest.mark.parametrize("assignment", list(Assignment))
def test_yardstick_is_a_clairvoyant_for_each_object_and_region(assignment: Assignment) -> None:
    """Its loop has the recurrence written out, twice; here it is the class that says what it means."""
    rows = [(t, op, key, size, size // (1 + t % 3), "") for t, op, key, size, _, _ in cold_trace(2_000)]
    rows += [(t + 9_000_000, op, key, size, size, "") for t, op, key, size, _, _ in small_trace("T79", 60)]
    assigner = Assigner(WORLD.regions, assignment, 90.0)
    batches = list(assigner.place(sorted(rows)))
    yardstick = Yardstick(WORLD, assigner.birth_region)
    for batch in batches:
        yardstick.feed(batch)
    fixed, homes, sums = 0.0, {}, [0.0, 0.0]
    states: dict[tuple[int, int, bool], Clairvoyant] = {}
    now = 0.0

    def end(key: int) -> None:
        nonlocal fixed
        size, home, born = homes.pop(key)
        least_s = WORLD.prices.min_age_s(WORLD.regions[home])
        fixed += max(now - born, least_s) * size * WORLD.edges[home][home].storage_usd_per_byte_s
        for region, near in itertools.product(range(len(WORLD)), (False, True)):
            best = states.pop((key, region, near), None)
            sums[near] += best.least_usd() if best else 0.0

    for now, op, key, asked, length, region in itertools.chain.from_iterable(batches):
        if op != GET and key in homes:
            end(key)
        if op == PUT or (op == GET and key not in homes):
            homes[key] = (asked, region if op == PUT else assigner.birth_region(key), now)
            fixed += WORLD.edges[region][region].put_usd if op == PUT else 0.0
        if op != GET:
            continue
        size, home, _ = homes[key]
        if region == home:
            fixed += WORLD.edges[home][home].get_usd
            continue
        for near in (False, True):
            others = (src for src in WORLD.order[region] if src != region)
            edge = WORLD.edges[next(others) if near else home][region]
            fetch = edge.egress_usd_per_byte * min(length, size) + edge.get_usd
            keep = edge.put_usd + edge.egress_usd_per_byte * (size - min(length, size))
            best = states.get((key, region, near))
            if best is None:
                states[key, region, near] = Clairvoyant.first(now, fetch, keep)
            else:
                hit = WORLD.edges[region][region].get_usd
                best.read(now, fetch, keep, edge.hold_usd_per_s(size), hit)
    for key in list(homes):
        end(key)
    assert yardstick.finish() == pytest.approx((fixed + sums[0], fixed + sums[1]))


def test_simulation_frees_cycles_that_others_make_and_leaves_the_collector_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the young are looked at; a progress bar that makes cycles must not fill the memory meanwhile."""
    monkeypatch.setattr(run, "YOUNG", 0)

    class Loop:
        def __init__(self) -> None:
            self.itself = self

    seen: list[bool] = []
    loops: list[weakref.ref[Loop]] = []

    def progress(_requests: int) -> None:
        seen.append(gc.isenabled())
        loops.append(weakref.ref(Loop()))

    simulate(cold_trace(40_000), WORLD, ["adaptive"], Assigner(WORLD.regions), progress=progress)
    assert seen[0] is False
    assert len(loops) > 2
    assert all(loop() is None for loop in loops[:-1])
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    with pytest.raises(ConfigError, match="takes one of --regions"):
        simulate([(0, GET, "k", 1, 1, "mars")], WORLD, ["none"], Assigner(WORLD.regions))
    assert gc.isenabled()


@pytest.mark.parametrize("end", [1, 2, 3, 6, 9, 17])
def test_assignments_draw_what_randrange_draws(end: int) -> None:
    """So that an assignment of a seed stays the same."""
    chance = random.Random(5)
    assert list(itertools.islice(_below(end, random.Random(5)), 200)) == [
        chance.randrange(end) for _ in range(200)
    ]
