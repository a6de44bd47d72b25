"""Requests that pyfuse3 has no handler for: `df` of a path, fallocate, lseek, copy_file_range; and what it cannot ask for.

Translates; decides nothing. Where libfuse's table is not found (see ``libfuse``) a mount goes without them: the kernel
then falls back or answers EOPNOTSUPP, `df` shows the whole mount everywhere, the umask narrows default ACLs, and each
write costs a second request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from gsfs import libfuse
from gsfs.libfuse import Slot, Statvfs, Table
from gsfs.model import NAME_MAX
from gsfs.volume import Space, Volume

log = logging.getLogger(__name__)

BLOCK_SIZE = 4096
Reply = Callable[[int], None]


class Further:
    """The handlers. Keep it for as long as the session lasts."""

    def __init__(self, volume: Volume, table: Table) -> None:
        self._volume = volume
        self._content = volume.content
        self._ranges = volume.ranges
        self._table = table
        table.want(libfuse.DONT_MASK | libfuse.CACHE_SYMLINKS)
        table.claim(libfuse.HANDLE_KILLPRIV_V2)
        table.precede(Slot.OPEN, self._before_open)
        table.precede(Slot.CREATE, self._before_create)
        table.handle(Slot.STATFS, self._statfs)
        table.handle(Slot.FALLOCATE, self._fallocate)
        table.handle(Slot.LSEEK, self._lseek, first=self._before_lseek)
        table.handle(Slot.COPY_FILE_RANGE, self._copy_file_range)

    def _before_open(self, ino: int, file: int) -> None:
        if libfuse.flags_of(file) & os.O_ACCMODE == os.O_RDONLY or not self._content.waits_at_close(ino):
            libfuse.close_unasked(file)

    def _before_create(self, parent: int, _name: int, _mode: int, file: int) -> None:
        if not self._content.waits_at_close(parent):
            libfuse.close_unasked(file)

    def _statfs(self, ino: int) -> Reply:
        status = Statvfs()
        fill(status, self._volume.space(ino))
        return self._table.space(status)

    def _fallocate(self, ino: int, mode: int, offset: int, length: int, _file: int) -> Reply:
        self._ranges.allocate(ino, mode, offset, length)
        return self._table.done()

    def _before_lseek(self, ino: int, offset: int, _whence: int, _file: int) -> Callable[[], None] | None:
        """What a mapping changed is data before the kernel has sent it. A mapping keeps its file open for writing."""
        if not self._volume.core.inode(ino).writers:
            return None
        return partial(self._table.collect, ino, offset)

    def _lseek(self, ino: int, offset: int, whence: int, _file: int) -> Reply:
        return self._table.position(self._ranges.seek(ino, offset, whence))

    def _copy_file_range(
        self, _ino: int, offset: int, file: int, _to: int, to_offset: int, to_file: int, length: int, _flags: int
    ) -> Reply:  # fmt: skip
        source, target = libfuse.handle_of(file), libfuse.handle_of(to_file)
        return self._table.written(self._ranges.copy(source, offset, target, to_offset, length))


def fill(status: Any, space: Space) -> None:
    """What statfs(2) answers, into pyfuse3's structure or libfuse's."""
    status.f_bsize = status.f_frsize = BLOCK_SIZE
    status.f_blocks = space.total_bytes // BLOCK_SIZE
    status.f_bfree = status.f_bavail = space.free_bytes // BLOCK_SIZE
    status.f_files = space.inodes + space.free_inodes
    status.f_ffree = status.f_favail = space.free_inodes
    status.f_namemax = NAME_MAX


def install(volume: Volume, mountpoint: str) -> Further | None:
    """After ``pyfuse3.init`` and before serving. None, and a line in the log, where it cannot be done."""
    table = libfuse.find_table(mountpoint)
    if table is None:
        log.warning(
            "libfuse's table of operations is not where it is expected: no fallocate, SEEK_HOLE or shared copies, "
            "df shows the whole mount, and the umask narrows default ACLs"
        )
        return None
    return Further(volume, table)
