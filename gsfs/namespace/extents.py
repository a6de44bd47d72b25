"""Which bytes of a file are where. Owns the extent table and its algebra; never touches a byte.

The newest extent of a file that is being written is kept in memory (``Inode.pending``): a sequential writer
lengthens it without a statement, and it becomes one row at the next flush, or lengthens the row it has.
Every loop here is over extents, never over bytes: truncating a sparse petabyte costs what its extents cost.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import bindparam, delete, func, insert, literal_column, select, update

from gsfs.model import FILE_SIZE_MAX, Ino, ObjectId
from gsfs.namespace import schema
from gsfs.namespace.database import Database, compile_statement
from gsfs.namespace.inodes import Inode
from gsfs.namespace.runs import Extent, Run


class ExtentTable:
    """Extents of every file. ``account(object, delta)`` is told each change of an object's live bytes."""

    def __init__(self, database: Database, account: Callable[[int, int], None]) -> None:
        t = schema.extent
        self._account = account
        self._unflushed: dict[int, Inode] = {}
        before = (
            select(func.max(t.c.offset))
            .where((t.c.ino == bindparam("i1")) & (t.c.offset <= bindparam("start")))
            .scalar_subquery()
        )
        columns = (t.c.offset, t.c.length, t.c.object, t.c.object_offset)
        overlap = (
            select(*columns)
            .where(t.c.offset >= func.coalesce(before, literal_column("0")))
            .where((t.c.ino == bindparam("i2")) & (t.c.offset < bindparam("end")))
            .order_by(t.c.offset)
        )
        self._overlap = compile_statement(database, overlap)
        self._first_overlap = compile_statement(
            database, overlap.limit(bindparam("most")).offset(literal_column("0"))
        )
        self._insert = compile_statement(database, insert(t))
        self._lengthen = compile_statement(
            database,
            update(t)
            .values(length=bindparam("l"))
            .where((t.c.ino == bindparam("i")) & (t.c.offset == bindparam("o"))),
        )
        self._delete_range = compile_statement(
            database,
            delete(t).where(
                (t.c.ino == bindparam("i")) & (t.c.offset >= bindparam("a")) & (t.c.offset < bindparam("b"))
            ),
        )
        self._sums = compile_statement(
            database,
            select(t.c.object, func.sum(t.c.length)).where(t.c.ino == bindparam("i")).group_by(t.c.object),
        )
        self._clear = compile_statement(database, delete(t).where(t.c.ino == bindparam("i")))
        self._probe = compile_statement(
            database,
            select(t.c.offset)
            .where(t.c.ino == bindparam("i"))
            .order_by(t.c.offset)
            .limit(literal_column("1"))
            .offset(bindparam("n")),
        )
        self._page = compile_statement(
            database,
            select(t.c.ino, *columns)
            .where(
                (t.c.ino > bindparam("i1")) | ((t.c.ino == bindparam("i2")) & (t.c.offset > bindparam("o")))
            )
            .order_by(t.c.ino, t.c.offset)
            .limit(bindparam("most"))
            .offset(literal_column("0")),
        )

    def write(self, inode: Inode, offset: int, length: int, object_: ObjectId, object_offset: int) -> None:
        """The bytes [offset, offset+length) of the file are now those of the object."""
        self._account(object_, length)
        p = inode.pending
        grows = offset >= inode.size
        if (
            p is not None
            and offset == p.offset + p.length
            and object_ == p.object
            and object_offset == p.object_offset + p.length
            and (grows or not p.fresh)
        ):
            if grows and not p.fresh:
                self._settle(inode)
                self._begin(inode, offset, length, object_, object_offset, True)
                return
            p.length += length
            if p.fresh:
                inode.allocated += length
            self._unflushed[inode.ino] = inode
            return
        if p is not None:
            self._settle(inode)
        self._begin(inode, offset, length, object_, object_offset, grows)

    def _begin(
        self, inode: Inode, offset: int, length: int, object_: ObjectId, object_offset: int, fresh: bool
    ) -> None:
        inode.pending = Extent(offset, length, object_, object_offset, fresh)
        if fresh:
            inode.allocated += length
        self._unflushed[inode.ino] = inode

    def _settle(self, inode: Inode) -> None:
        """Write the pending extent to its row and forget that it was pending."""
        self._store(inode)
        inode.pending = None

    def _store(self, inode: Inode) -> None:
        self._unflushed.pop(inode.ino, None)
        p = inode.pending
        if p is None or p.stored == p.length:
            return
        if not p.fresh:
            start = p.offset + p.stored
            inode.allocated += (p.length - p.stored) - self._punch_rows(inode, start, p.end)
        if p.stored:
            self._lengthen.run(p.length, inode.ino, p.offset)
        else:
            self._insert.run(inode.ino, p.offset, p.length, p.object, p.object_offset)
        p.stored = p.length

    def flush(self) -> None:
        """Write every pending extent; sequential writers go on lengthening theirs."""
        for inode in list(self._unflushed.values()):
            self._store(inode)

    def settle(self, inode: Inode) -> None:
        """Bring ``allocated`` and the rows of one inode up to date."""
        if inode.ino in self._unflushed:
            self._store(inode)

    @property
    def has_changes(self) -> bool:
        return bool(self._unflushed)

    def runs(self, inode: Inode, start: int, end: int) -> list[Run]:
        """The file's extents within [start, end), clipped, in order; what lies between them are holes."""
        p = inode.pending
        if p is not None:
            if p.offset <= start and end <= p.offset + p.length:
                return [Run(start, end - start, p.object, p.object_offset + start - p.offset)]
            if inode.ino in self._unflushed:
                self._store(inode)
        ino = inode.ino
        return [
            run.clip(start, end)
            for run in map(Run._make, self._overlap.all(ino, start, ino, end))
            if run.offset + run.length > start
        ]

    def first_runs(self, inode: Inode, start: int, end: int, most: int) -> list[Run]:
        """Like ``runs``, but at most so many: to work through a fragmented file in pieces. ``most`` is above 1."""
        self.settle(inode)
        ino = inode.ino
        rows = self._first_overlap.all(ino, start, ino, end, most)
        return [run.clip(start, end) for run in map(Run._make, rows) if run.offset + run.length > start]

    def punch(self, inode: Inode, start: int, end: int = FILE_SIZE_MAX) -> None:
        """Let [start, end) be a hole."""
        if inode.pending is not None:
            self._settle(inode)
        if inode.allocated:
            inode.allocated -= self._punch_rows(inode, start, end)

    def _punch_rows(self, inode: Inode, start: int, end: int) -> int:
        """Remove [start, end) from the rows; the number of bytes that were covered."""
        ino = inode.ino
        rows = [
            r for r in map(Run._make, self._overlap.all(ino, start, ino, end)) if r.offset + r.length > start
        ]
        if not rows:
            return 0
        freed = 0
        for run in rows:
            gone = run.clip(start, end)
            freed += gone.length
            self._account(run.object, -gone.length)
        first, last = rows[0], rows[-1]
        self._delete_range.run(ino, start, end)
        if first.offset < start:
            self._lengthen.run(start - first.offset, ino, first.offset)
        if last.offset + last.length > end:
            rest = last.clip(end, last.offset + last.length)
            self._insert.run(ino, *rest)
        return freed

    def clear(self, inode: Inode) -> None:
        """Remove every extent of the file."""
        if inode.pending is not None:
            if inode.pending.stored == 0 and inode.pending.fresh and inode.pending.length == inode.allocated:
                self._unflushed.pop(inode.ino, None)
                self._account(inode.pending.object, -inode.pending.length)
                inode.pending, inode.allocated = None, 0
                return
            self._settle(inode)
        if not inode.allocated:
            return
        for object_, total in self._sums.all(inode.ino):
            self._account(object_, -int(total))
        self._clear.run(inode.ino)
        inode.allocated = 0

    def more_than(self, inode: Inode, count: int) -> bool:
        """Whether the file has more than ``count`` extents."""
        return inode.allocated > 0 and self._probe.one(inode.ino, count) is not None

    def offset_of(self, inode: Inode, count: int) -> int | None:
        """Offset of extent number ``count`` (from 0), to work through a large file in pieces; None: fewer."""
        row = self._probe.one(inode.ino, count)
        return int(row[0]) if row else None

    def page_of_objects(self, after: tuple[int, int], most: int) -> list[tuple[Ino, Run]]:
        """Extents behind (inode, offset), in that order: to walk the whole table in pieces."""
        self.flush()
        return [
            (Ino(row[0]), Run._make(row[1:])) for row in self._page.all(after[0], after[0], after[1], most)
        ]

    def repoint(self, inode: Inode, old: Run, object_: ObjectId, object_offset: int) -> bool:
        """Let the same bytes come from another object, if the extent is still as it was; False otherwise."""
        if self.runs(inode, old.offset, old.offset + old.length) != [old]:
            return False
        if inode.pending is not None:
            self._settle(inode)
        inode.allocated -= self._punch_rows(inode, old.offset, old.offset + old.length)
        self._insert.run(inode.ino, old.offset, old.length, object_, object_offset)
        inode.allocated += old.length
        self._account(object_, old.length)
        return True
