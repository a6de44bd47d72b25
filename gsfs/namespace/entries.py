"""Directory entries, symbolic links and extended attributes: rows keyed by an inode. Decides nothing."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert, literal_column, select, update

from gsfs.model import Ino
from gsfs.namespace import schema
from gsfs.namespace.database import Database, Row, compile_statement


class EntryTable:
    """Names in directories."""

    def __init__(self, database: Database) -> None:
        e, i = schema.entry, schema.inode
        here = (e.c.parent == bindparam("p")) & (e.c.name == bindparam("n"))
        self._find = compile_statement(database, select(e.c.ino).where(here))
        self._find_inode = compile_statement(
            database, select(i).select_from(e.join(i, i.c.ino == e.c.ino)).where(here)
        )
        self._insert = compile_statement(database, insert(e))
        self._delete = compile_statement(database, delete(e).where(here))
        self._repoint = compile_statement(database, update(e).values(ino=bindparam("v_ino")).where(here))
        self._any = compile_statement(
            database,
            select(e.c.ino)
            .where(e.c.parent == bindparam("p"))
            .limit(literal_column("1"))
            .offset(literal_column("0")),
        )
        page = (
            select(e.c.name, *i.c)
            .select_from(e.join(i, i.c.ino == e.c.ino))
            .where(
                (e.c.parent == bindparam("p"))
                & (e.c.name > bindparam("after"))
                & (e.c.number <= bindparam("upto"))
            )
            .order_by(e.c.name)
            .limit(bindparam("most"))
            .offset(literal_column("0"))
        )
        self._page = compile_statement(database, page)
        names = (
            select(e.c.name, e.c.ino)
            .where(
                (e.c.parent == bindparam("p"))
                & (e.c.name > bindparam("after"))
                & (e.c.number <= bindparam("upto"))
            )
            .order_by(e.c.name)
            .limit(bindparam("most"))
            .offset(literal_column("0"))
        )
        self._names = compile_statement(database, names)
        self._name_of = compile_statement(
            database,
            select(e.c.name)
            .where((e.c.parent == bindparam("p")) & (e.c.ino == bindparam("i")))
            .limit(literal_column("1"))
            .offset(literal_column("0")),
        )

    def find(self, parent: int, name: bytes) -> Ino | None:
        row = self._find.one(parent, name)
        return Ino(row[0]) if row else None

    def find_inode(self, parent: int, name: bytes) -> Row | None:
        """The inode's whole row. Flush inodes first, or look in memory before."""
        return self._find_inode.one(parent, name)

    def insert(self, parent: int, name: bytes, ino: int, number: int) -> None:
        """The name must be free."""
        self._insert.run(parent, name, ino, number)

    def delete(self, parent: int, name: bytes) -> None:
        self._delete.run(parent, name)

    def repoint(self, parent: int, name: bytes, ino: int) -> None:
        """Let an existing name lead elsewhere. It keeps its number: a running listing does not miss the name."""
        self._repoint.run(ino, parent, name)

    def has_any(self, parent: int) -> bool:
        return self._any.one(parent) is not None

    def page(self, parent: int, after: bytes, upto_number: int, most: int) -> list[Row]:
        """(name, *inode row) in the order of names, of entries numbered up to ``upto_number``."""
        return self._page.all(parent, after, upto_number, most)

    def page_of_names(self, parent: int, after: bytes, upto_number: int, most: int) -> list[Row]:
        """(name, ino) in the order of names: half the price of ``page``, for directories whose inodes are in memory."""
        return self._names.all(parent, after, upto_number, most)

    def name_of(self, parent: int, ino: int) -> bytes | None:
        """A name of the inode in that directory; linear in the directory's size, for explanations only."""
        row = self._name_of.one(parent, ino)
        return bytes(row[0]) if row else None


class SymlinkTable:
    """Targets of symbolic links."""

    def __init__(self, database: Database) -> None:
        t = schema.symlink
        self._insert = compile_statement(database, insert(t))
        self._select = compile_statement(database, select(t.c.target).where(t.c.ino == bindparam("i")))
        self._delete = compile_statement(database, delete(t).where(t.c.ino == bindparam("i")))

    def add(self, ino: int, target: bytes) -> None:
        self._insert.run(ino, target)

    def get(self, ino: int) -> bytes | None:
        row = self._select.one(ino)
        return bytes(row[0]) if row else None

    def remove(self, ino: int) -> None:
        self._delete.run(ino)


class XattrTable:
    """Extended attributes, as stored; prefixes and permissions are the file system's business."""

    def __init__(self, database: Database) -> None:
        t = schema.xattr
        here = (t.c.ino == bindparam("i")) & (t.c.name == bindparam("n"))
        self._select = compile_statement(database, select(t.c.value).where(here))
        self._names = compile_statement(
            database, select(t.c.name).where(t.c.ino == bindparam("i")).order_by(t.c.name)
        )
        self._insert = compile_statement(database, insert(t))
        self._update = compile_statement(database, update(t).values(value=bindparam("v")).where(here))
        self._delete = compile_statement(database, delete(t).where(here))
        self._clear = compile_statement(database, delete(t).where(t.c.ino == bindparam("i")))
        names = compile_statement(database, select(t.c.name).distinct())
        self._used: set[bytes] = {bytes(row[0]) for row in names.all()}
        """Every name that any inode has: what tools ask for all the time (security.*) then costs no query."""

    @property
    def in_use(self) -> bool:
        """Whether any inode has any attribute."""
        return bool(self._used)

    def has_anywhere(self, name: bytes) -> bool:
        """Whether any inode has (or had) an attribute of that name."""
        return name in self._used

    def get(self, ino: int, name: bytes) -> bytes | None:
        if name not in self._used:
            return None
        row = self._select.one(ino, name)
        return bytes(row[0]) if row else None

    def names(self, ino: int) -> list[bytes]:
        if not self.in_use:
            return []
        return [bytes(row[0]) for row in self._names.all(ino)]

    def set(self, ino: int, name: bytes, value: bytes) -> None:
        self._used.add(name)
        if not self._update.run(value, ino, name):
            self._insert.run(ino, name, value)

    def remove(self, ino: int, name: bytes) -> bool:
        return bool(self._delete.run(ino, name))

    def clear(self, ino: int) -> None:
        if self.in_use:
            self._clear.run(ino)
