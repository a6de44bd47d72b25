"""Generated traces have the statistics that were published, and are the same for the same arguments."""

from __future__ import annotations

from collections import Counter

import pytest

from gsfs.errors import NotFoundError
from gsfs.sim.generate import MAX_SIZE_BYTES, Scale, generate
from gsfs.sim.requests import DELETE, GET, PUT
from gsfs.sim.statistics import WEEK_S, all_buckets, bucket


def test_there_are_98_buckets_and_other_names_are_refused() -> None:
    assert [b.name for b in all_buckets()] == [f"T{i}" for i in range(98)]
    assert bucket("t15") is bucket("15")
    for name in ("T98", "x", "-1"):
        with pytest.raises(NotFoundError, match="takes T0 to T97"):
            bucket(name)


def test_same_arguments_make_the_same_trace_and_another_seed_another() -> None:
    scale = Scale(200)
    assert generate(bucket("T15"), scale) == generate(bucket("T15"), scale)
    assert generate(bucket("T15"), scale) != generate(bucket("T15"), scale, seed=2)


@pytest.mark.parametrize("name", ["T15", "T29", "T65", "T78", "T79"])
def test_trace_has_the_published_share_of_objects_read_once_and_their_sizes(name: str) -> None:
    stats, n = bucket(name), 3000
    trace = generate(stats, Scale(n, 100))
    assert trace == sorted(trace)
    assert all(0 <= r.time_ms < WEEK_S * 1000 for r in trace)
    reads = Counter(r.key for r in trace if r.op == GET)
    objects = min(n, stats.objects)
    weights = [r.weight for r in stats.reads_per_object]
    once = sum(1 for count in reads.values() if count == 1) / objects
    assert once == pytest.approx(weights[1] / sum(weights), abs=0.05)
    sizes = sorted({r.key: r.size_bytes for r in trace if r.op != DELETE}.values())
    assert sizes[len(sizes) // 2] == pytest.approx(min(stats.median_size_bytes, MAX_SIZE_BYTES), rel=0.35)


def test_write_and_delete_shares_follow_the_bucket() -> None:
    ops = Counter(r.op for r in generate(bucket("T15"), Scale(3000, 100)))
    stats = bucket("T15")
    objects = 3000
    assert ops[PUT] / objects == pytest.approx(stats.writes_per_object, abs=0.25)
    assert ops[DELETE] / objects == pytest.approx(stats.deletes_per_object, abs=0.1)
    assert Counter(r.op for r in generate(bucket("T29"), Scale(500)))[DELETE] == 0


def test_mean_gaps_of_re_read_objects_follow_the_published_ranges() -> None:
    stats = bucket("T15")
    times: dict[str, list[int]] = {}
    for r in generate(stats, Scale(6000, 10)):
        if r.op == GET:
            times.setdefault(r.key, []).append(r.time_ms)
    means = [(t[-1] - t[0]) / 1000 / (len(t) - 1) for t in times.values() if len(t) > 1]
    under_an_hour = sum(mean < 3600 for mean in means) / len(means)
    published = sum(r.weight for r in stats.gap_s[:3]) / sum(r.weight for r in stats.gap_s)
    assert under_an_hour == pytest.approx(published, abs=0.08)
