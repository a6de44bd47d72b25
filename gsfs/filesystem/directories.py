"""Listing directories. Owns directory handles: a listing is stable while entries come and go.

An entry that exists from opendir to the end is listed exactly once; one made after opendir (or after
rewinddir) is not listed, so that renaming what one lists never runs forever; a name that comes to lead to
another inode is the same entry. Pages are read as they are asked for, names and attributes in one query.

A cookie is a place in the list of the names that this handle has listed, and stays good for seekdir as long
as the handle lives. Where a pass comes to another name than an earlier one did (entries came or went, then
rewinddir or seekdir), it goes on at new places behind all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from gsfs.errors import BadHandle, NotADirectory
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

    __slots__ = ("at_end", "buffer", "buffer_at", "buffer_ctime_ns", "inode", "names", "upto")

    def __init__(self, inode: Inode, upto: int) -> None:
        self.inode = inode
        self.upto = upto  # entries numbered above it came later
        self.names: list[bytes] = []  # names listed so far; their place is their cookie
        self.buffer: list[tuple[bytes, Inode]] = []  # read and not listed yet
        self.buffer_at = 0  # the place of the buffer's first
        self.at_end = False  # nothing comes behind the buffer
        self.buffer_ctime_ns = 0  # the directory's, when it was read: each change of an entry sets another

    def place(self, place: int, name: bytes) -> int:
        """The place behind ``name``, which was met at ``place``."""
        names = self.names
        if place < len(names) and names[place] != name:
            del self.buffer[: place - self.buffer_at]
            place = self.buffer_at = len(names)
        if place == len(names):
            names.append(name)
        return place + 1


class Directories:
    """Open directories."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._store = core.store
        self._handles: dict[int, DirectoryHandle] = {}
        self._next_handle = 1

    def opendir(self, ino: int) -> int:
        inode = self._core.inode(
            ino
        )  # one that was removed is opened again through what holds it, and is empty
        if not inode.is_dir:
            raise NotADirectory(f"inode {ino}: not a directory")
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
        if inode.opens:
            return
        if inode.deleted:
            self._store.inodes.forget(
                inode.ino, 0
            )  # it was opened after its removal, and perhaps forgotten before
        elif inode.nlink == 0:
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
            handle.buffer.clear()
            handle.at_end = False
            self._core.touch_access(handle.inode)
        if cookie < 1:
            yield Listed(b".", handle.inode, 1)
        if cookie < DOTS:
            yield Listed(b"..", self._core.inode(handle.inode.parent), DOTS)
        place = max(cookie - DOTS, 0)
        while page := self._page(handle, place):
            for name, inode in page:
                place = handle.place(place, name)
                yield Listed(name, inode, place + DOTS)

    def _page(self, handle: DirectoryHandle, place: int) -> list[tuple[bytes, Inode]]:
        """What comes from ``place`` on: the rest of the last page, or the next."""
        skip = place - handle.buffer_at
        fresh = handle.inode.ctime_ns == handle.buffer_ctime_ns
        if fresh and 0 <= skip < len(handle.buffer):
            return handle.buffer[skip:]
        if place > len(handle.names) or (fresh and handle.at_end and skip == len(handle.buffer)):
            return []
        after = handle.names[place - 1] if place else b""
        most = PAGE_NEXT if place and fresh else PAGE_FIRST
        handle.buffer = self._read(handle, after, most)
        handle.at_end = len(handle.buffer) < most
        handle.buffer_at = place
        handle.buffer_ctime_ns = handle.inode.ctime_ns
        return handle.buffer.copy()

    def _read(self, handle: DirectoryHandle, after: bytes, most: int) -> list[tuple[bytes, Inode]]:
        """A page: names alone where their inodes are in memory, else names and attributes in one query."""
        store, ino = self._store, handle.inode.ino
        cached = store.inodes.cached
        rows = store.entries.page_of_names(ino, after, handle.upto, most)
        page = [(bytes(name), cached(number)) for name, number in rows]
        if all(inode is not None for _, inode in page):
            return cast(list[tuple[bytes, Inode]], page)
        store.flush()
        adopt = store.inodes.adopt
        return [(bytes(row[0]), adopt(row[1:])) for row in store.entries.page(ino, after, handle.upto, most)]
