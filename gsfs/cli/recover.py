"""``gsfs recover``: the file system back on a new machine, from the configuration alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gsfs.cli.shell import Command, human, print_json, problems, read_config, say
from gsfs.config import Config
from gsfs.errors import ConfigError, EntryExists, NotFoundError

if TYPE_CHECKING:  # what it needs takes longer to import than the help to print
    from gsfs.restoring import Generation, Restored

SHOWN = 20


@click.command(cls=Command, example="gsfs recover demo.toml")
@click.argument("config", type=click.Path(readable=False))
@click.option(
    "--from", "from_", metavar="LOCATION", help="Where the namespace was shipped. Default: as configured."
)
@click.option(
    "--namespace-id", default="", help="Which one, where several file systems of this name share a location."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recover(config: str, from_: str | None, namespace_id: str, as_json: bool) -> None:
    """Bring the namespace that CONFIG describes back from the location it was shipped to.

    For a new machine, or after the loss of the cache directory. Refuses where the namespace exists. Files
    with bytes that had not been uploaded are listed, and in full in CACHE/recover.txt; reading them fails.
    """
    from gsfs.namespace.store import parse_url
    from gsfs.recovery import cache_location
    from gsfs.restoring import give_up_caches

    settings = read_config(config)
    target = parse_url(settings.namespace.url)
    if not isinstance(target, Path):
        raise ConfigError("namespace.url: recover is for SQLite; a PostgreSQL namespace is where it was")
    if target.exists():
        raise EntryExists(
            f"namespace {target}: exists; nothing was changed (move it away to recover over it)"
        )
    generation = _fetch(settings, from_ or settings.ship_to, namespace_id, target)
    report = give_up_caches(settings.namespace.url, cache_location(settings.cache_dir))
    listing = settings.cache_dir / "recover.txt"
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    listing.write_text(
        "".join(f"{size}\t{path}\n" for path, size in report.missing), errors="surrogateescape"
    )
    _tell(report, generation, listing, config, as_json)


def _fetch(settings: Config, location_id: str, namespace_id: str, target: Path) -> Generation:
    import trio
    from rich.progress import Progress

    from gsfs.backends.registry import open_location
    from gsfs.restoring import find, restore

    spec = next((spec for spec in settings.location if spec.id == location_id), None)
    if spec is None:
        raise NotFoundError(
            f"--from {location_id}: no such location; takes one of {', '.join(s.id for s in settings.location)}"
        )

    async def main() -> Generation:
        location = open_location(spec)
        try:
            generation = await find(location, settings.filesystem.name, namespace_id)
            with Progress(console=problems, transient=True) as bar:
                task = bar.add_task("namespace", total=sum(generation.sizes))
                await restore(
                    location,
                    settings.filesystem.name,
                    generation,
                    target,
                    lambda done, total: bar.update(task, completed=done),
                )
        finally:
            await location.aclose()
        return generation

    return trio.run(main)


def _tell(report: Restored, generation: Generation, listing: Path, config: str, as_json: bool) -> None:
    if as_json:
        answer: dict[str, Any] = {
            "inodes": report.files,
            "newest_ns": generation.newest_ns,
            "missing": [{"path": path, "bytes": size} for path, size in report.missing],
        }
        print_json(answer)
        return
    click.echo(f"recovered {report.files} inodes; mount it with: gsfs mount {shlex.quote(config)} MOUNTPOINT")
    if report.missing:
        total = sum(size for _, size in report.missing)
        click.echo(
            f"{len(report.missing)} files have bytes that were never uploaded ({human(total)}), all in {listing}:"
        )
        for path, size in report.missing[:SHOWN]:
            say(f"  {human(size):>10}  ", path)
