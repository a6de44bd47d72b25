"""Traces with the published statistics of a bucket. Owns the model of one object's life; writes no files.

Every object is drawn on its own: a size (log-normal with the bucket's mean and median), a number of reads (the
published histogram; within its ranges a power law with the bucket's Zipf exponent), a mean time between reads (the
published histogram, as far as that many reads fit into the week), writes and at most one delete. What is *not*
published, and therefore assumed: gaps around an object's mean are log-normal with ``GAP_SPREAD``; objects begin
evenly over what the week leaves them; size, popularity and gaps are independent.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from gsfs.model import MIB
from gsfs.sim.requests import DELETE, GET, PUT, Request
from gsfs.sim.statistics import WEEK_S, BucketStatistics, Range

GAP_SPREAD = 2.2
"""Sigma of the logarithm of a gap around its object's mean: bursts. Chosen so that the policies that learn nothing
come closest to what was published for the originals (docs/policies.md)."""
MAX_SIZE_BYTES = 16 * MIB
"""Policies decide about physical objects, and these are no larger: a larger file is several of them."""
MAX_WRITES = 50


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of a bucket to generate."""

    objects: int = 2_000
    max_reads: int = 300
    """Of one object. The most popular objects of the originals have millions: they hit under every policy."""


def generate(stats: BucketStatistics, scale: Scale = Scale(), seed: int = 1) -> list[Request]:
    """A trace of one week, ordered by time; the same for the same arguments."""
    chance = random.Random(f"{stats.trace}/{seed}")
    requests: list[Request] = []
    for key in range(min(scale.objects, stats.objects)):
        requests += _life(key, stats, scale, chance)
    requests.sort()
    return requests


def _life(key: int, stats: BucketStatistics, scale: Scale, chance: random.Random) -> list[Request]:
    """All requests of one object."""
    size = _size(stats, chance)
    reads = min(scale.max_reads, _reads(stats, chance))
    gaps = _gaps(reads, stats, chance)
    begin = chance.random() * max(0.0, WEEK_S - sum(gaps))
    times = [begin]
    for gap in gaps:
        times.append(times[-1] + gap)
    life = [_request(t, GET, key, size) for t in times[:reads]]
    life += [_request(t, PUT, key, size) for t in _writes(times, reads, stats, chance)]
    if chance.random() < stats.deletes_per_object:
        last = max((request.time_ms for request in life), default=int(begin * 1000))
        life.append(Request(last + 1 + int(chance.expovariate(1 / 3_600_000)), DELETE, f"{key:x}", 0, 0))
    return [request for request in life if request.time_ms < WEEK_S * 1000]


def _request(time_s: float, op: int, key: int, size: int) -> Request:
    return Request(int(time_s * 1000), op, f"{key:x}", size, size)


def _size(stats: BucketStatistics, chance: random.Random) -> int:
    """Log-normal: the mean over the median is exp(sigma^2 / 2)."""
    sigma = math.sqrt(2 * max(0.0, math.log(stats.mean_size_bytes / stats.median_size_bytes)))
    size = stats.median_size_bytes * math.exp(min(sigma, 3.0) * chance.gauss(0, 1))
    return max(1, min(MAX_SIZE_BYTES, int(size)))


def _pick(ranges: Sequence[Range], chance: random.Random) -> Range | None:
    total = sum(r.weight for r in ranges)
    left = chance.random() * total
    for r in ranges:
        left -= r.weight
        if left < 0:
            return r
    return None


def _reads(stats: BucketStatistics, chance: random.Random) -> int:
    """Popularity k by rank**-z has a density k**-(1 + 1/z): drawn by inversion within the published range."""
    found = _pick(stats.reads_per_object, chance)
    if found is None or found.low == found.high:
        return int(found.low) if found else 1
    slope = -1 / max(stats.zipf, 0.05)
    if slope < -10:
        return int(found.low)
    low, high = found.low**slope, (found.high + 1) ** slope
    return int((low + chance.random() * (high - low)) ** (1 / slope))


def _gaps(reads: int, stats: BucketStatistics, chance: random.Random) -> list[float]:
    """The times between an object's reads, in s; they fit into the week."""
    if reads < 2:
        return []
    longest = WEEK_S / (reads - 1)
    fits = [Range(r.low, min(r.high, longest), r.weight) for r in stats.gap_s if r.low < longest]
    found = _pick(fits, chance) or Range(1.0, longest, 1.0)
    mean = math.exp(chance.uniform(math.log(found.low), math.log(max(found.low, found.high))))
    gaps = [mean * math.exp(GAP_SPREAD * chance.gauss(0, 1) - GAP_SPREAD**2 / 2) for _ in range(reads - 1)]
    shrink = min(1.0, WEEK_S / sum(gaps))
    return [gap * shrink for gap in gaps]


def _writes(times: list[float], reads: int, stats: BucketStatistics, chance: random.Random) -> list[float]:
    """When the object is written: shortly before its first read, then anywhere in its life."""
    count = int(min(MAX_WRITES, stats.writes_per_object) + chance.random())
    if reads == 0:
        count = max(1, count)
    if count == 0:
        return []
    born = max(0.0, times[0] - chance.expovariate(1 / 600.0))
    again = [chance.uniform(born, min(WEEK_S, times[-1] + 3_600)) for _ in range(count - 1)]
    return [born, *again]
