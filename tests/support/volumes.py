"""Volumes without FUSE for tests: on temporary directories, opened, closed and opened again at will."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from gsfs import config
from gsfs.filesystem.core import Caller
from gsfs.model import ROOT_INO, Ino
from gsfs.namespace.store import create, open_database
from gsfs.volume import Volume

ROOT = Caller(0, 0)
SOMEBODY = Caller(65534, 65534)
T = TypeVar("T")


def settings(home: Path, **sections: dict[str, Any]) -> config.Config:
    """A configuration with everything below ``home``; ``sections`` override its tables."""
    raw: dict[str, Any] = {
        "filesystem": {"name": "test"},
        "namespace": {"url": f"sqlite:///{home}/cache/namespace.db"},
        "cache": {"path": f"{home}/cache", "min_free": "64MiB"},
        "location": [{"id": "local:store", "kind": "local", "path": f"{home}/store"}],
        "bucket_defaults": {"home": "local:store"},
    }
    for name, values in sections.items():
        raw[name] = raw.get(name, {}) | values
    return config.parse(raw, {}, str(home / "gsfs.toml"))


def make_namespace(chosen: config.Config) -> None:
    """What ``gsfs init`` does."""
    for spec in chosen.location:
        if spec.kind == "local":
            Path(spec.path).mkdir(parents=True, exist_ok=True)
    chosen.cache_dir.mkdir(parents=True, exist_ok=True)
    database = open_database(chosen.namespace.url, create=True)
    try:
        create(database, chosen.filesystem.name, uid=0, gid=0)
    finally:
        database.close()


@contextmanager
def opened(chosen: config.Config) -> Iterator[Volume]:
    """The volume, its background movers not running; closed cleanly afterwards."""
    volume = Volume(chosen)
    try:
        yield volume
    finally:
        trio.run(volume.close)


def make_bucket(volume: Volume, name: bytes = b"bucket") -> Ino:
    """A virtual bucket of everybody's; returns its directory."""
    return volume.names.mkdir(ROOT_INO, name, 0o777, ROOT).ino


def now(function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    """Run a coroutine of the volume to its end."""
    return trio.run(function, *arguments)


def write_file(volume: Volume, parent: int, name: bytes, data: bytes, *, mode: int = 0o644) -> Ino:
    """A new file with that content."""
    inode = volume.names.create(parent, name, mode, ROOT)
    handle = volume.content.open_inode(inode, 2)
    now(volume.content.write, handle, 0, data)
    volume.content.release(handle)
    return inode.ino


def read_file(volume: Volume, ino: int) -> bytes:
    """All its bytes, as one read returns them."""
    handle, _ = volume.content.open(ino, 0)

    async def read() -> bytes:
        return bytes(await volume.content.read(handle, 0, volume.core.inode(ino).size))

    try:
        return trio.run(read)
    finally:
        volume.content.release(handle)


def list_names(volume: Volume, ino: int) -> list[bytes]:
    """Names in a directory, without the dots."""
    handle = volume.directories.opendir(ino)
    try:
        return [
            entry.name for entry in volume.directories.listing(handle, 0) if entry.name not in (b".", b"..")
        ]
    finally:
        volume.directories.releasedir(handle)
