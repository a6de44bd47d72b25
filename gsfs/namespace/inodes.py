"""Inodes: a write-back cache over the inode table. Owns attributes; knows nothing of names or bytes.

An Inode in memory is the truth; rows are written in batches before each commit, and before any query that
joins the table. Plain functions: nothing else runs in between.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from gsfs.errors import Stale
from gsfs.model import ROOT_INO, Ino
from gsfs.namespace import schema
from gsfs.namespace.database import Database, Row, compile_statement
from gsfs.namespace.runs import Extent

_COLUMNS = [c for c in schema.inode.c if c.name != "ino"]
CACHE_MAX = 200_000
"""Inodes kept in memory before clean ones that nobody has open are let go."""


class Inode:
    """One inode. Change it through ``InodeTable.touch`` so that the change is written."""

    __slots__ = (
        "allocated", "atime_ns", "attributes", "bucket", "changed", "charged", "ctime_ns", "deleted", "gid", "ino", "lookups",
        "mode", "mtime_ns", "new", "nlink", "opens", "parent", "pending", "rdev", "size", "uid", "uncached", "writers",
    )  # fmt: skip

    ino: Ino
    bucket: Ino
    parent: Ino
    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    allocated: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    def __init__(self, row: Row) -> None:
        (self.ino, self.bucket, self.parent, self.mode, self.uid, self.gid, self.rdev, self.nlink,
         self.size, self.allocated, self.atime_ns, self.mtime_ns, self.ctime_ns) = row  # fmt: skip
        self.charged = self.allocated  # bytes counted in the bucket's usage
        self.lookups = 0  # references the kernel holds
        self.opens = 0  # open handles
        self.writers = 0  # open handles that may write
        self.uncached = False  # written around the kernel's page cache since that was last dropped
        self.changed = False  # differs from its row
        self.new = False  # has no row yet
        self.deleted = False  # its rows are gone; lives until the kernel forgets it
        self.pending: Extent | None = None  # newest extent, perhaps longer than its row (see extents)
        self.attributes: Any = None  # what the transport made of it; None when stale

    def row(self) -> Row:
        """Its columns, in the order of the table."""
        return (
            self.ino, self.bucket, self.parent, self.mode, self.uid, self.gid, self.rdev, self.nlink,
            self.size, self.allocated, self.atime_ns, self.mtime_ns, self.ctime_ns,
        )  # fmt: skip

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)


class InodeTable:
    """Every inode by number."""

    def __init__(self, database: Database) -> None:
        t = schema.inode
        self._cache: dict[int, Inode] = {}
        self._changed: dict[int, Inode] = {}
        self._select = compile_statement(database, select(t).where(t.c.ino == bindparam("ino")))
        self._insert = compile_statement(database, insert(t))
        self._update = compile_statement(
            database,
            update(t)
            .values({c.name: bindparam(f"v_{c.name}") for c in _COLUMNS})
            .where(t.c.ino == bindparam("k")),
        )
        self._delete = compile_statement(database, delete(t).where(t.c.ino == bindparam("ino")))
        self._count = compile_statement(database, select(func.count()).select_from(t))
        o = schema.orphan
        self._orphan_insert = compile_statement(database, insert(o))
        self._orphan_delete = compile_statement(database, delete(o).where(o.c.ino == bindparam("ino")))
        self._orphans = compile_statement(database, select(o.c.ino))

    def get(self, ino: int) -> Inode:
        """The inode. Raises Stale when there is none."""
        inode = self._cache.get(ino)
        if inode is None:
            row = self._select.one(ino)
            if row is None:
                raise Stale(f"inode {ino}: does not exist")
            inode = self._cache[ino] = Inode(row)
        return inode

    def adopt(self, row: Row) -> Inode:
        """The inode of a row that a query brought along: the one in memory, if it is there."""
        inode = self._cache.get(row[0])
        if inode is None:
            inode = self._cache[row[0]] = Inode(row)
        return inode

    def cached(self, ino: int) -> Inode | None:
        return self._cache.get(ino)

    def add(self, row: Row) -> Inode:
        """A new inode; its row is written with the next flush."""
        inode = Inode(row)
        inode.new = inode.changed = True
        self._cache[inode.ino] = inode
        self._changed[inode.ino] = inode
        return inode

    def touch(self, inode: Inode) -> None:
        """Say that the inode was changed."""
        inode.attributes = None
        if not inode.changed and not inode.deleted:
            inode.changed = True
            self._changed[inode.ino] = inode

    def remove(self, inode: Inode) -> None:
        """Remove its row. The Inode stays in memory, marked, until the kernel forgets it."""
        self._changed.pop(inode.ino, None)
        if not inode.new:
            self._delete.run(inode.ino)
        inode.new = inode.changed = False
        inode.deleted = True
        if not inode.lookups:
            self._cache.pop(inode.ino, None)

    def flush(self) -> None:
        """Write what changed."""
        if not self._changed:
            return
        new, old = [], []
        for inode in self._changed.values():
            row = inode.row()
            if inode.new:
                new.append(row)
            else:
                old.append((*row[1:], row[0]))
            inode.new = inode.changed = False
        if new:
            self._insert.many(new)
        if old:
            self._update.many(old)
        self._changed.clear()

    @property
    def has_changes(self) -> bool:
        return bool(self._changed)

    def forget(self, ino: int, count: int) -> Inode | None:
        """The kernel dropped ``count`` references; returns the inode when none is left."""
        inode = self._cache.get(ino)
        if inode is None:
            return None
        inode.lookups -= count
        if inode.lookups > 0:
            return None
        inode.lookups = 0
        if inode.deleted:
            if not inode.opens:
                del self._cache[ino]
            return None
        return inode

    def trim(self, limit: int = CACHE_MAX) -> None:
        """Let go of clean inodes that nobody has open, oldest first, until ``limit`` remain."""
        excess = len(self._cache) - limit
        if excess <= 0:
            return
        idle = (
            i.ino for i in self._cache.values() if not (i.changed or i.opens or i.deleted or i.nlink == 0)
        )
        for ino in [ino for ino, _ in zip(idle, range(excess), strict=False) if ino != ROOT_INO]:
            del self._cache[ino]

    def count(self) -> int:
        self.flush()
        row = self._count.one()
        return int(row[0]) if row else 0

    # --- orphans: nlink is 0 but the inode must live on for a while

    def orphan(self, inode: Inode) -> None:
        self._orphan_insert.run(inode.ino)

    def unorphan(self, ino: int) -> None:
        self._orphan_delete.run(ino)

    def orphans(self) -> Iterator[Ino]:
        return (Ino(row[0]) for row in self._orphans.all())

    def changed(self) -> Iterable[Inode]:
        """Inodes whose rows are behind."""
        return self._changed.values()
