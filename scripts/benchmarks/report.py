"""The table and the verdicts. Owns how results are shown and judged; measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.workloads import Workload

SUBJECT = "gsfs"
"""The target that the limits are for."""


@dataclass
class Results:
    """Every value that was measured, in rounds: values[workload][target]; targets in the order of the columns."""

    targets: list[str]
    best: bool = False
    """Stand for a row by its fastest round, not its median: for a machine that others use, too."""
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, workload: str, target: str, value: float) -> None:
        self.values.setdefault(workload, {}).setdefault(target, []).append(value)

    def figure(self, workload: str, target: str) -> float | None:
        values = self.values.get(workload, {}).get(target)
        if not values:
            return None
        return min(values) if self.best else statistics.median(values)

    def ratio(self, workload: str, target: str, base: str) -> float | None:
        mine, other = self.figure(workload, target), self.figure(workload, base)
        return mine / other if mine is not None and other else None


def verdict(workload: Workload, results: Results) -> str:
    """`pass`, `FAIL`, or nothing where there is no limit or nothing to judge."""
    taken = results.figure(workload.name, SUBJECT)
    ratio = results.ratio(workload.name, SUBJECT, "null" if workload.is_cpu else "ext4")
    if taken is None or ratio is None or workload.limit is None:
        return ""
    slow = workload.min_gb_per_s and workload.bytes_moved / taken / 1e9 < workload.min_gb_per_s
    return "FAIL" if ratio > workload.limit or slow else "pass"


def failures(workloads: Sequence[Workload], results: Results) -> list[str]:
    return [workload.name for workload in workloads if verdict(workload, results) == "FAIL"]


def rows(workloads: Sequence[Workload], results: Results) -> list[list[str]]:
    """The table, header first: figures, the ratios to ext4 and to null of each but these, limit, verdict."""
    others = [name for name in results.targets if name not in ("ext4", "null")]
    header = ["workload", *results.targets]
    compared = [(name, base) for name in [*others, "null"] for base in ("ext4", "null") if name != base]
    compared = [pair for pair in compared if set(pair) <= set(results.targets)]
    header += [f"{name} / {base}" for name, base in compared] + ["limit", ""]
    table = [header]
    for workload in workloads:
        row = [workload.title]
        row += [_value(workload, results.figure(workload.name, name)) for name in results.targets]
        row += [_times(results.ratio(workload.name, name, base)) for name, base in compared]
        table.append([*row, _limit(workload), verdict(workload, results)])
    return table


def as_text(table: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_markdown(table: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|---" + "|--:" * (len(table[0]) - 1) + "|")
    return "\n".join(lines)


def _value(workload: Workload, value: float | None) -> str:
    if value is None:
        return "-"
    if workload.is_cpu:
        return f"{value:.1f} us"
    text = f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"
    return f"{text} ({workload.bytes_moved / value / 1e9:.1f} GB/s)" if workload.bytes_moved else text


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _limit(workload: Workload) -> str:
    if workload.limit is None:
        return ""
    limit = f"{workload.limit:g}x {'null' if workload.is_cpu else 'ext4'}"
    return f"{limit}, {workload.min_gb_per_s:g} GB/s" if workload.min_gb_per_s else limit
