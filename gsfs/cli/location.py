"""``gsfs location``: add, list, show, test, leave and remove the places where bytes are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from gsfs.backends.spec import LocationSpec
from gsfs.cli.shell import (
    Command,
    ask,
    ask_with_progress,
    config_of,
    human,
    print_json,
    print_table,
    read_config,
)
from gsfs.config import Config, parse
from gsfs.errors import ConfigError, ExitCode, InvalidArgument, NotAnswering, NotFoundError

SECRET_KEYS = (
    "access_key",
    "secret_key",
    "session_token",
    "account_key",
    "connection_string",
    "sas",
    "proxy",
)


NUMBERS: dict[str, tuple[Callable[[str], float], ...]] = {"int": (int,), "float": (int, float)}


@click.group()
def location() -> None:
    """Locations: the buckets, containers and directories that hold the bytes."""


location.epilog = "Example: gsfs location test demo.toml aws:us-east-1"


@location.command("list", cls=Command, example="gsfs location list /mnt/demo")
@click.argument("target", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(target: str | None, as_json: bool) -> None:
    """List the locations of a mount (or of a configuration file): kind, place, state, what they hold."""
    config, _ = config_of(target)
    rows = _rows(config)
    if as_json:
        print_json(rows)
        return
    print_table(
        ["location", "kind", "place", "state", "stored"],
        [[r["id"], r["kind"], r["place"], r["state"], human(r["bytes"])] for r in rows],
    )


def _rows(config: Config) -> list[dict[str, Any]]:
    """What the file says, and what the daemon knows where one answers."""
    try:
        live = {row["id"]: row for row in ask(config, "status")["locations"]}
    except NotAnswering:
        live = {}
    rows = []
    for spec in config.location:
        known = live.get(spec.id, {})
        rows.append(
            {
                "id": spec.id,
                "kind": spec.kind,
                "place": spec.path or spec.bucket,
                "state": known.get("state", "not mounted"),
                "cause": known.get("cause", ""),
                "bytes": known.get("bytes"),
                "replicas": known.get("replicas", {}),
                "requests": known.get("requests", {}),
            }
        )
    return rows


@location.command("show", cls=Command, example="gsfs location show /mnt/demo aws:us-east-1")
@click.argument("target")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(target: str, name: str, as_json: bool) -> None:
    """Show one location: its settings (secrets hidden), its state, its replicas and requests."""
    config, _ = config_of(target)
    spec = _spec(config, name)
    row = next(row for row in _rows(config) if row["id"] == name)
    settings = {
        key: ("***" if key in SECRET_KEYS else getattr(spec, key))
        for key in spec.__struct_fields__
        if getattr(spec, key) not in ("", None)
    }
    if as_json:
        print_json({**row, "settings": settings})
        return
    for key, value in {**settings, **{k: v for k, v in row.items() if k not in ("id", "kind")}}.items():
        click.echo(f"{key:28} {value}")


def _spec(config: Config, name: str) -> Any:
    spec = next((spec for spec in config.location if spec.id == name), None)
    if spec is None:
        raise NotFoundError(f"{name}: no such location; there are {', '.join(s.id for s in config.location)}")
    return spec


@location.command("test", cls=Command, example="gsfs location test demo.toml aws:us-east-1")
@click.argument("target")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test(target: str, name: str, as_json: bool) -> None:
    """Prove credentials and every operation that gsfs needs, and print latency and throughput.

    Writes about 8 MiB under gsfs-test/ and removes it. Exit code 5 where something fails.
    """
    import trio

    from gsfs.backends.registry import open_location
    from gsfs.proving import Proof, prove

    config, _ = config_of(target)
    spec = _spec(config, name)

    async def main() -> list[Proof]:
        place = open_location(spec)
        proofs = []
        try:
            async for proof in prove(place):
                proofs.append(proof)
                if not as_json:
                    mark = "ok  " if proof.ok else "FAIL"
                    click.echo(f"{mark} {proof.operation:26} {proof.seconds * 1000:8.1f} ms  {proof.detail}")
        finally:
            await place.aclose()
        return proofs

    proofs = trio.run(main)
    if as_json:
        print_json(
            [{"operation": p.operation, "ok": p.ok, "seconds": p.seconds, "detail": p.detail} for p in proofs]
        )
    if not all(proof.ok for proof in proofs):
        sys.exit(int(ExitCode.UNAVAILABLE))


@location.command(
    "add", cls=Command, example="gsfs location add demo.toml id=gcp:us-west1 kind=gcs bucket=my-bucket"
)
@click.argument("config", type=click.Path(readable=False))
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
def add(config: str, settings: tuple[str, ...]) -> None:
    """Add a location to CONFIG, and to its mount if there is one.

    Settings are those of [[location]] in docs/gsfs.sample.toml; write secrets as '${VAR}'.
    """
    import tomlkit

    path = Path(config)
    read_config(config)
    document = tomlkit.parse(path.read_text())
    table = tomlkit.table()
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InvalidArgument(f"{setting!r}: takes KEY=VALUE")
        if key in SECRET_KEYS and "${" not in value:
            raise InvalidArgument(f"{key}: is a secret; write ${{VAR}} and set the environment variable")
        if key in table:
            raise InvalidArgument(f"{key}: is given twice; takes one value")
        table.add(key, _typed(key, value))
    document["location"].append(table)
    parse(document.unwrap(), os.environ, str(path.resolve()))
    _replace(path, tomlkit.dumps(document))
    changed = read_config(config)
    try:
        ask(changed, "location_add", id=changed.location[-1].id)
        click.echo(f"{changed.location[-1].id} added; the mount uses it from now on")
    except NotAnswering:
        click.echo(f"{changed.location[-1].id} added; the next mount uses it")


def _typed(key: str, value: str) -> Any:
    """As the key wants it: a bucket may be called 2024, and a limit is a number."""
    wanted = LocationSpec.__annotations__.get(key, "str")
    if "bool" in wanted and value in ("true", "false"):
        return value == "true"
    for reader in NUMBERS.get(wanted, ()):
        with suppress(ValueError):
            return reader(value)
    return value


def _replace(path: Path, text: str) -> None:
    """A crash leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.chmod(path.stat().st_mode & 0o777)
    os.replace(temporary, path)


@location.command(
    "drain", cls=Command, example="gsfs location drain /mnt/demo aws:us-east-1 --to gcp:us-west1"
)
@click.argument("target")
@click.argument("name")
@click.option(
    "--to", default=None, help="Where its bytes go. Default: the first other location this mount prefers."
)
@click.option("--dry-run", is_flag=True, help="Only show what would move, and its price.")
@click.option("--undo", is_flag=True, help="Take new objects there again.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; does not ask.")
def drain(
    target: str, name: str, to: str | None, dry_run: bool, undo: bool, yes: bool, as_json: bool
) -> None:
    """Move every byte away from a location, while the file system is in use; its price is shown first.

    New objects go elsewhere at once. Broken off, it is resumed by the same command.
    """
    config, _ = config_of(target)
    if undo:
        ask(config, "location_stay", name=name)
        click.echo(f"{name} takes new objects again")
        return
    plan = ask(config, "location_survey", name=name, to=to)
    if not as_json:
        usd = f", for {plan['once_usd']} USD" if plan["once_usd"] is not None else ""
        click.echo(
            f"{plan['objects_to_copy']} objects ({human(plan['bytes_to_copy'])}) go from {name} to {plan['to']}{usd}; "
            f"{plan['objects_elsewhere']} are elsewhere already"
        )
    if dry_run:
        if as_json:
            print_json(plan)
        return
    if not (yes or as_json):
        click.confirm("go on?", abort=True)
    answer = ask_with_progress(config, "copying", "location_leave", name=name, to=to)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{name} holds nothing any more; remove it with: gsfs location rm {target} {name}")


@location.command("rm", cls=Command, example="gsfs location rm /mnt/demo aws:us-east-1")
@click.argument("target")
@click.argument("name")
def rm(target: str, name: str) -> None:
    """Remove a location that holds nothing any more from the configuration. The mount must be running."""
    import tomlkit

    config, _ = config_of(target)
    _spec(config, name)
    for key, value in (
        ("bucket_defaults.home", config.bucket_defaults.home),
        ("namespace.ship_to", config.ship_to),
    ):
        if value == name:
            raise ConfigError(
                f"{name}: is named by {key} in {config.path}; name another location there first"
            )
    ask(config, "location_forget", name=name)
    path = Path(config.path)
    document = tomlkit.parse(path.read_text())
    tables = document["location"]
    for at, table in enumerate(tables):
        if table["id"] == name:
            del tables[at]
            break
    _replace(path, tomlkit.dumps(document))
    click.echo(f"{name} removed")
