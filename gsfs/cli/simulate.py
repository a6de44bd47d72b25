"""``gsfs simulate``: replay a trace through the policies, or generate one. Owns options and printing only."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gsfs.cli.shell import Command, print_json
from gsfs.errors import InvalidArgument, NotFoundError
from gsfs.policy.prices import load_prices
from gsfs.sim.assign import Assigner, Assignment
from gsfs.sim.formats import open_trace, write_csv, write_ibm
from gsfs.sim.generate import Scale, generate
from gsfs.sim.html import page
from gsfs.sim.report import table
from gsfs.sim.report import write_csv as write_results
from gsfs.sim.run import DEFAULT_POLICIES, Result, parse_spec
from gsfs.sim.run import simulate as run
from gsfs.sim.statistics import bucket
from gsfs.sim.world import World, make_world, parse_regions

RECORDED = "recorded"
"""``--assign recorded``: the trace itself says where its requests come from."""

EXAMPLE = (
    "gsfs simulate traces/t65.txt.gz --policy adaptive,t_even,forever,none,all --regions 3 --time-scale 90"
)


@click.command("simulate", cls=Command, example=EXAMPLE)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policies",
    default=DEFAULT_POLICIES,
    show_default=True,
    help="Policies to compare, separated by commas: TTL rules (with writes to the writer's region),"
    " placements (with no replicas on read), or PLACEMENT/TTL.",
)
@click.option("--regions", default="3", show_default=True, help="2, 3, 6, 9, or names separated by commas.")
@click.option(
    "--prices", type=click.Path(path_type=Path), help="CSV file whose rows replace the shipped prices."
)
@click.option(
    "--assign",
    type=click.Choice([*Assignment, RECORDED]),
    default="D",
    show_default=True,
    help="Which region requests come from, when the trace does not say (types A to E of the SkyStore paper).",
)
@click.option(
    "--time-scale",
    default=1.0,
    show_default=True,
    help="Seconds of storage per second of the trace; more than 0.",
)
@click.option("--seed", default=1, show_default=True, help="Of the assignment, and of --generate.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the results as CSV.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write a report as one HTML file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--generate",
    "bucket_name",
    help="Write TRACE instead, with the published statistics of this IBM bucket (T0 to T97);"
    " .csv selects the CSV format, .gz compresses.",
)
@click.option("--objects", default=2_000, show_default=True, help="Objects to generate, at most.")
@click.option("--max-reads", default=300, show_default=True, help="Reads to generate per object, at most.")
def simulate(
    *,
    trace: Path,
    policies: str,
    regions: str,
    prices: Path | None,
    assign: str,
    time_scale: float,
    seed: int,
    csv_path: Path | None,
    html_path: Path | None,
    as_json: bool,
    bucket_name: str | None,
    objects: int,
    max_reads: int,
) -> None:
    """Replay TRACE through the policies that a mount uses, and compare what they cost.

    TRACE is a file in the SNIA IBM Object Store format, CSV, an S3 server access log, or recorded from a mount;
    gzip is recognised. Prices and links ship with gsfs; traces/README.md describes the formats.
    """
    if bucket_name is not None:
        if objects < 1 or max_reads < 0:
            raise InvalidArgument(
                f"--objects {objects} --max-reads {max_reads}: takes 1 or more, and 0 or more"
            )
        _generate(trace, bucket_name, Scale(objects, max_reads), seed)
        return
    specs = [spec.strip() for spec in policies.split(",") if spec.strip()]
    _check(specs, time_scale, (csv_path, html_path))
    world = make_world(parse_regions(regions), load_prices(prices))
    kind = None if assign == RECORDED else Assignment(assign)
    result = _replay(trace, specs, world, Assigner(world.regions, kind, time_scale, seed))
    _report(result, csv_path, html_path, as_json=as_json)


def _check(specs: list[str], time_scale: float, results: tuple[Path | None, ...]) -> None:
    """What would be noticed only after a long replay otherwise. Raises InvalidArgument, ConfigError, NotFoundError."""
    if not specs:
        raise InvalidArgument(f"--policy: takes names separated by commas, such as {DEFAULT_POLICIES}")
    for spec in specs:
        parse_spec(spec)
    if not 0 < time_scale < math.inf:
        raise InvalidArgument(f"--time-scale {time_scale:g}: takes a number above 0")
    for path in results:
        if path is not None and not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise NotFoundError(f"{path}: cannot be written there")


def _replay(trace: Path, specs: list[str], world: World, assigner: Assigner) -> Result:
    """Simulate with a bar over the bytes of the file, on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[n]}"),
    )
    with open_trace(trace) as opened, Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(trace.name, total=trace.stat().st_size, n="")
        done = 0

        def progress(requests: int) -> None:
            nonlocal done
            done += requests
            bar.update(task, completed=opened.position(), n=f"{done:,} requests")

        try:
            return run(opened.rows, world, specs, assigner, trace=trace.name, progress=progress)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InvalidArgument(f"{trace}: is cut off or damaged: {error}") from None


def _report(result: Result, csv_path: Path | None, html_path: Path | None, *, as_json: bool) -> None:
    if csv_path is not None:
        with _create(csv_path) as out:
            write_results(result, out)
    if html_path is not None:
        with _create(html_path) as out:
            out.write(page(result))
    if as_json:
        print_json(result.to_json())
    else:
        Console(width=None if Console().is_terminal else 130).print(table(result))


def _generate(path: Path, name: str, scale: Scale, seed: int) -> None:
    """Write a trace. Compressed files carry no time stamp, so that the same arguments give the same bytes."""
    rows = generate(bucket(name), scale, seed)
    write = write_csv if ".csv" in path.suffixes else write_ibm
    with ExitStack() as stack:
        if path.suffix == ".gz":
            raw = stack.enter_context(_create_binary(path))
            packed = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0))
            out: IO[str] = stack.enter_context(io.TextIOWrapper(packed, "utf-8"))
        else:
            out = stack.enter_context(_create(path))
        count = write(rows, out)
    click.echo(f"{path}: {count} requests with the statistics of {name.upper()}")


def _create(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as e:
        raise NotFoundError(f"{path}: cannot write: {e.strerror}") from e


def _create_binary(path: Path) -> IO[bytes]:
    try:
        return path.open("wb")
    except OSError as e:
        raise NotFoundError(f"{path}: cannot write: {e.strerror}") from e


if __name__ == "__main__":
    simulate()
