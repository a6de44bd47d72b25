"""``gsfs init``: a configuration file if there is none, and the namespace it describes."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click

from gsfs import mounts
from gsfs.cli.shell import Command, read_config
from gsfs.errors import ConfigError, PermissionRefused
from gsfs.model import GIB, MIB

TEMPLATE = """\
# Written by `gsfs init`. Every key is explained in docs/gsfs.sample.toml.
[filesystem]
name = "{name}"

[namespace]
url = "sqlite:///{url}/namespace.db"

[cache]
path = "{cache}"
size = "{size}"
min_free = "{min_free}" # of the disk it lies on

[[location]]
id = "local:store"
kind = "local"
path = "{store}"

[bucket_defaults]
home = "local:store"
{mount}"""
TEMPLATE_CACHE_BYTES = 10 * GIB
TEMPLATE_MIN_FREE_BYTES = GIB
TEMPLATE_LEAST_BYTES = 64 * MIB
"""Four segments, the least that a cache may be."""
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
    from gsfs.namespace.store import create, open_database

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
        f"namespace {settings.filesystem.name!r} created; mount it with: gsfs mount {shlex.quote(config)} MOUNTPOINT"
    )


def _write_config(path: Path, store: str, cache: str) -> None:
    if path.exists():
        raise ConfigError(f"{path}: exists already; leave out --store and --cache to use it")
    for text in (str(path), store, cache):
        if not text.isprintable() or any(c in text for c in ('"', "\\", "${")):
            raise ConfigError(
                f"{text!r}: CONFIG, --store and --cache take paths of printable text, without quotes, backslashes and ${{"
            )
    if _overlap(store, cache):
        raise ConfigError(f"--store {store}, --cache {cache}: one lies in the other; take two directories")
    for directory in (path.parent, Path(store), Path(cache)):
        _make(directory)
    text = TEMPLATE.format(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)[:64],
        store=store,
        cache=cache,
        url=cache.replace("%", "%25").replace("?", "%3F"),
        size=_size(TEMPLATE_CACHE_BYTES, _free_bytes(cache) // 2),
        min_free=_size(TEMPLATE_MIN_FREE_BYTES, _free_bytes(cache) // 10),
        mount="" if mounts.may_allow_other() else OWN_MOUNT,
    )
    try:
        path.write_text(text)
    except OSError as error:
        raise PermissionRefused(f"{path}: cannot be written: {error.strerror}") from None


def _free_bytes(directory: str) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _size(wanted_bytes: int, most_bytes: int) -> str:
    """What is usual, or less where the disk is small; in GiB or MiB."""
    if most_bytes >= wanted_bytes:
        return f"{wanted_bytes // GIB}GiB"
    return f"{max(most_bytes, TEMPLATE_LEAST_BYTES) // MIB}MiB"


def _overlap(one: str, other: str) -> bool:
    return os.path.commonpath([one, other]) in (one, other)


def _make(path: Path) -> None:
    """Only its owner's: whoever reads the store or the cache reads every file, whatever its mode says."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise PermissionRefused(f"{path}: cannot be made: {error.strerror}") from None
