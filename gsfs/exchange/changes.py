"""What changed in a bucket that is exported continuously. Owns the set of paths to look at; looks at nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from gsfs.model import Ino
from gsfs.namespace.inodes import Inode
from gsfs.namespace.store import Store


class Changes:
    """Paths (in the bucket, without a leading /) at and below which the copy may be out of date."""

    def __init__(self) -> None:
        self.paths: set[bytes] = set()
        self.busy: dict[Ino, set[bytes]] = {}
        """Paths of files that were open for writing when they were looked at."""
        self.more = trio.Event()

    def add(self, paths: Iterable[bytes]) -> None:
        self.paths.update(paths)
        if self.paths:
            self.more.set()

    async def take(self) -> set[bytes]:
        """Wait until there are some, and take them; what lies below another of them is looked at with it."""
        await self.more.wait()
        self.more = trio.Event()
        taken, self.paths = self.paths, set()
        return {path for path in taken if not any(above in taken for above in _above(path))}


def _above(path: bytes) -> list[bytes]:
    """Paths of the directories that a path lies in, the bucket's (b"") included."""
    if not path:
        return []
    parts = path.split(b"/")
    return [b"/".join(parts[:depth]) for depth in range(len(parts))]


class BucketFollower:
    """Turns changes of one bucket's inodes and names into paths, for each of its exports."""

    def __init__(self, store: Store, bucket: Ino, exported_as: Callable[[Ino], Iterable[bytes]]) -> None:
        self._store = store
        self._bucket = bucket
        self._exported_as = exported_as
        self._directories: dict[Ino, bytes] = {}  # paths with their trailing /; forgotten when a tree moves
        self.exports: list[Changes] = []

    def name_changed(self, directory: Inode, name: bytes, *, tree: bool) -> None:
        """See ``filesystem.core.Follower``."""
        if tree:
            self._directories.clear()
        path = self._path(directory)
        if path is not None:
            for changes in self.exports:
                changes.add([path + name])

    def content_changed(self, inode: Inode) -> None:
        """See ``filesystem.core.Follower``. A file that was never exported is known by its new name."""
        known = list(self._exported_as(inode.ino))
        for changes in self.exports:
            changes.add([*known, *changes.busy.pop(inode.ino, ())])

    def _path(self, directory: Inode) -> bytes | None:
        """b"" for the bucket, else ending in /; None for a directory that is no longer in it."""
        if directory.ino == self._bucket:
            return b""
        known = self._directories.get(directory.ino)
        if known is None and directory.parent != directory.ino:
            parent = self._store.inodes.get(directory.parent)
            above = self._path(parent)
            name = self._store.entries.name_of(parent.ino, directory.ino)
            if above is None or name is None:
                return None
            known = self._directories[directory.ino] = above + name + b"/"
        return known
