"""Files that stay in the local cache because somebody said so. Owns the pin table, and knows it by heart."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import bindparam, delete, insert, select

from gsfs.model import Ino
from gsfs.namespace import schema
from gsfs.namespace.database import Database, compile_statement


class PinTable:
    """Inodes of pinned files, in memory and in the table."""

    def __init__(self, database: Database) -> None:
        t = schema.pin
        self._insert = compile_statement(database, insert(t))
        self._delete = compile_statement(database, delete(t).where(t.c.ino == bindparam("i")))
        self._all: set[int] = {int(row[0]) for row in compile_statement(database, select(t)).all()}

    def __contains__(self, ino: int) -> bool:
        return ino in self._all

    def __iter__(self) -> Iterator[Ino]:
        return iter([Ino(ino) for ino in sorted(self._all)])

    def __len__(self) -> int:
        return len(self._all)

    def add(self, ino: int) -> None:
        if ino not in self._all:
            self._all.add(ino)
            self._insert.run(ino)

    def remove(self, ino: int) -> None:
        if ino in self._all:
            self._all.discard(ino)
            self._delete.run(ino)
