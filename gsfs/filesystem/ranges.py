"""Ranges of a file: making room and holes, finding them, copying. Owns their rules; moves no byte.

A copy within a bucket shares the bytes of its source: both files refer to the same ranges of the same objects, which
never change, and each keeps them alive. It takes neither space at a location nor a request.
"""

from __future__ import annotations

import os

from gsfs.errors import BeyondEnd, CrossesBuckets, InvalidArgument, NotSupported, TooLarge
from gsfs.filesystem.attributes import Attributes
from gsfs.filesystem.content import Content
from gsfs.filesystem.core import Core
from gsfs.model import FILE_SIZE_MAX
from gsfs.namespace.inodes import Inode

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
"""FALLOC_FL_* of fallocate(2)."""
BLOCK = 4096
"""Holes and data are told apart in such blocks, as on other file systems: a block with a byte in it is data."""
PAGE = 256
"""Extents looked at at a time in search of a hole."""
COPY_EXTENTS_MAX = 2000
"""Extents copied by one request; it then answers with fewer bytes than asked for, as copy_file_range(2) may."""


class Ranges:
    """One for each mount."""

    def __init__(self, core: Core, attributes: Attributes, content: Content) -> None:
        self._core = core
        self._store = core.store
        self._attributes = attributes
        self._content = content

    def allocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2): lengthen the file, or let a range read as zeros and take no space.

        Room is not set aside: there is no place in a log that a later write could not be refused. What the quota of
        the bucket leaves is checked. Raises NotSupported for modes that move bytes, QuotaExceeded, TooLarge.
        """
        inode = self._core.inode(ino)
        end = offset + length
        if mode not in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
            raise NotSupported(f"fallocate: mode {mode:#x} is not supported")
        if offset < 0 or length <= 0:
            raise InvalidArgument(f"fallocate: takes a range, not {length} bytes at {offset}")
        if end > FILE_SIZE_MAX:
            raise TooLarge(f"fallocate to {end}: files end at {FILE_SIZE_MAX}")
        if not inode.is_regular:
            raise NotSupported(f"inode {ino}: not a regular file")
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            self._store.extents.punch(inode, offset, end)
            self._store.charge(inode)
        elif (bucket := self._core.bucket_of(inode)).quota_bytes is not None:
            covered = sum(run.length for run in self._store.extents.runs(inode, offset, end))
            self._core.check_quota(bucket, length - covered)
        if end > inode.size and not mode & KEEP_SIZE:
            self._attributes.truncate(inode, end)
        self._changed(inode)

    def _changed(self, inode: Inode) -> None:
        self._core.touch_content(inode, self._core.now())
        self._store.changed()

    # --- finding

    def seek(self, ino: int, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE. Raises BeyondEnd, InvalidArgument."""
        inode = self._core.inode(ino)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise InvalidArgument(f"lseek: takes SEEK_DATA or SEEK_HOLE, not {whence}")
        if not 0 <= offset < inode.size:
            raise BeyondEnd(f"lseek to {offset}: the file has {inode.size} bytes")
        return self._data(inode, offset) if whence == os.SEEK_DATA else self._hole(inode, offset)

    def _data(self, inode: Inode, offset: int) -> int:
        runs = self._store.extents.first_runs(inode, _block_start(offset), inode.size, 2)
        if not runs:
            raise BeyondEnd(f"lseek to {offset}: nothing but a hole follows")
        return max(offset, _block_start(runs[0].offset))

    def _hole(self, inode: Inode, offset: int) -> int:
        at = _block_start(offset)
        while at < inode.size:
            runs = self._store.extents.first_runs(inode, at, inode.size, PAGE)
            for run in runs:
                if _block_start(run.offset) > at:
                    return max(offset, at)
                at = max(at, _block_start(run.offset + run.length + BLOCK - 1))
            if not runs:
                return max(offset, at)
        return inode.size

    # --- copying

    def copy(self, from_handle: int, offset: int, to_handle: int, to_offset: int, length: int) -> int:
        """copy_file_range(2): the number of bytes that the target now shares with the source.

        Raises CrossesBuckets: another bucket keeps its bytes elsewhere, so they are to be written there.
        """
        source, handle = self._content.handle(from_handle).inode, self._content.handle(to_handle)
        target = handle.inode
        if source.bucket != target.bucket:
            raise CrossesBuckets("copies between buckets are written, not shared")
        length = max(0, min(length, source.size - offset))
        if to_offset + length > FILE_SIZE_MAX:
            raise TooLarge(f"copy to {to_offset}: files end at {FILE_SIZE_MAX}")
        extents = self._store.extents
        runs = extents.first_runs(source, offset, offset + length, COPY_EXTENTS_MAX)
        if len(runs) >= COPY_EXTENTS_MAX - 1:
            length = runs[-1].offset + runs[-1].length - offset
        if not length:
            return 0
        self._check_quota(target, to_offset, length, sum(run.length for run in runs))
        extents.punch(target, to_offset, to_offset + length)
        for run in runs:
            at = to_offset + run.offset - offset
            extents.write(target, at, run.length, run.object, run.object_offset)
            target.size = max(target.size, at + run.length)
        handle.next_write = to_offset + length
        if to_offset + length > target.size:
            self._attributes.truncate(target, to_offset + length)
        extents.settle(target)
        self._store.charge(target)
        self._changed(target)
        return length

    def _check_quota(self, target: Inode, offset: int, length: int, comes: int) -> None:
        bucket = self._core.bucket_of(target)
        if bucket.quota_bytes is not None:
            covered = sum(run.length for run in self._store.extents.runs(target, offset, offset + length))
            self._core.check_quota(bucket, comes - covered)


def _block_start(offset: int) -> int:
    return offset - offset % BLOCK
