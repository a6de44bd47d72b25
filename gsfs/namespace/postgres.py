"""PostgreSQL as the namespace's database. Owns every PostgreSQL-only thing; knows no table.

The server decides by itself when a commit reaches its disk, so data goes to the local disk *before* the
commit that names it (``commits_need_synced_data``), and no rewinding is ever needed.
"""

from __future__ import annotations

import contextlib
import time
from typing import cast

import psycopg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from gsfs.errors import Busy, DatabaseLost, NotAnswering
from gsfs.namespace.database import Cursor

ADVISORY_LOCK = 0x67736673
"""Held for the life of a mount: until several mounts share one namespace, a second one is refused."""
LOCK_WAIT_S = 2.0


class PostgresDatabase:
    """See ``namespace.database.Database``."""

    commits_need_synced_data = True

    def __init__(self, url: str) -> None:
        self.dialect = PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
        try:
            self._connection = psycopg.connect(
                url.replace("postgresql+psycopg://", "postgresql://"), connect_timeout=10
            )
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[-1]
            raise NotAnswering(f"namespace: PostgreSQL does not answer: {reason}") from None
        self._connection.prepare_threshold = 0
        self.cursor = cast(Cursor, self._connection.cursor())
        if not self._lock():
            self._connection.close()
            raise Busy("namespace: in use by another mount of the same PostgreSQL schema")

    def _lock(self) -> bool:
        """Hold the namespace. A mount that has just died is given up by the server a moment later."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            self.cursor.execute(
                "SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))", (ADVISORY_LOCK,)
            )
            held = self.cursor.fetchone()
            self._connection.commit()
            if held and held[0]:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)

    def begin(self) -> None:
        """psycopg opens the transaction with the first statement."""

    def commit(self) -> None:
        try:
            self._connection.commit()
        except psycopg.Error as error:
            self._connection.close()
            raise DatabaseLost(
                f"namespace: a commit failed ({error}); stopping, to go on from the last one"
            ) from None

    def rollback(self) -> None:
        self._connection.rollback()

    def sync(self) -> None:
        """Nothing to do: a commit with synchronous_commit=on is on the server's disk when it returns."""

    def prepare_log(self) -> None:
        """The server keeps its own log."""

    def durable_mark(self) -> tuple[int, int] | None:
        return None

    def checkpoint_due(self) -> bool:
        return False

    def checkpoint(self) -> None:
        """The server folds its own log."""

    def checkpoint_between(self) -> None:
        """The server folds its own log."""

    def check(self) -> list[str]:
        return []

    def abandon(self) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):  # closing the connection releases it, too, but not at once
            self._connection.rollback()
            self._connection.execute("SELECT pg_advisory_unlock_all()")
        self._connection.close()
