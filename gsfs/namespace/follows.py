"""Imports and exports: what is followed, what was imported, what was exported. Owns the three tables; decides nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, select, update

from gsfs.model import Ino, LocationId, ObjectId
from gsfs.namespace import schema
from gsfs.namespace.database import Database, Row, compile_statement

IMPORT, EXPORT = "import", "export"


class Place(NamedTuple):
    """Plain objects at a location: a bucket's source, or where it is exported to."""

    bucket: Ino
    kind: str
    location: LocationId
    prefix: str

    def __str__(self) -> str:
        return f"{self.location}/{self.prefix}" if self.prefix else str(self.location)


@dataclass(frozen=True, slots=True)
class Settings:
    """How an import or export was asked for."""

    follows: bool = False
    """It goes on by itself until it is stopped."""
    owned: bool = False
    """Import: removing a file removes the foreign object."""
    interval_s: float = 30.0
    """Import: seconds between two listings."""
    queue_url: str = ""
    """Import: the queue that tells of changes, instead of listing."""
    uid: int = 0
    gid: int = 0


class Imported(NamedTuple):
    """A foreign object as it was imported."""

    bucket: Ino
    key: bytes
    ino: Ino
    object: ObjectId
    etag: str


class Exported(NamedTuple):
    """A file as it was exported."""

    ino: Ino
    mtime_ns: int
    size: int
    etag: str


class FollowTable:
    """Every import and export, in memory: there are few."""

    def __init__(self, database: Database) -> None:
        t = schema.follow
        mine = (
            (t.c.bucket == bindparam("b")) & (t.c.kind == bindparam("k"))
            & (t.c.location == bindparam("l")) & (t.c.prefix == bindparam("p"))
        )  # fmt: skip
        self._insert = compile_statement(database, insert(t))
        self._update = compile_statement(database, update(t).values(settings=bindparam("v")).where(mine))
        self._delete = compile_statement(database, delete(t).where(mine))
        self._all: dict[Place, Settings] = {}
        for bucket, kind, location, prefix, settings in compile_statement(database, select(t)).all():
            place = Place(bucket, kind, location, bytes(prefix).decode())
            self._all[place] = Settings(**json.loads(settings))

    def all(self) -> dict[Place, Settings]:
        return dict(self._all)

    def get(self, place: Place) -> Settings | None:
        return self._all.get(place)

    def of_bucket(self, bucket: int, kind: str) -> list[Place]:
        return [place for place in self._all if place.bucket == bucket and place.kind == kind]

    def set(self, place: Place, settings: Settings) -> None:
        text = json.dumps(asdict(settings), sort_keys=True)
        if place in self._all:
            self._update.run(text, *_row(place))
        else:
            self._insert.run(*_row(place), text)
        self._all[place] = settings

    def remove(self, place: Place) -> None:
        self._all.pop(place, None)
        self._delete.run(*_row(place))


def _row(place: Place) -> Row:
    return (place.bucket, place.kind, place.location, place.prefix.encode())


class ImportedTable:
    """Foreign objects of each bucket by their key."""

    def __init__(self, database: Database) -> None:
        t = schema.imported
        mine = (t.c.bucket == bindparam("b")) & (t.c.key == bindparam("k"))
        self._select = compile_statement(database, select(t).where(mine))
        self._insert = compile_statement(database, insert(t))
        self._update = compile_statement(
            database,
            update(t)
            .values(ino=bindparam("v_i"), object=bindparam("v_o"), etag=bindparam("v_e"))
            .where(mine),
        )
        self._delete = compile_statement(database, delete(t).where(mine))
        self._forget = compile_statement(database, delete(t).where(t.c.bucket == bindparam("b")))
        self._keys = compile_statement(
            database, select(t.c.key).where(t.c.bucket == bindparam("b")).order_by(t.c.key)
        )

    def get(self, bucket: int, key: bytes) -> Imported | None:
        row = self._select.one(bucket, key)
        return Imported(row[0], bytes(row[1]), *row[2:]) if row else None

    def put(self, row: Imported) -> None:
        bucket, key, *rest = row
        if not self._update.run(*rest, bucket, key):
            self._insert.run(*row)

    def remove(self, bucket: int, key: bytes) -> None:
        self._delete.run(bucket, key)

    def keys(self, bucket: int) -> list[bytes]:
        return [bytes(row[0]) for row in self._keys.all(bucket)]

    def forget(self, bucket: int) -> None:
        """The bucket is gone."""
        self._forget.run(bucket)


class ExportedTable:
    """Files of each export by their path in the bucket."""

    def __init__(self, database: Database) -> None:
        t = schema.exported
        export = (
            (t.c.bucket == bindparam("b")) & (t.c.location == bindparam("l")) & (t.c.prefix == bindparam("p"))
        )
        mine = export & (t.c.path == bindparam("path"))
        facts = (t.c.ino, t.c.mtime_ns, t.c.size, t.c.etag)
        self._select = compile_statement(database, select(*facts).where(mine))
        self._insert = compile_statement(database, insert(t))
        self._update = compile_statement(
            database, update(t).values({c.name: bindparam(f"v_{c.name}") for c in facts}).where(mine)
        )
        self._delete = compile_statement(database, delete(t).where(mine))
        self._forget = compile_statement(database, delete(t).where(export))
        self._below = compile_statement(
            database,
            select(t.c.path)
            .where(export & (t.c.path >= bindparam("first")) & (t.c.path < bindparam("end")))
            .order_by(t.c.path),
        )
        self._of_ino = compile_statement(
            database,
            select(t.c.path).where((t.c.ino == bindparam("i")) & (t.c.bucket == bindparam("b"))).distinct(),
        )

    def get(self, place: Place, path: bytes) -> Exported | None:
        row = self._select.one(*_export(place), path)
        return Exported(*row) if row else None

    def put(self, place: Place, path: bytes, facts: Exported) -> None:
        if not self._update.run(*facts, *_export(place), path):
            self._insert.run(*_export(place), path, *facts)

    def remove(self, place: Place, path: bytes) -> None:
        self._delete.run(*_export(place), path)

    def at_or_below(self, place: Place, path: bytes) -> list[bytes]:
        """The path itself and all that lies below it; everything for b""."""
        if not path:
            return [bytes(row[0]) for row in self._below.all(*_export(place), b"", b"\xff" * 8)]
        here = [path] if self.get(place, path) else []
        return here + [bytes(row[0]) for row in self._below.all(*_export(place), path + b"/", path + b"0")]

    def paths_of(self, bucket: int, ino: int) -> list[bytes]:
        """Where the file was when it was exported."""
        return [bytes(row[0]) for row in self._of_ino.all(ino, bucket)]

    def forget(self, place: Place) -> None:
        """The export is over, or never was: the next one writes everything."""
        self._forget.run(*_export(place))


def _export(place: Place) -> Row:
    return (place.bucket, place.location, place.prefix.encode())
