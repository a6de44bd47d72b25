"""Virtual buckets and their usage. Owns the bucket table; the directory itself is an inode like any other."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, select, update

from gsfs.model import Durability, Ino, LocationId
from gsfs.namespace import schema
from gsfs.namespace.database import Database, compile_statement


@dataclass(slots=True)
class Bucket:
    """A virtual bucket; kept in memory, written back at each flush."""

    ino: Ino
    home: LocationId
    durability: Durability
    copies: int
    quota_bytes: int | None
    quota_inodes: int | None
    used_bytes: int
    used_inodes: int
    policy: str
    changed: bool = False


class BucketTable:
    """Every bucket, in memory: there are few."""

    def __init__(self, database: Database) -> None:
        t = schema.bucket
        columns = [c.name for c in t.c if c.name != "ino"]
        self._insert = compile_statement(database, insert(t))
        self._update = compile_statement(
            database,
            update(t).values({n: bindparam(f"v_{n}") for n in columns}).where(t.c.ino == bindparam("k")),
        )
        self._delete = compile_statement(database, delete(t).where(t.c.ino == bindparam("k")))
        self._all: dict[int, Bucket] = {}
        for ino, home, durability, *rest in compile_statement(database, select(t)).all():
            self._all[ino] = Bucket(ino, home, Durability(durability), *rest)

    def get(self, ino: int) -> Bucket | None:
        return self._all.get(ino)

    def all(self) -> list[Bucket]:
        return list(self._all.values())

    def add(self, bucket: Bucket) -> None:
        self._all[bucket.ino] = bucket
        self._insert.run(*_row(bucket))

    def remove(self, ino: int) -> None:
        del self._all[ino]
        self._delete.run(ino)

    def flush(self) -> None:
        for bucket in self._all.values():
            if bucket.changed:
                ino, *rest = _row(bucket)
                self._update.run(*rest, ino)
                bucket.changed = False


def _row(b: Bucket) -> tuple[object, ...]:
    return (
        b.ino, b.home, b.durability, b.copies, b.quota_bytes, b.quota_inodes, b.used_bytes, b.used_inodes, b.policy,
    )  # fmt: skip
