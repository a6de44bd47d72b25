"""What stays in the local cache because somebody said so. Owns the pin table, and knows it by heart.

A mark is of a file, or of a directory and all that is or comes below it; the nearest mark above decides, so that
something below a pinned directory can be let go. Resolving that is ``transfer.keeper``'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import bindparam, delete, insert, select

from gsfs.model import Ino
from gsfs.namespace import schema
from gsfs.namespace.database import Database, compile_statement


class PinTable:
    """Marks by inode, in memory and in the table."""

    def __init__(self, database: Database) -> None:
        t = schema.pin
        self._insert = compile_statement(database, insert(t))
        self._delete = compile_statement(database, delete(t).where(t.c.ino == bindparam("i")))
        rows = [int(row[0]) for row in compile_statement(database, select(t)).all()]
        self._marks: dict[int, bool] = {abs(number): number > 0 for number in rows}

    def mark(self, ino: int) -> bool | None:
        """True: pinned; False: let go, whatever is above it; None: what is above it decides."""
        return self._marks.get(ino)

    def __iter__(self) -> Iterator[Ino]:
        """What is marked as pinned."""
        return iter([Ino(ino) for ino, pinned in sorted(self._marks.items()) if pinned])

    def marked(self) -> list[Ino]:
        """What has any mark."""
        return [Ino(ino) for ino in sorted(self._marks)]

    def __len__(self) -> int:
        return len(self._marks)

    def set(self, ino: int, *, pinned: bool) -> None:
        if self._marks.get(ino) is not pinned:
            self.remove(ino)
            self._marks[ino] = pinned
            self._insert.run(ino if pinned else -ino)

    def remove(self, ino: int) -> None:
        """No mark of its own."""
        pinned = self._marks.pop(ino, None)
        if pinned is not None:
            self._delete.run(ino if pinned else -ino)
