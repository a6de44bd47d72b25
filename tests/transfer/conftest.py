"""A world for each test. Owns its end, and the short ways to make files in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gsfs.filesystem.core import Caller
from gsfs.model import ROOT_INO, Ino
from tests.support.worlds import World, fast_directory

ROOT = Caller(0, 0)


class Place(World):
    """A world with one bucket."""

    def begin(self) -> None:
        self.start()

        async def make() -> Ino:
            return self.volume.names.mkdir(ROOT_INO, b"bucket", 0o755, ROOT).ino

        self.bucket = self.call(make)

    def write(self, name: bytes, data: bytes, offset: int = 0) -> None:
        """Into a file that is made if need be."""

        async def work() -> None:
            volume = self.volume
            inode = volume.names.lookup(self.bucket, name) or volume.names.create(
                self.bucket, name, 0o644, ROOT
            )
            handle, _keep = volume.content.open(inode.ino, os.O_RDWR)
            try:
                await volume.content.write(handle, offset, data)
            finally:
                volume.content.release(handle)

        self.call(work)

    def read(self, name: bytes, offset: int = 0, length: int = 1 << 20) -> bytes:
        async def work() -> bytes:
            volume = self.volume
            inode = volume.names.lookup(self.bucket, name)
            assert inode is not None, f"{name!r} is not there"
            handle, _keep = volume.content.open(inode.ino, os.O_RDONLY)
            try:
                return bytes(await volume.content.read(handle, offset, length))
            finally:
                volume.content.release(handle)

        return self.call(work)

    def exists(self, name: bytes) -> bool:
        async def work() -> bool:
            return self.volume.names.lookup(self.bucket, name) is not None

        return self.call(work)

    def unlink(self, name: bytes) -> None:
        async def work() -> None:
            self.volume.names.unlink(self.bucket, name)

        self.call(work)

    def fsync(self) -> None:
        self.call(lambda: self.volume.content.sync_inode(self.volume.store.inodes.get(self.bucket)))

    def seal(self) -> None:
        async def work() -> None:
            self.volume.segments.seal_all()

        self.call(work)

    def evict_all(self) -> None:
        """Everything that may go from the cache."""

        async def work() -> None:
            for _ in range(3):  # an arrival counts once it is durable
                self.volume.store.changed()
                await self.volume.committer.durable()
            self.volume.cache.make_room(self.volume.cache.capacity_bytes, look_at_disk=False)

        self.call(work)

    def puts(self) -> list[str]:
        """Keys of data objects sent, in order."""
        return [key for what, key in self.backend.calls if what == "put" and not key.startswith("meta/")]


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place(Path(tempfile.mkdtemp(prefix="gsfs-place-", dir=fast_directory())))
    made.begin()
    yield made
    made.end()
    assert made.deaths == []
