"""``gsfs bucket``: make, list, show, change and remove virtual buckets, mounted or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from gsfs import mounts
from gsfs.cli.shell import Command, ask, config_of, human, print_json, print_table, read_config, say
from gsfs.config import Config
from gsfs.errors import ConfigError, InvalidArgument, NotAnswering

CONFIG_HELP = "Configuration file, for a namespace that is not mounted; BUCKET is then a name."


@click.group()
def bucket() -> None:
    """Virtual buckets: the top-level directories, with their policies.

    BUCKET is a path in a mount, such as /mnt/demo/photos; with -c CONFIG it is a name.
    """


bucket.epilog = "Example: gsfs bucket create /mnt/demo/photos durability=remote"


def place(path: str, config: str | None) -> tuple[Config, str]:
    """(configuration, bucket's name)."""
    if config is not None:
        return read_config(config), path
    absolute = Path(os.path.realpath(path))
    entry = mounts.containing(absolute)
    if entry is None or absolute == entry.mountpoint:
        raise ConfigError(
            f"{path}: takes a bucket in a mount, such as /mnt/demo/photos, or -c CONFIG and a name"
        )
    return read_config(entry.source), absolute.relative_to(entry.mountpoint).parts[0]


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InvalidArgument(f"{setting!r}: takes KEY=VALUE, such as ttl=adaptive")
        parsed[key] = value
    return parsed


def _either(config: Config, command: str, **arguments: Any) -> Any:
    """Ask the daemon; where none listens, do it on the namespace itself."""
    try:
        return ask(config, command, **arguments)
    except NotAnswering:
        from gsfs.cli import offline

        return offline.answer(config, command, **arguments)


@bucket.command(
    "create", cls=Command, example="gsfs bucket create /mnt/demo/photos durability=remote quota_bytes=100GiB"
)
@click.argument("bucket")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-c", "--config", help=CONFIG_HELP)
def create(bucket: str, settings: tuple[str, ...], config: str | None) -> None:
    """Make BUCKET.

    Settings: home, durability (writeback, local, remote, remote:N), quota_bytes, quota_inodes; and with a
    region in the configuration: placement, ttl, on_read, budget, budget_warn, budget_action (docs/policies.md).
    """
    cfg, name = place(bucket, config)
    parsed = parse_settings(settings)
    _either(cfg, "bucket_create", name=name, settings=parsed, uid=os.geteuid(), gid=os.getegid())
    click.echo(f"bucket {name!r} created")


@bucket.command("list", cls=Command, example="gsfs bucket list /mnt/demo")
@click.argument("target", required=False)
@click.option("-c", "--config", help=CONFIG_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(target: str | None, config: str | None, as_json: bool) -> None:
    """List the buckets of a mount."""
    cfg = read_config(config) if config else config_of(target)[0]
    rows = _either(cfg, "bucket_list")
    if as_json:
        print_json(rows)
        return
    print_table(
        ["bucket", "home", "durability", "used", "quota", "inodes"],
        [
            [
                r["name"],
                r["home"],
                _level(r),
                human(r["used_bytes"]),
                human(r["quota_bytes"]),
                str(r["used_inodes"]),
            ]
            for r in rows
        ],
    )


def _level(row: dict[str, Any]) -> str:
    return f"{row['durability']}:{row['copies']}" if row["copies"] > 1 else str(row["durability"])


@bucket.command("show", cls=Command, example="gsfs bucket show /mnt/demo/photos --json")
@click.argument("bucket")
@click.option("-c", "--config", help=CONFIG_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(bucket: str, config: str | None, as_json: bool) -> None:
    """Show one bucket's settings and usage."""
    cfg, name = place(bucket, config)
    row = _either(cfg, "bucket_show", name=name)
    if as_json:
        print_json(row)
        return
    for key, value in {**{k: v for k, v in row.items() if k != "policy"}, **row["policy"]}.items():
        say(f"{key:22}", human(value) if key.endswith("_bytes") else "-" if value is None else value)


@bucket.command(
    "set", cls=Command, example="gsfs bucket set /mnt/demo/photos durability=remote quota_bytes=none"
)
@click.argument("bucket")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("-c", "--config", help=CONFIG_HELP)
def set_(bucket: str, settings: tuple[str, ...], config: str | None) -> None:
    """Change settings of BUCKET; they hold from the next operation on."""
    cfg, name = place(bucket, config)
    parsed = parse_settings(settings)
    _either(cfg, "bucket_set", name=name, settings=parsed)
    click.echo(f"bucket {name!r} changed")


@bucket.command("rm", cls=Command, example="gsfs bucket rm /mnt/demo/photos")
@click.argument("bucket")
@click.option("-c", "--config", help=CONFIG_HELP)
def rm(bucket: str, config: str | None) -> None:
    """Remove an empty BUCKET."""
    cfg, name = place(bucket, config)
    _either(cfg, "bucket_rm", name=name)
    click.echo(f"bucket {name!r} removed")
