"""Listing directories. Owns directory handles: a listing is stable while entries come and go.

An entry that exists from opendir to the end is listed exactly once; one made after opendir (or after
rewinddir) is not listed, so that renaming what one lists never runs forever. Pages are read as they are
asked for, names and attributes in one query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gsfs.errors import BadHandle
from gsfs.filesystem.core import Core
from gsfs.namespace.inodes import Inode

PAGE_FIRST, PAGE_NEXT = 128, 1024
DOTS = 2
"""Cookies 1 and 2 stand behind ``.`` and ``..``."""


class Listed(NamedTuple):
    """An entry, and the cookie from which the listing goes on behind it."""

    name: bytes
    inode: Inode
    cookie: int


class DirectoryHandle:
    """One open directory."""

    __slots__ = ("buffer", "buffer_at", "inode", "names", "upto")

    def __init__(self, inode: Inode, upto: int) -> None:
        self.inode = inode
        self.upto = upto  # entries numbered above it came later
        self.names: list[bytes] = []  # names listed so far; their place is their cookie
        self.buffer: list[tuple[bytes, Inode]] = []  # read and not listed yet
        self.buffer_at = 0  # the place of the buffer's first


class Directories:
    """Open directories."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._store = core.store
        self._handles: dict[int, DirectoryHandle] = {}
        self._next_handle = 1

    def opendir(self, ino: int) -> int:
        inode = self._core.directory(ino)
        number = self._next_handle
        self._next_handle = number + 1
        inode.opens += 1
        self._handles[number] = DirectoryHandle(inode, self._store.last_entry_number)
        return number

    def releasedir(self, number: int) -> None:
        handle = self._handles.pop(number, None)
        if handle is None:
            return
        inode = handle.inode
        inode.opens -= 1
        if not inode.opens and inode.nlink == 0 and not inode.deleted:
            self._core.bury(inode, is_orphan=True)

    def inode_of(self, number: int) -> Inode:
        handle = self._handles.get(number)
        if handle is None:
            raise BadHandle(f"directory handle {number}: not open")
        return handle.inode

    def listing(self, number: int, cookie: int) -> Iterator[Listed]:
        """Entries behind ``cookie`` (0: from the start)."""
        handle = self._handles.get(number)
        if handle is None:
            raise BadHandle(f"directory handle {number}: not open")
        if cookie == 0:
            handle.upto = self._store.last_entry_number
            handle.names.clear()
            handle.buffer.clear()
            self._core.touch_access(handle.inode)
        if cookie < 1:
            yield Listed(b".", handle.inode, 1)
        if cookie < DOTS:
            yield Listed(b"..", self._core.inode(handle.inode.parent), DOTS)
        place = max(cookie - DOTS, 0)
        while page := self._page(handle, place):
            for name, inode in page:
                if place == len(handle.names):
                    handle.names.append(name)
                place += 1
                yield Listed(name, inode, place + DOTS)

    def _page(self, handle: DirectoryHandle, place: int) -> list[tuple[bytes, Inode]]:
        """What comes from ``place`` on: the rest of the last page, or the next."""
        skip = place - handle.buffer_at
        if handle.buffer and 0 <= skip < len(handle.buffer):
            return [(n, i) for n, i in handle.buffer[skip:] if not i.deleted]
        if place > len(handle.names):
            return []
        after = handle.names[place - 1] if place else b""
        self._store.flush()
        most = PAGE_NEXT if place else PAGE_FIRST
        rows = self._store.entries.page(handle.inode.ino, after, handle.upto, most)
        adopt = self._store.inodes.adopt
        handle.buffer = [(bytes(row[0]), adopt(row[1:])) for row in rows]
        handle.buffer_at = place
        return handle.buffer
