"""``gsfs init``: a configuration file if there is none, and the namespace it describes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from gsfs import mounts
from gsfs.cli.shell import Command, read_config
from gsfs.errors import ConfigError, PermissionRefused
from gsfs.namespace.store import create, open_database

TEMPLATE = """\
# Written by `gsfs init`. Every key is explained in docs/gsfs.sample.toml.
[filesystem]
name = "{name}"

[namespace]
url = "sqlite:///{cache}/namespace.db"

[cache]
path = "{cache}"
size = "10GiB"

[[location]]
id = "local:store"
kind = "local"
path = "{store}"

[bucket_defaults]
home = "local:store"
{mount}"""
OWN_MOUNT = """
[mount]
allow_other = false # others may use the mount once root puts user_allow_other in /etc/fuse.conf
"""


@click.command(cls=Command, example="gsfs init demo.toml --store /srv/store --cache /srv/cache")
@click.argument("config", type=click.Path(readable=False))
@click.option(
    "--store", type=click.Path(readable=False), help="Write CONFIG, with this directory as the location."
)
@click.option("--cache", type=click.Path(readable=False), help="With --store: the cache directory.")
def init(config: str, store: str | None, cache: str | None) -> None:
    """Create the namespace that CONFIG describes.

    With --store and --cache, CONFIG itself is written first: a namespace embedded in the cache directory,
    and a plain directory as its only location. An existing CONFIG or namespace is never changed.
    """
    if (store is None) != (cache is None):
        raise ConfigError("--store and --cache go together")
    if store is not None and cache is not None:
        _write_config(Path(config), os.path.abspath(store), os.path.abspath(cache))
    settings = read_config(config)
    for spec in settings.location:
        if spec.kind == "local":
            _make(Path(spec.path))
    database = open_database(settings.namespace.url, create=True)
    try:
        create(database, settings.filesystem.name, uid=os.geteuid(), gid=os.getegid())
    finally:
        database.close()
    click.echo(
        f"namespace {settings.filesystem.name!r} created; mount it with: gsfs mount {config} MOUNTPOINT"
    )


def _write_config(path: Path, store: str, cache: str) -> None:
    if path.exists():
        raise ConfigError(f"{path}: exists already; leave out --store and --cache to use it")
    if any(c in store + cache + path.stem for c in '"\\\n'):
        raise ConfigError("CONFIG, --store, --cache: take paths without quotes, backslashes and newlines")
    _make(Path(store))
    _make(Path(cache))
    mount = "" if mounts.may_allow_other() else OWN_MOUNT
    path.write_text(
        TEMPLATE.format(
            name=re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)[:64], store=store, cache=cache, mount=mount
        )
    )


def _make(path: Path) -> None:
    """Only its owner's: whoever reads the store or the cache reads every file, whatever its mode says."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise PermissionRefused(f"{path}: cannot be made: {error.strerror}") from None
