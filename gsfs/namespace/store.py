"""The namespace as one thing: its tables, its numbers, its commits. Owns when rows are written, not why.

Everything is a plain function that runs to its end: between two commits there is one open transaction, and
an operation of the file system is whole in it. Whoever changes something calls nothing here; the committer
(``transfer.committer``) asks ``dirty`` and commits in groups.
"""

from __future__ import annotations

import stat
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.schema import CreateIndex, CreateTable

from gsfs.errors import ConfigError, DatabaseCorrupt, EntryExists, NotFoundError, SchemaMismatch
from gsfs.model import ROOT_INO, Ino, ObjectId
from gsfs.namespace import schema
from gsfs.namespace.buckets import BucketTable
from gsfs.namespace.database import NOT_TO_BE_REWOUND, Database, compile_statement
from gsfs.namespace.entries import EntryTable, SymlinkTable, XattrTable
from gsfs.namespace.extents import ExtentTable
from gsfs.namespace.follows import ExportedTable, FollowTable, ImportedTable
from gsfs.namespace.inodes import Inode, InodeTable
from gsfs.namespace.locations import LocationTable
from gsfs.namespace.objects import ObjectTable
from gsfs.namespace.pins import PinTable
from gsfs.namespace.policies import PolicyTable
from gsfs.namespace.sqlite import SqliteDatabase

COUNTERS = (
    "ino", "object", "entry", "epoch", "wal_salt", "wal_frames", "ship_generation", "ship_part", "stored_ms",
)  # fmt: skip


class Store:
    """An open namespace. ``before_commit`` hooks add rows that belong to the commit (segment lengths)."""

    def __init__(self, database: Database) -> None:
        self.database = database
        database.begin()
        m, c, r = schema.meta, schema.counter, schema.rebucket
        self._meta: dict[str, str] = dict(compile_statement(database, select(m.c.name, m.c.value)).all())
        self._check_version()
        self._counter_update = compile_statement(
            database, update(c).values(value=bindparam("v")).where(c.c.name == bindparam("n"))
        )
        self._rebucket_all = compile_statement(database, select(r.c.ino))
        self._rebucket_add = compile_statement(database, insert(r))
        self._rebucket_done = compile_statement(database, r.delete().where(r.c.ino == bindparam("i")))
        self._next: dict[str, int] = dict(compile_statement(database, select(c.c.name, c.c.value)).all())
        for name in set(COUNTERS).difference(self._next):  # made by a version that did not count it yet
            compile_statement(database, insert(c)).run(name, 0)
            self._next[name] = 0
        self._written = dict(self._next)
        self.objects = ObjectTable(database, self.namespace_id)
        self.extents = ExtentTable(database, self.objects.account)
        self.inodes = InodeTable(database)
        self.entries = EntryTable(database)
        self.symlinks = SymlinkTable(database)
        self.xattrs = XattrTable(database)
        self.buckets = BucketTable(database)
        self.policies = PolicyTable(database)
        self.pins = PinTable(database)
        self.locations = LocationTable(database)
        self.follows = FollowTable(database)
        self.imported = ImportedTable(database)
        self.exported = ExportedTable(database)
        self.before_commit: list[Callable[[], None]] = []
        self.dirty = False
        """Something was changed since the last commit."""
        self.news = 0
        """Grows with every change but those of the books: what would be missed on another machine."""
        self.on_dirty: Callable[[], None] = lambda: None

    def _check_version(self) -> None:
        found = int(self._meta.get("schema_version", "0"))
        if found > schema.SCHEMA_VERSION:
            raise SchemaMismatch(
                f"namespace: written by a newer gsfs (schema {found}, this one knows up to {schema.SCHEMA_VERSION}); "
                "upgrade gsfs; nothing was changed"
            )
        if found < schema.SCHEMA_VERSION:
            raise DatabaseCorrupt(
                f"namespace: schema version {found} is not one that gsfs ever wrote; nothing was changed"
            )

    # --- facts and numbers

    @property
    def namespace_id(self) -> str:
        return self._meta["namespace_id"]

    @property
    def name(self) -> str:
        return self._meta["name"]

    @property
    def epoch(self) -> int:
        """Number of this mount; part of every object's key."""
        return self._next["epoch"]

    def new_ino(self) -> Ino:
        number = self._next["ino"]
        self._next["ino"] = number + 1
        return Ino(number)

    def new_object(self) -> ObjectId:
        number = self._next["object"]
        self._next["object"] = number + 1
        return ObjectId(number)

    def new_entry_number(self) -> int:
        number = self._next["entry"]
        self._next["entry"] = number + 1
        return number

    @property
    def last_entry_number(self) -> int:
        return self._next["entry"] - 1

    def begin_epoch(self) -> None:
        """Count one more mount."""
        self._next["epoch"] += 1
        self.changed()

    @property
    def mark(self) -> tuple[int, int]:
        """The recorded mark of the last commit known to be durable with its data."""
        return (self._next["wal_salt"], self._next["wal_frames"])

    def record_mark(self, mark: tuple[int, int]) -> None:
        """To be written with the next commit, which it does not cause."""
        self._next["wal_salt"], self._next["wal_frames"] = mark

    @property
    def shipped(self) -> tuple[int, int]:
        """(generation, last part) of the namespace that was shipped last; (0, 0) for none."""
        return (self._next["ship_generation"], self._next["ship_part"])

    def record_shipped(self, generation: int, part: int) -> None:
        """To be written with the next commit, which it does not cause."""
        self._next["ship_generation"], self._next["ship_part"] = generation, part

    @property
    def stored_ms(self) -> int:
        """Until when the ledger has what is stored, in milliseconds since the epoch; 0: since never."""
        return self._next["stored_ms"]

    def record_stored(self, until_ms: int) -> None:
        """To be written with the next commit, as is what the ledger has got by then."""
        self._next["stored_ms"] = until_ms

    # --- directories moved between buckets

    def rebucket_pending(self) -> list[Ino]:
        return [Ino(row[0]) for row in self._rebucket_all.all()]

    def rebucket_add(self, ino: int) -> None:
        if ino not in self.rebucket_pending():
            self._rebucket_add.run(ino)

    def rebucket_done(self, ino: int) -> None:
        self._rebucket_done.run(ino)

    # --- commits

    def changed(self) -> None:
        """Say that something is to be committed."""
        self.news += 1
        self.booked()

    def booked(self) -> None:
        """Say that the books are to be committed; no reason to ship anything, for shipping is booked too."""
        if not self.dirty:
            self.dirty = True
            self.on_dirty()

    def charge(self, inode: Inode) -> None:
        """Bring the bucket's usage up to date with the inode's allocated bytes."""
        delta = inode.allocated - inode.charged
        if delta:
            inode.charged = inode.allocated
            bucket = self.buckets.get(inode.bucket)
            if bucket is not None:
                bucket.used_bytes += delta
                bucket.changed = True

    def flush(self) -> None:
        """Write what is kept in memory, so that queries that join see it."""
        if self.extents.has_changes:
            self.extents.flush()
        if self.inodes.has_changes:
            self.inodes.flush()

    def commit(self) -> None:
        """Write everything and commit; a crash of this process no longer takes it back."""
        self.write_out()
        self.database.commit()
        self.database.begin()

    def write_out(self) -> None:
        """Write everything into the open transaction."""
        self.dirty = False
        self.extents.flush()
        for hook in self.before_commit:
            hook()
        self.objects.flush()
        for inode in self.inodes.changed():
            self.charge(inode)
        self.inodes.flush()
        self.buckets.flush()
        changed = [(v, n) for n, v in self._next.items() if self._written.get(n) != v]
        if changed:
            self._counter_update.many(changed)
            self._written = dict(self._next)

    def close(self) -> None:
        """Commit and close. All data must be on the disk."""
        self.record_mark(NOT_TO_BE_REWOUND)
        self.write_out()
        self.database.commit()
        self.database.close()


def parse_url(url: str) -> Path | str:
    """Path of an SQLite namespace, or the URL of a PostgreSQL one. Raises ConfigError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(
            f"namespace.url: {url!r} is not a URL; takes sqlite:////absolute/path or postgresql://…"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or not parsed.database.startswith("/"):
            raise ConfigError(
                f"namespace.url: {url!r} needs an absolute path, as in sqlite:////var/lib/gsfs/namespace.db"
            )
        return Path(parsed.database)
    if backend == "postgresql":
        return url
    raise ConfigError(f"namespace.url: {backend!r} is not supported; takes sqlite or postgresql")


def open_database(url: str, *, create: bool = False) -> Database:
    """The database a configuration names."""
    target = parse_url(url)
    if isinstance(target, Path):
        return SqliteDatabase(target, create=create)
    # Here, for its driver is a tenth of the time that a start without it takes.
    from gsfs.namespace.postgres import PostgresDatabase

    return PostgresDatabase(target)


def open_store(url: str) -> Store:
    """Open an existing namespace. Raises NotFoundError, Busy, SchemaMismatch, DatabaseCorrupt."""
    database = open_database(url)
    try:
        if not is_namespace(database):
            raise NotFoundError(
                "namespace: the database holds no namespace; run `gsfs init` with this configuration first"
            )
        return Store(database)
    except BaseException as error:
        give_back(database)
        raise _corrupt(error) from None


def is_namespace(database: Database) -> bool:
    """Whether the tables are there."""
    database.begin()
    if database.dialect.name == "sqlite":
        sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'meta'"
    else:
        sql = "SELECT count(*) FROM pg_tables WHERE tablename = 'meta' AND schemaname = current_schema()"
    database.cursor.execute(sql)
    row = database.cursor.fetchone()
    database.commit()
    return bool(row and row[0])


def create(database: Database, name: str, *, uid: int, gid: int) -> None:
    """Make the tables and the root. Raises EntryExists where a namespace is already there."""
    if is_namespace(database):
        raise EntryExists("namespace: exists already; nothing was changed")
    database.begin()
    for table in schema.metadata.sorted_tables:
        database.cursor.execute(str(CreateTable(table).compile(dialect=database.dialect)))
        for index in sorted(table.indexes, key=lambda i: str(i.name)):
            database.cursor.execute(str(CreateIndex(index).compile(dialect=database.dialect)))
    now = time.time_ns()
    facts = {
        "schema_version": str(schema.SCHEMA_VERSION),
        "namespace_id": uuid.uuid4().hex[:16],
        "name": name,
        "created_ns": str(now),
    }
    compile_statement(database, insert(schema.meta)).many(list(facts.items()))
    start = {"ino": 2, "object": 1, "entry": 1}
    compile_statement(database, insert(schema.counter)).many([(n, start.get(n, 0)) for n in COUNTERS])
    root = (ROOT_INO, ROOT_INO, ROOT_INO, stat.S_IFDIR | 0o755, uid, gid, 0, 2, 0, 0, now, now, now)
    compile_statement(database, insert(schema.inode)).run(*root)
    database.commit()


def give_back(database: Database) -> None:
    """Close it with nothing committed and nothing folded back."""
    abandon = getattr(database, "abandon", database.close)
    abandon()


def _corrupt(error: BaseException) -> BaseException:
    """Errors of a driver while opening mean a database that cannot be trusted."""
    if type(error).__module__ in ("sqlite3", "psycopg.errors", "psycopg"):
        return DatabaseCorrupt(f"namespace: {error}; nothing was overwritten")
    return error
