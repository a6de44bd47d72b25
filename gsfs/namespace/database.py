"""The seam between the store and a database: statements compiled once, run on the driver's own cursor.

Owns the contract of the two dialect modules (sqlite, postgres). Knows no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql import ClauseElement

Row = tuple[Any, ...]
NOT_TO_BE_REWOUND = (0, -1)
"""Mark of a commit whose data was on the disk before it: it and all before it stand."""


class Cursor(Protocol):
    """What both drivers' cursors have."""

    rowcount: int

    def execute(self, sql: str, parameters: Sequence[Any] = ...) -> Any: ...
    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Any: ...
    def fetchone(self) -> Row | None: ...
    def fetchall(self) -> list[Row]: ...


class Statement:
    """One statement, compiled once. Arguments are given in the order in which the SQL text names them."""

    __slots__ = ("_cursor", "sql")

    def __init__(self, cursor: Cursor, sql: str) -> None:
        self._cursor = cursor
        self.sql = sql

    def one(self, *args: Any) -> Row | None:
        """The first row, or None."""
        cursor = self._cursor
        cursor.execute(self.sql, args)
        return cursor.fetchone()

    def all(self, *args: Any) -> list[Row]:
        """Every row."""
        cursor = self._cursor
        cursor.execute(self.sql, args)
        return cursor.fetchall()

    def run(self, *args: Any) -> int:
        """Run it; the number of rows touched."""
        cursor = self._cursor
        cursor.execute(self.sql, args)
        return cursor.rowcount

    def many(self, rows: Iterable[Sequence[Any]]) -> None:
        """Run it once for each row of arguments."""
        self._cursor.executemany(self.sql, rows)


class Database(Protocol):
    """One open namespace database with one transaction always open, committed in groups."""

    @property
    def dialect(self) -> Dialect: ...
    @property
    def cursor(self) -> Cursor: ...

    commits_need_synced_data: bool
    """True where a commit may become durable by itself, so that data must be on disk *before* it."""

    def begin(self) -> None:
        """Open the transaction in which every statement runs."""

    def commit(self) -> None:
        """Commit; what a crash of this process can no longer take back. No sync of the disk."""

    def sync(self) -> None:
        """Make every commit so far survive power loss. Called in a thread; takes no lock of the store."""

    def prepare_log(self) -> None:
        """Make flushes of the log cheap; called once, with no transaction open."""

    def durable_mark(self) -> tuple[int, int] | None:
        """Where the log of commits ends now, to be recorded once it is durable (None: not needed)."""

    def checkpoint_due(self) -> bool:
        """Whether the log of commits has grown enough to fold it back."""

    def checkpoint(self) -> None:
        """Fold the log of commits back. In a thread, and only when all it holds is durable with its data."""

    def checkpoint_between(self) -> None:
        """The short rest of a checkpoint, with no transaction open, so that the log starts afresh."""

    def check(self) -> list[str]:
        """Problems found by the database's own integrity check."""

    def close(self) -> None:
        """Commit nothing more; give the database back."""


def compile_statement(database: Database, clause: ClauseElement) -> Statement:
    """Compile with the dialect's positional parameters."""
    compiled = clause.compile(dialect=database.dialect)
    return Statement(database.cursor, str(compiled))


OpenDatabase = Callable[[str], Database]
