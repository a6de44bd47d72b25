"""What the policies remember: the ledger, the memories of regions, the trails of objects. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, literal_column, select, update

from gsfs.namespace import schema
from gsfs.namespace.database import Database, compile_statement


class LedgerRow(NamedTuple):
    """A line of the ledger, as stored."""

    hour: int
    bucket: str
    location: str
    kind: str
    dst: str
    requests: int
    amount: int


class PolicyTable:
    """Rows of the three tables. What has become useless is found in pages and forgotten (``transfer.forgetting``)."""

    def __init__(self, database: Database) -> None:
        g = schema.ledger
        line = (
            (g.c.hour == bindparam("h")) & (g.c.bucket == bindparam("b")) & (g.c.location == bindparam("l"))
            & (g.c.kind == bindparam("k")) & (g.c.dst == bindparam("d"))
        )  # fmt: skip
        self._line = compile_statement(database, select(g.c.requests, g.c.amount).where(line))
        self._line_update = compile_statement(
            database, update(g).values(requests=bindparam("v_r"), amount=bindparam("v_a")).where(line)
        )
        self._line_insert = compile_statement(database, insert(g))
        self._lines = compile_statement(
            database, select(g).where(g.c.hour >= bindparam("h")).order_by(g.c.hour, g.c.bucket, g.c.location)
        )
        whole_day = g.c.hour % literal_column("24") == literal_column("0")
        self._line_delete = compile_statement(database, delete(g).where(line))
        self._fine_lines = compile_statement(
            database,
            select(g)
            .where((g.c.hour < bindparam("h")) & ~whole_day)
            .order_by(g.c.hour)
            .limit(bindparam("most"))
            .offset(literal_column("0")),
        )
        self._old_delete = compile_statement(database, delete(g).where(g.c.hour < bindparam("h")))
        self._compile_memories(database)

    def _compile_memories(self, database: Database) -> None:
        m, t = schema.memory, schema.trail
        region = (m.c.bucket == bindparam("b")) & (m.c.region == bindparam("r"))
        self._memory = compile_statement(database, select(m.c.state).where(region))
        self._memory_update = compile_statement(
            database, update(m).values(state=bindparam("v_s")).where(region)
        )
        self._memory_insert = compile_statement(database, insert(m))
        self._memory_buckets = compile_statement(database, select(m.c.bucket).distinct())
        self._memory_delete = compile_statement(database, delete(m).where(m.c.bucket == bindparam("b")))
        one = (t.c.object == bindparam("o")) & (t.c.region == bindparam("r"))
        self._trail = compile_statement(database, select(t.c.state).where(one))
        self._trail_update = compile_statement(database, update(t).values(state=bindparam("v_s")).where(one))
        self._trail_insert = compile_statement(database, insert(t))
        self._trail_delete = compile_statement(database, delete(t).where(t.c.object == bindparam("o")))
        self._trail_delete_one = compile_statement(database, delete(t).where(one))
        self._trails = compile_statement(
            database,
            select(t.c.object, t.c.state)
            .where((t.c.region == bindparam("r")) & (t.c.object > bindparam("after")))
            .order_by(t.c.object)
            .limit(bindparam("most"))
            .offset(literal_column("0")),
        )

    # --- ledger

    def add_lines(self, rows: Iterable[LedgerRow]) -> None:
        """Add counts to their lines."""
        for row in rows:
            key = row[:5]
            found = self._line.one(*key)
            if found is None:
                self._line_insert.run(*key, row.requests, str(row.amount))
            else:
                self._line_update.run(int(found[0]) + row.requests, str(int(found[1]) + row.amount), *key)

    def lines(self, since_hour: int = 0) -> list[LedgerRow]:
        """Every line from that hour on."""
        return [
            LedgerRow(int(r[0]), r[1], r[2], r[3], r[4], int(r[5]), int(r[6]))
            for r in self._lines.all(since_hour)
        ]

    def fold(self, before_hour: int, most: int) -> int:
        """Sum lines of hours before ``before_hour`` to their days (at the day's first hour); how many went into it."""
        rows = self._fine_lines.all(before_hour, most)
        days: dict[tuple[int, str, str, str, str], tuple[int, int]] = {}
        for hour, bucket, location, kind, dst, requests, amount in rows:
            day = (int(hour) // 24 * 24, bucket, location, kind, dst)
            before = days.get(day, (0, 0))
            days[day] = (before[0] + int(requests), before[1] + int(amount))
        self._line_delete.many([tuple(row[:5]) for row in rows])
        self.add_lines(LedgerRow(*day, *count) for day, count in days.items())
        return len(rows)

    def drop_lines(self, before_hour: int) -> int:
        """Remove lines of hours before ``before_hour``; how many."""
        return self._old_delete.run(before_hour)

    # --- memories and trails

    def memory(self, bucket: int, region: str) -> bytes | None:
        row = self._memory.one(bucket, region)
        return bytes(row[0]) if row else None

    def set_memory(self, bucket: int, region: str, state: bytes) -> None:
        if not self._memory_update.run(state, bucket, region):
            self._memory_insert.run(bucket, region, state)

    def memory_buckets(self) -> list[int]:
        """Buckets of which anything is remembered."""
        return [int(row[0]) for row in self._memory_buckets.all()]

    def drop_memories(self, bucket: int) -> None:
        """The bucket is gone."""
        self._memory_delete.run(bucket)

    def trails(self, region: str, after: int, most: int) -> list[tuple[int, str]]:
        """(object, state) of a region, of objects numbered above ``after``, in order: to walk them in pieces."""
        return [(int(row[0]), str(row[1])) for row in self._trails.all(region, after, most)]

    def drop_trail(self, object_: int, region: str) -> None:
        """The reads of the object in that region mean nothing any more."""
        self._trail_delete_one.run(object_, region)

    def trail(self, object_: int, region: str) -> str | None:
        row = self._trail.one(object_, region)
        return str(row[0]) if row else None

    def set_trail(self, object_: int, region: str, state: str) -> None:
        if not self._trail_update.run(state, object_, region):
            self._trail_insert.run(object_, region, state)

    def drop_trails(self, object_: int) -> None:
        """The object is gone."""
        self._trail_delete.run(object_)
