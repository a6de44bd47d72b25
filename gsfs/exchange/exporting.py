"""Exporting: files become plain objects whose keys are their paths. Owns what is written, and the proof of it.

Compares the files with the record of what was written, never with the location: nothing is listed or looked
up there. An object is written by a single PUT, of bytes that were all read from one state of the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import trio
import trio.lowlevel

from gsfs.backends.base import BytesSource, FileSource, Source
from gsfs.backends.checksum import crc32c
from gsfs.backends.location import Location
from gsfs.data.cache import ObjectCache
from gsfs.errors import BackendError, GsfsError, Stale
from gsfs.exchange.changes import Changes
from gsfs.exchange.keys import Misfit, Report, key_of
from gsfs.filesystem.content import Content
from gsfs.filesystem.core import Core
from gsfs.model import MIB, Ino
from gsfs.namespace.follows import Exported, Place
from gsfs.namespace.inodes import Inode
from gsfs.transfer.accounts import pays
from gsfs.transfer.reader import ReadAhead, Reader

IN_MEMORY_BYTES = 8 * MIB
"""Larger files go through a temporary file in the cache directory, so that memory does not grow with them."""
PAGE = 1000
CHANGED_TRIES = 3


class ChangedMeanwhile(GsfsError):
    """The file was written to while its bytes were read."""


class Exporter:
    """One export."""

    def __init__(
        self,
        core: Core,
        content: Content,
        reader: Reader,
        cache: ObjectCache,
        location: Location,
        place: Place,
        *,
        scratch: Path,
        workers: int,
    ) -> None:
        self._core = core
        self._store = core.store
        self._content = content
        self._reader = reader
        self._cache = cache
        self._location = location
        self._place = place
        self._scratch = scratch
        self._workers = workers

    async def bring_up_to_date(
        self, paths: Iterable[bytes], report: Report, changes: Changes | None = None
    ) -> list[tuple[bytes, str]]:
        """Write what differs at and below the paths; (path, cause) of what could not be written now.

        With ``changes`` (a followed export) what went is deleted too, and a file that is open for writing waits
        until it is closed.
        """
        failed: list[tuple[bytes, str]] = []
        taken = sorted(paths)
        send, receive = trio.open_memory_channel[tuple[bytes, Inode]](0)
        with pays(self._place.bucket):
            if changes is not None:
                failed += await self._delete(self._in_the_way(taken), report)
            async with trio.open_nursery() as nursery:
                for _ in range(self._workers):
                    nursery.start_soon(self._write, receive.clone(), report, failed)
                receive.close()
                async with send:
                    for path in taken:
                        async for found, inode in self._walk(path):
                            if self._differs(found, inode, report, changes):
                                await send.send((found, inode))
            if changes is not None:
                failed += await self._delete(self._gone(taken), report)
        return failed

    # --- what is there

    def _resolve(self, path: bytes) -> Inode | None:
        if self._store.buckets.get(self._place.bucket) is None:
            return None
        inode: Inode | None = self._core.inode(self._place.bucket)
        for name in path.split(b"/") if path else []:
            inode = self._core.find(inode.ino, name) if inode is not None else None
        return inode

    async def _walk(self, path: bytes) -> AsyncIterator[tuple[bytes, Inode]]:
        """Everything but directories, at and below a path."""
        top = self._resolve(path)
        if top is None:
            return
        if not top.is_dir:
            yield path, top
            return
        stack = [(path + b"/" if path else b"", top.ino)]
        while stack:
            above, ino = stack.pop()
            for name, inode in self._entries(ino):
                if inode.is_dir:
                    stack.append((above + name + b"/", inode.ino))
                else:
                    yield above + name, inode
            await trio.lowlevel.checkpoint()

    def _entries(self, ino: Ino) -> Iterable[tuple[bytes, Inode]]:
        """Names in a directory, read in pages as they are asked for."""
        after, upto = b"", self._store.last_entry_number
        while True:
            self._store.flush()
            rows = self._store.entries.page(ino, after, upto, PAGE)
            for row in rows:
                after = bytes(row[0])
                yield after, self._store.inodes.adopt(row[1:])
            if len(rows) < PAGE:
                return

    def _differs(self, path: bytes, inode: Inode, report: Report, changes: Changes | None) -> bool:
        """Whether the object of this path must be written now."""
        if not inode.is_regular:
            kind = "symbolic link" if stat.S_ISLNK(inode.mode) else "special file"
            report.problems.append((os.fsdecode(path), f"is a {kind}, which no object can be"))
            return False
        if changes is not None and inode.writers:
            changes.busy.setdefault(inode.ino, set()).add(path)
            return False
        known = self._store.exported.get(self._place, path)
        if known is not None and known[:3] == _facts(inode):
            report.unchanged += 1
            return False
        limits = self._location.capabilities
        try:
            key_of(self._place.prefix, path, limits.max_key_bytes)
            if inode.size > limits.max_object_bytes:
                raise Misfit(f"has {inode.size} bytes; one object takes {limits.max_object_bytes}")
        except Misfit as why:
            report.problems.append((os.fsdecode(path), str(why)))
            return False
        return True

    # --- writing

    async def _write(
        self,
        receive: trio.MemoryReceiveChannel[tuple[bytes, Inode]],
        report: Report,
        failed: list[tuple[bytes, str]],
    ) -> None:
        async with receive:
            async for path, inode in receive:
                try:
                    await self._write_one(path, self._alive(inode.ino), report)
                except Stale:
                    continue  # it was removed meanwhile
                except Misfit as why:
                    report.problems.append((os.fsdecode(path), str(why)))
                except (GsfsError, OSError) as error:
                    failed.append((path, str(error)))

    def _alive(self, ino: Ino) -> Inode:
        inode = self._core.inode(ino)
        if inode.deleted or not inode.nlink:
            raise Stale(f"inode {ino}: was removed")
        return inode

    async def _write_one(self, path: bytes, inode: Inode, report: Report) -> None:
        """One file. Raises BackendError, ChangedMeanwhile, InputOutput, OSError."""
        key = key_of(self._place.prefix, path, self._location.capabilities.max_key_bytes)
        handle = self._content.open_inode(inode, os.O_RDONLY)  # its bytes stay, should its name go
        try:
            for attempt in range(CHANGED_TRIES):
                before = _facts(inode)
                try:
                    etag = await self._put(key, inode)
                    break
                except ChangedMeanwhile:
                    if attempt == CHANGED_TRIES - 1:
                        raise
        finally:
            self._content.release(handle)
        is_new = self._store.exported.get(self._place, path) is None
        self._store.exported.put(self._place, path, Exported(*before, etag))
        self._store.changed()
        report.added += is_new
        report.changed += not is_new
        report.bytes += before[2]

    async def _put(self, key: str, inode: Inode) -> str:
        """The etag of the object."""
        facts = _facts(inode)
        if inode.size <= IN_MEMORY_BYTES:
            data = b"".join([part async for part in self._read(inode, facts)])
            return await self._put_source(key, BytesSource(data, crc32c(data)))
        if not self._cache.make_room(inode.size, look_at_disk=True):
            raise Misfit(
                f"has {inode.size} bytes, for which the cache has no room; export it with a larger one"
            )
        self._scratch.mkdir(exist_ok=True)
        spool = self._scratch / f"{inode.ino:x}-{id(inode):x}"
        try:
            checksum = 0
            with open(spool, "wb") as file:
                async for part in self._read(inode, facts):
                    checksum = crc32c(part, checksum)
                    await trio.to_thread.run_sync(file.write, part)
            return await self._put_source(key, FileSource(spool, facts[2], checksum))
        finally:
            spool.unlink(missing_ok=True)

    async def _put_source(self, key: str, source: Source) -> str:
        """The location verifies size and CRC32C before it answers."""
        return (await self._location.put(key, source)).etag

    async def _read(self, inode: Inode, facts: tuple[Ino, int, int]) -> AsyncIterator[bytes]:
        """The bytes of one state of the file. Raises ChangedMeanwhile."""
        ahead, offset, size = ReadAhead(), 0, facts[2]
        while offset < size:
            part = bytes(await self._reader.read(inode, ahead, offset, min(MIB, size - offset)))
            if _facts(inode) != facts or not part:
                raise ChangedMeanwhile("was written to while it was exported; export it again")
            yield part
            offset += len(part)

    # --- what went

    def _in_the_way(self, paths: list[bytes]) -> list[bytes]:
        """Where a file took the place of a directory, or the reverse: a location that is a directory holds only one."""
        found = []
        for top in paths:
            inode = self._resolve(top)
            if inode is None or not top:
                continue
            recorded = self._store.exported.at_or_below(self._place, top)
            found += [path for path in recorded if inode.is_dir == (path == top)]
        return found

    def _gone(self, paths: list[bytes]) -> list[bytes]:
        """Paths of objects that were written once and whose files are no more."""
        recorded = (path for top in paths for path in self._store.exported.at_or_below(self._place, top))
        return [path for path in recorded if not self._is_file(path)]

    async def _delete(self, gone: list[bytes], report: Report) -> list[tuple[bytes, str]]:
        """Delete objects; (path, cause) where that failed. Other files are written first, so that a rename shows both."""
        if not gone:
            return []
        try:
            await self._location.delete_many([self._place.prefix + path.decode() for path in gone])
        except BackendError as error:
            return [(path, str(error)) for path in gone]
        for path in gone:
            self._store.exported.remove(self._place, path)
        report.removed += len(gone)
        self._store.changed()
        return []

    def _is_file(self, path: bytes) -> bool:
        inode = self._resolve(path)
        return inode is not None and inode.is_regular


def _facts(inode: Inode) -> tuple[Ino, int, int]:
    """What changes whenever the content does."""
    return (inode.ino, inode.mtime_ns, inode.size)
