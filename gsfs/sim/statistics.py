"""Published statistics of the 98 IBM traces. Owns their reading; the generator makes traces that have them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from gsfs.errors import NotFoundError

READ_COUNT_COLUMNS: tuple[tuple[str, int, int], ...] = (
    ("per_obj_num_reads_eq_0", 0, 0),
    ("per_obj_num_reads_eq_1", 1, 1),
    ("per_obj_num_reads_2_10", 2, 10),
    ("per_obj_num_reads_10_100", 11, 100),
    ("per_obj_num_reads_100_1K", 101, 1_000),
    ("per_obj_num_reads_1K_10K", 1_001, 10_000),
    ("per_obj_num_reads_10K_100K", 10_001, 100_000),
    ("per_obj_num_reads_100K_1M", 100_001, 1_000_000),
    ("per_obj_num_reads_above_1M", 1_000_001, 10_000_000),
)
WEEK_S = 7 * 86_400.0
GAP_COLUMNS: tuple[tuple[str, float, float], ...] = (
    ("per_obj_avg_time_diff_less_1sec", 0.05, 1.0),
    ("per_obj_avg_time_diff_1sec_1m", 1.0, 60.0),
    ("per_obj_avg_time_diff_1m_1h", 60.0, 3_600.0),
    ("per_obj_avg_time_diff_1h_24h", 3_600.0, 86_400.0),
    ("per_obj_avg_time_diff_above_24h", 86_400.0, WEEK_S),
)


@dataclass(frozen=True, slots=True)
class Range:
    """A range of values (both ends included) and its weight."""

    low: float
    high: float
    weight: float


@dataclass(frozen=True, slots=True)
class BucketStatistics:
    """What is published about one bucket, as the generator needs it."""

    trace: int
    objects: int
    requests: int
    reads_per_object: tuple[Range, ...]
    gap_s: tuple[Range, ...]
    """Mean time between the reads of one object, over objects with two or more reads."""
    mean_size_bytes: float
    median_size_bytes: float
    writes_per_object: float
    deletes_per_object: float
    zipf: float
    """Exponent of the popularity of objects."""

    @property
    def name(self) -> str:
        return f"T{self.trace}"


def _table(name: str) -> list[Mapping[str, str]]:
    text = resources.files("gsfs.sim").joinpath("data").joinpath(name).read_text("utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@cache
def all_buckets() -> tuple[BucketStatistics, ...]:
    """The 98 buckets in the order of their numbers."""
    zipf = {int(row["trace"]): float(row["zipf"]) for row in _table("ibm_traces.csv")}
    return tuple(_bucket(row, zipf[int(row["trace"])]) for row in _table("ibm_buckets.csv"))


def bucket(name: str) -> BucketStatistics:
    """The bucket called ``T15`` or ``15``. Raises NotFoundError with the accepted range."""
    digits = name.upper().removeprefix("T")
    if not digits.isdecimal() or int(digits) >= len(all_buckets()):
        raise NotFoundError(f"bucket {name!r}: takes T0 to T{len(all_buckets()) - 1}")
    return all_buckets()[int(digits)]


def _bucket(row: Mapping[str, str], zipf: float) -> BucketStatistics:
    objects = max(1, int(row["uniq_obj"]))
    return BucketStatistics(
        trace=int(row["trace"]),
        objects=objects,
        requests=int(row["tot_req"]),
        reads_per_object=tuple(Range(lo, hi, float(row[c])) for c, lo, hi in READ_COUNT_COLUMNS),
        gap_s=tuple(Range(lo, hi, float(row[c])) for c, lo, hi in GAP_COLUMNS),
        mean_size_bytes=max(1.0, float(row["avg_size"])),
        median_size_bytes=max(1.0, float(row["median_size"])),
        writes_per_object=int(row["writes"]) / objects,
        deletes_per_object=min(1.0, int(row["deletes"]) / objects),
        zipf=zipf,
    )
