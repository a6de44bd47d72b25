"""Locations that a namespace knows: which of them are being left. Owns the location table."""

from __future__ import annotations

import time

from sqlalchemy import bindparam, delete, insert, select, update

from gsfs.model import LocationId
from gsfs.namespace import schema
from gsfs.namespace.database import Database, compile_statement

ACTIVE, DRAINING = "active", "draining"


class LocationTable:
    """Every location ever used, in memory: there are few."""

    def __init__(self, database: Database) -> None:
        t = schema.location
        self._insert = compile_statement(database, insert(t))
        self._update = compile_statement(
            database, update(t).values(state=bindparam("v")).where(t.c.id == bindparam("k"))
        )
        self._delete = compile_statement(database, delete(t).where(t.c.id == bindparam("k")))
        self._states: dict[str, str] = dict(compile_statement(database, select(t.c.id, t.c.state)).all())

    def state(self, id_: str) -> str:
        """``active`` or ``draining``."""
        return self._states.get(id_, ACTIVE)

    def set_state(self, id_: str, state: str) -> None:
        if id_ in self._states:
            self._update.run(state, id_)
        else:
            self._insert.run(id_, state, time.time_ns())
        self._states[id_] = state

    def draining(self) -> set[LocationId]:
        """Locations that take no new objects."""
        return {LocationId(id_) for id_, state in self._states.items() if state == DRAINING}

    def remove(self, id_: str) -> None:
        self._states.pop(id_, None)
        self._delete.run(id_)
