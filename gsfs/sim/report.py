"""Results for people and programs: table, CSV. Owns the columns; the HTML page is in ``html``."""

from __future__ import annotations

import csv
from typing import IO

from rich.table import Table

from gsfs.sim.run import Outcome, Result


def table(result: Result) -> Table:
    """A table for the terminal: one line per policy, the cheapest in bold."""
    title = (
        f"{result.trace}: {result.requests:,} requests to {result.objects:,} objects, {result.days:.1f} days, "
        f"{len(result.regions)} regions, assignment {result.assignment}"
    )
    out = Table(
        title=title,
        caption=f"optimum (clairvoyant, from home): {result.optimum_usd:.6g} USD; lower bound: {result.bound_usd:.6g} USD",
        title_justify="left",
    )
    out.add_column("policy")
    columns = (
        "storage",
        "egress",
        "requests",
        "total USD",
        "÷ optimum",
        "÷ bound",
        "local",
        "hit",
        "read ms",
    )
    for name in columns:
        out.add_column(name, justify="right")
    least = min((o.total_usd for o in result.outcomes), default=None)
    for o in result.outcomes:
        out.add_row(o.policy, *_cells(o), style="bold" if o.total_usd == least else None)
    return out


def _cells(o: Outcome) -> tuple[str, ...]:
    return (
        f"{o.storage_usd:.6f}",
        f"{o.egress_usd:.6f}",
        f"{o.requests_usd:.6f}",
        f"{o.total_usd:.6f}",
        f"{o.over_optimum:.2f}",
        f"{o.over_bound:.2f}",
        f"{o.local_share:.1%}",
        f"{o.hit_share:.1%}",
        f"{o.mean_read_ms:.1f}",
    )


def write_csv(result: Result, out: IO[str]) -> None:
    """One line per policy, every figure of ``Outcome``, and what was simulated."""
    head = {
        "trace": result.trace,
        "regions": "+".join(result.regions),
        "assignment": result.assignment,
        "time_scale": result.time_scale,
        "requests": result.requests,
        "optimum_usd": result.optimum_usd,
        "bound_usd": result.bound_usd,
    }
    writer = csv.writer(out, lineterminator="\n")
    for i, outcome in enumerate(result.outcomes):
        row = {**head, **outcome.to_json()}
        if i == 0:
            writer.writerow(row)
        writer.writerow(row.values())
