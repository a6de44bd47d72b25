"""Reading a file's bytes: from the log, from the cache, or through a fetch. Owns read-ahead.

What is on the local disk and in the kernel's page cache is answered without suspending.
"""

from __future__ import annotations

import errno
import os
import time

import trio

from gsfs.data.cache import BLOCK, ObjectCache, ObjectFile, mask
from gsfs.errors import GsfsError, InputOutput
from gsfs.model import KIB, MIB
from gsfs.namespace.extents import ExtentTable
from gsfs.namespace.inodes import Inode
from gsfs.namespace.runs import Run
from gsfs.transfer.downloads import Downloads

READ_MAX = 2 * MIB
"""Longest answer of one request, in bytes; the kernel asks for at most 1 MiB."""
AHEAD_START = 2 * BLOCK
AHEAD_MAX = 32 * BLOCK
AHEAD_TASKS_MAX = 8
"""Of one open file, so that a location that hangs holds up nobody else's read-ahead."""
ALL_AHEAD_TASKS_MAX = 128
INLINE_READ_BYTES = 64 * KIB
INLINE_READ_S = 0.0003
"""Small reads of a disk that usually answers sooner are done without a thread, whose hand-over would take as long."""
CHANGED_TRIES = 4
"""Objects may go while they are read, when the file is overwritten: what the file says then is read instead."""


class ReadAhead:
    """What one open file has been reading: grows while it reads on, collapses when it jumps."""

    __slots__ = ("fetched_to", "next_offset", "tasks", "window")

    def __init__(self) -> None:
        self.next_offset = 0
        self.window = 0
        self.fetched_to = 0
        self.tasks = 0  # fetches ahead that are under way

    def note(self, offset: int, length: int) -> int:
        """A read came; returns how far ahead to fetch (0: not at all)."""
        if offset == self.next_offset or self.next_offset <= offset < self.next_offset + 2 * MIB:
            self.window = min(max(self.window * 2, AHEAD_START), AHEAD_MAX) if length else self.window
        elif (
            not self.next_offset - 4 * MIB <= offset < self.next_offset
        ):  # parallel requests arrive out of order
            self.window = 0
            self.fetched_to = 0
        self.next_offset = max(offset + length, self.next_offset) if self.window else offset + length
        return self.window


class Reader:
    """One for each mount. The buffer is shared: an answer is sent before anything else runs."""

    def __init__(self, extents: ExtentTable, cache: ObjectCache, downloads: Downloads) -> None:
        self._extents = extents
        self._cache = cache
        self._downloads = downloads
        self._buffer = memoryview(bytearray(READ_MAX))
        self._spare: list[memoryview] = []
        self._ahead_tasks = 0
        self._disk_s = 1.0  # smoothed wait of small reads for the disk
        self.nursery: trio.Nursery | None = None

    async def read(self, inode: Inode, ahead: ReadAhead, offset: int, length: int) -> bytes | memoryview:
        """The file's bytes, shorter only at its end; valid until the caller suspends. Raises InputOutput."""
        end = min(offset + length, inode.size)
        if end <= offset:
            return b""
        length = min(end - offset, READ_MAX)
        end = offset + length
        window = ahead.note(offset, length)
        runs = self._extents.runs(inode, offset, end)
        buffer = self._buffer[:length]
        if self._at_once(runs, buffer, offset):
            return buffer
        return await self._wait_for(inode, ahead, runs, offset, length, window)

    def _at_once(self, runs: list[Run], buffer: memoryview, offset: int) -> bool:
        """Fill the buffer with what is here, if all of it is and the disk need not be waited for."""
        at = 0
        for run in runs:
            start = run.offset - offset
            if start > at:
                buffer[at:start] = bytes(start - at)
            at = start + run.length
            file = self._here(run)
            if file is None:
                return False
            try:
                got = os.preadv(file.fd, [buffer[start:at]], run.object_offset, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno in (
                    errno.EAGAIN,
                    errno.EOPNOTSUPP,
                ):  # the latter: a disk that cannot tell, as tmpfs
                    return False
                raise
            if got != run.length:
                return False
        if at < len(buffer):
            buffer[at:] = bytes(len(buffer) - at)
        return True

    async def _wait_for(
        self, inode: Inode, ahead: ReadAhead, runs: list[Run], offset: int, length: int, window: int
    ) -> memoryview:
        """Bytes that the disk or a location must be waited for."""
        buffer = self._spare.pop() if self._spare else memoryview(bytearray(READ_MAX))
        until = trio.current_time() + self._downloads.deadline_s
        try:
            if window:
                self._read_ahead(inode, ahead, offset + length, window)
            for attempt in range(CHANGED_TRIES):
                try:
                    await self._fill_all(buffer[:length], runs, offset, until)
                    break
                except InputOutput:
                    before, runs = runs, self._extents.runs(inode, offset, offset + length)
                    if runs == before or attempt == CHANGED_TRIES - 1:
                        raise  # not because the file was changed meanwhile
            return buffer[:length]
        finally:
            # Whoever takes it next runs only after this answer was sent.
            self._spare.append(buffer)

    async def _fill_all(self, view: memoryview, runs: list[Run], offset: int, until: float) -> None:
        at = 0
        for run in runs:
            start = run.offset - offset
            if start > at:
                view[at:start] = bytes(start - at)
            at = start + run.length
            if not self._at_once([run], view[start:at], run.offset):
                await self._fill(view[start:at], run, until)
        if at < len(view):
            view[at:] = bytes(len(view) - at)

    def _here(self, run: Run) -> ObjectFile | None:
        """The local file, if it has the run and the run was verified."""
        file = self._cache.get(run.object)
        if file is None:
            return None
        if file.growing:
            return file
        wanted = mask(run.object_offset // BLOCK, (run.object_offset + run.length - 1) // BLOCK)
        return file if file.verified & wanted == wanted else None

    async def _fill(self, view: memoryview, run: Run, until: float) -> None:
        file = self._here(run)
        if file is None:
            file = await self._bring(run, until)
        got, seconds = await self._pread(file, view, run.object_offset)
        self._disk_s += (seconds - self._disk_s) / 4
        if got != len(view):
            raise InputOutput(f"object {run.object}: its local file is shorter than it should be")

    async def _pread(self, file: ObjectFile, view: memoryview, offset: int) -> tuple[int, float]:
        """(bytes, seconds of a small read's wait for the disk); in a thread, unless it is known to be quick."""
        small = len(view) <= INLINE_READ_BYTES
        if small and self._disk_s < INLINE_READ_S:
            return _pread_fully(file.fd, view, offset)
        file.users += 1
        try:
            got, seconds = await trio.to_thread.run_sync(_pread_fully, file.fd, view, offset)
        finally:
            file.users -= 1
        return got, seconds if small else self._disk_s

    async def _bring(self, run: Run, until: float, *, patient: bool = True) -> ObjectFile:
        """Verify what an earlier run left, or fetch; all of it before ``until``, on trio's clock."""
        object_ = self._downloads.describe(run.object)
        if object_ is None:
            raise InputOutput(f"object {run.object}: has no row")
        first, last = run.object_offset // BLOCK, (run.object_offset + run.length - 1) // BLOCK
        for _ in range(3):  # fetched blocks may be evicted before they are used, when the cache is tiny
            if not await self._downloads.verify(object_, first, last):
                await self._downloads.fetch(object_, first, last, until=until, patient=patient)
            file = self._here(run)
            if file is not None:
                return file
        raise InputOutput(f"object {run.object}: blocks {first}..{last} do not stay in the cache")

    # --- read-ahead

    def _read_ahead(self, inode: Inode, ahead: ReadAhead, end: int, window: int) -> None:
        """Start to fetch what a sequential reader will want next."""
        start, stop = max(end, ahead.fetched_to), min(end + window, inode.size)
        if stop - start < min(BLOCK, window // 2) or self.nursery is None or ahead.tasks >= AHEAD_TASKS_MAX:
            return
        ahead.fetched_to = stop
        for run in self._extents.runs(inode, start, stop):
            file = self._here(run)
            if file is not None:
                os.posix_fadvise(file.fd, run.object_offset, run.length, os.POSIX_FADV_WILLNEED)
                continue
            if self._ahead_tasks >= ALL_AHEAD_TASKS_MAX:
                return
            self._ahead_tasks += 1
            ahead.tasks += 1
            self.nursery.start_soon(self._prefetch, ahead, run)

    async def _prefetch(self, ahead: ReadAhead, run: Run) -> None:
        try:
            await self._bring(run, trio.current_time() + self._downloads.deadline_s, patient=False)
        except (GsfsError, OSError):
            pass  # whoever really reads it is told
        finally:
            self._ahead_tasks -= 1
            ahead.tasks -= 1


def _pread_fully(fd: int, view: memoryview, offset: int) -> tuple[int, float]:
    """(bytes, seconds)."""
    done, began = 0, time.perf_counter()
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if not got:
            break
        done += got
    return done, time.perf_counter() - began
