"""Open files: open, read, write, fsync, close. Owns handles and what durability means at each of them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable

from gsfs.data.segments import LONG_WRITER_BYTES
from gsfs.errors import BadHandle, InputOutput, InvalidArgument, IsADirectory, NoSpace, Stale, TooLarge
from gsfs.filesystem.attributes import Attributes
from gsfs.filesystem.core import SUPERUSER, Caller, Core
from gsfs.model import FILE_SIZE_MAX, Durability
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.inodes import Inode
from gsfs.transfer.committer import Committer
from gsfs.transfer.pressure import Pressure
from gsfs.transfer.reader import ReadAhead, Reader


class Handle:
    """One open file."""

    __slots__ = ("ahead", "inode", "next_write", "reads", "streak", "tells_access", "writes", "writes_around")

    def __init__(self, inode: Inode, flags: int) -> None:
        access = flags & os.O_ACCMODE
        self.inode = inode
        self.reads = access in (os.O_RDONLY, os.O_RDWR)
        self.writes = access in (os.O_WRONLY, os.O_RDWR)
        self.writes_around = self.writes and bool(flags & os.O_DIRECT)
        self.tells_access = not flags & os.O_NOATIME
        self.ahead = ReadAhead()
        self.next_write = 0  # where the last write ended
        self.streak = 0  # bytes written in a row


class Content:
    """Bytes in and out of files."""

    def __init__(
        self, core: Core, attributes: Attributes, reader: Reader, pressure: Pressure, committer: Committer
    ) -> None:
        self._core = core
        self._store = core.store
        self._attributes = attributes
        self._reader = reader
        self._pressure = pressure
        self._committer = committer
        self._handles: dict[int, Handle] = {}
        self._next_handle = 1
        self.ensure_remote: Callable[[Inode, Bucket], Awaitable[None]] | None = None
        """Returns when all of the inode's bytes, its bucket's, and the metadata naming them are at locations."""

    # --- open and close

    def open(self, ino: int, flags: int, caller: Caller = SUPERUSER) -> tuple[int, bool]:
        """(handle, whether the kernel may keep what it has cached). O_TRUNC empties the file."""
        inode = self._core.inode(ino)
        if inode.deleted:
            raise Stale(f"inode {ino}: was removed")
        if inode.is_dir:
            raise IsADirectory(f"inode {ino}: is a directory")
        if not stat.S_ISREG(inode.mode):
            raise InvalidArgument(f"inode {ino}: not a regular file")
        if flags & os.O_TRUNC:
            self._attributes.truncate(inode, 0)
            self._attributes.drop_privileges(inode, caller)
            self._core.touch_content(inode, self._core.now())
            self._store.changed()
        number = self.open_inode(inode, flags)
        handle = self._handles[number]
        keep = not (handle.reads and self._core.access_time_is_stale(inode))
        if inode.uncached:
            # The kernel drops its cache before an asynchronous direct write, but not after it.
            keep = False
            inode.uncached = handle.writes_around or inode.opens > 1
        return number, keep

    def open_inode(self, inode: Inode, flags: int) -> int:
        """A handle on an inode that is known to be a file."""
        handle = Handle(inode, flags)
        inode.opens += 1
        if handle.writes:
            inode.writers += 1
            if handle.writes_around:
                inode.uncached = True
        number = self._next_handle
        self._next_handle = number + 1
        self._handles[number] = handle
        return number

    def handle(self, number: int) -> Handle:
        handle = self._handles.get(number)
        if handle is None:
            raise BadHandle(f"handle {number}: not open")
        return handle

    def release(self, number: int) -> None:
        """The last reference to the handle is gone."""
        handle = self._handles.pop(number, None)
        if handle is None:
            return
        inode = handle.inode
        inode.opens -= 1
        if handle.writes:
            inode.uncached |= handle.writes_around
            inode.writers -= 1
            if self._core.recorder is not None and handle.next_write:
                self._core.recorder.written(inode)
            if not inode.writers:
                self._core.segments.release(inode.ino)
                if self._core.followers:
                    self._core.note_content(inode)
        if not inode.opens and inode.nlink == 0 and not inode.deleted:
            self._core.bury(inode, is_orphan=True)

    async def flush(self, number: int) -> None:
        """close(2): waits only where the bucket promises that closed files are at a location."""
        handle = self._handles.get(number)
        if handle is not None and handle.writes and handle.inode.nlink and self._waits(handle.inode):
            await self.sync_inode(handle.inode)

    def waits_at_close(self, ino: int) -> bool:
        """Whether ``flush`` is to be called for a file opened now, or made in that directory."""
        return self._waits(self._core.inode(ino))

    def _waits(self, inode: Inode) -> bool:
        bucket = self._store.buckets.get(inode.bucket)
        return bucket is not None and bucket.durability is Durability.REMOTE

    # --- reading and writing

    async def read(self, number: int, offset: int, length: int) -> bytes | memoryview:
        """Bytes of the file; the answer is valid until the caller suspends."""
        handle = self._handles.get(number)
        if handle is None:
            raise BadHandle(f"handle {number}: not open")
        if self._core.recorder is not None and not handle.ahead.next_offset and handle.inode.size:
            self._core.recorder.read(handle.inode)
        data = await self._reader.read(handle.inode, handle.ahead, offset, length)
        if handle.tells_access:
            self._core.touch_access(handle.inode)
        return data

    async def write(self, number: int, offset: int, data: bytes) -> int:
        """Append to the log and let the file refer to it; the number of bytes taken."""
        handle = self._handles.get(number)
        if handle is None:
            raise BadHandle(f"handle {number}: not open")
        length = len(data)
        if offset + length > FILE_SIZE_MAX:
            raise TooLarge(f"write at {offset}: files end at {FILE_SIZE_MAX}")
        if not self._pressure.admits(length):
            await self._pressure.wait(length, handle.inode.bucket)
        inode = handle.inode
        bucket = self._core.bucket_of(inode)
        if bucket.quota_bytes is not None:
            covered = sum(run.length for run in self._store.extents.runs(inode, offset, offset + length))
            self._core.check_quota(bucket, length - covered)
        handle.streak = handle.streak + length if offset == handle.next_write else length
        handle.next_write = offset + length
        self._append(inode, offset, data, long=handle.streak > LONG_WRITER_BYTES)
        return length

    def _append(self, inode: Inode, offset: int, data: bytes, *, long: bool) -> None:
        try:
            pieces = self._core.segments.append(inode.bucket, inode.ino if long else None, data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace("the cache's disk is full") from None
            raise InputOutput(f"the cache's disk: {error.strerror}") from None
        write, at = self._store.extents.write, offset
        for object_, object_offset, length in pieces:
            write(inode, at, length, object_, object_offset)
            at += length
            inode.size = max(inode.size, at)
        self._core.touch_content(inode, self._core.now())
        self._store.charge(inode)
        self._store.changed()

    # --- durability

    async def fsync(self, number: int) -> None:
        """As the bucket's durability level promises."""
        await self.sync_inode(self.handle(number).inode)

    async def sync_inode(self, inode: Inode) -> None:
        """fsync of a file or directory. Raises InputOutput when the disk refuses."""
        bucket = self._store.buckets.get(inode.bucket)
        durability = bucket.durability if bucket is not None else Durability.LOCAL
        try:
            if durability is Durability.WRITEBACK and not self._store.database.commits_need_synced_data:
                await self._committer.committed()
                return
            await self._committer.durable()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoSpace(f"fsync: {error.strerror}") from None
            raise InputOutput(f"fsync: {error.strerror}") from None
        if durability is Durability.REMOTE and bucket is not None and self.ensure_remote is not None:
            await self.ensure_remote(inode, bucket)

    @property
    def open_handles(self) -> int:
        return len(self._handles)
