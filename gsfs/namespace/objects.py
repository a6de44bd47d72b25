"""Physical objects and their replicas. Owns both tables and the invariant between them:
the last readable replica of a live object is never removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Select, bindparam, delete, func, insert, literal_column, select, update

from gsfs.errors import GsfsError
from gsfs.model import Ino, LocationId, ObjectId, ObjectState, ReplicaState
from gsfs.namespace import schema
from gsfs.namespace.database import Database, Row, compile_statement
from gsfs.namespace.replicas import READABLE, Event, step


class LastReplica(GsfsError):
    """Refused: it is the last readable replica of bytes that are in use."""


class PhysicalObject(NamedTuple):
    """A row of the object table."""

    id: ObjectId
    bucket: Ino
    epoch: int
    state: ObjectState
    size: int
    live: int
    crc32c: int
    block_crcs: bytes | None
    created_ns: int
    synced: int


class Replica(NamedTuple):
    """A row of the replica table."""

    object: ObjectId
    location: LocationId
    state: ReplicaState
    key: str | None
    etag: str | None
    since_ns: int
    expires_ns: int | None
    owned: bool = True
    """False: there before us (imported); forgotten, never deleted at its location."""


class ObjectTable:
    """Physical objects; live bytes are counted in memory and written with each flush."""

    def __init__(self, database: Database, namespace_id: str) -> None:
        o, r, d = schema.object_, schema.replica, schema.redo
        self._namespace_id = namespace_id
        one = o.c.id == bindparam("k")
        self._live: dict[int, int] = {}
        self._kept: dict[tuple[int, str], int] | None = None
        self.before_kept_changes: Callable[[], None] = lambda: None
        """Called before the bytes that a location keeps change, so that what was kept until now can be counted."""
        self.on_let_go: Callable[[PhysicalObject, Replica], None] = lambda _object, _replica: None
        """Told of a replica at a location that is going to be deleted there, as it was."""
        self.now_ns: Callable[[], int] = time.time_ns
        self.garbage_possible = True
        self._select = compile_statement(database, select(o).where(one))
        self._insert = compile_statement(database, insert(o))
        self._grow = compile_statement(
            database,
            update(o)
            .values(size=bindparam("v_size"), crc32c=bindparam("v_crc"), synced=bindparam("v_synced"))
            .where(one),
        )
        self._learn = compile_statement(
            database, update(o).values(crc32c=bindparam("v_crc"), block_crcs=bindparam("v_b")).where(one)
        )
        self._synced = compile_statement(database, update(o).values(synced=o.c.size).where(one))
        self._seal = compile_statement(
            database,
            update(o)
            .values(
                state=bindparam("v_state"),
                size=bindparam("v_size"),
                crc32c=bindparam("v_crc"),
                block_crcs=bindparam("v_b"),
                synced=bindparam("v_synced"),
            )
            .where(one),
        )
        self._account = compile_statement(
            database, update(o).values(live=o.c.live + bindparam("v_d")).where(one)
        )
        self._delete = compile_statement(database, delete(o).where(one))
        self._garbage = compile_statement(
            database,
            select(o.c.id)
            .where((o.c.live == literal_column("0")) & (o.c.state == literal_column("'sealed'")))
            .limit(bindparam("most"))
            .offset(literal_column("0")),
        )
        readable = r.c.state.in_([literal_column(f"'{s}'") for s in sorted(READABLE)])
        elsewhere = (
            select(r.c.object)
            .where(
                (r.c.object == o.c.id)
                & readable
                & (
                    func.substr(r.c.location, literal_column("1"), literal_column("6"))
                    != literal_column("'cache:'")
                )
            )
            .exists()
        )
        self._short = compile_statement(database, _objects_short_of_copies())
        self._local_only = compile_statement(database, select(o).where(~elsewhere).order_by(o.c.id))
        self._unsynced = compile_statement(database, select(o).where(o.c.synced < o.c.size).order_by(o.c.id))
        self._sparse = compile_statement(
            database,
            select(o)
            .where((o.c.state == literal_column("'sealed'")) & (o.c.live > literal_column("0")))
            .where(o.c.live * literal_column("100") < o.c.size * bindparam("percent")),
        )
        self._redo_insert = compile_statement(database, insert(d))
        self._redo_delete = compile_statement(database, delete(d).where(d.c.object == bindparam("k")))
        self._redo_delete_from = compile_statement(
            database, delete(d).where((d.c.object == bindparam("k")) & (d.c.offset >= bindparam("o")))
        )
        self._redo_all = compile_statement(database, select(d).order_by(d.c.object, d.c.offset))
        self._all = compile_statement(database, select(o).order_by(o.c.id))
        self._open = compile_statement(
            database, select(o).where(o.c.state == literal_column("'open'")).order_by(o.c.id)
        )
        self._ids = compile_statement(database, select(o.c.id))
        self._sums = compile_statement(
            database,
            select(
                func.count(),
                func.coalesce(func.sum(o.c.size), literal_column("0")),
                func.coalesce(func.sum(o.c.live), literal_column("0")),
            ),
        )
        mine = (r.c.object == bindparam("k")) & (r.c.location == bindparam("l"))
        self._replicas = compile_statement(
            database, select(r).where(r.c.object == bindparam("k")).order_by(r.c.location)
        )
        self._replica = compile_statement(database, select(r).where(mine))
        self._replica_insert = compile_statement(database, insert(r))
        self._replica_state = compile_statement(
            database,
            update(r)
            .values(state=bindparam("v_s"), etag=bindparam("v_e"), since_ns=bindparam("v_t"))
            .where(mine),
        )
        self._disown = compile_statement(
            database,
            update(r)
            .values(owned=literal_column("0"))
            .where((r.c.object == bindparam("k")) & r.c.key.is_not(None)),
        )
        self._replica_delete = compile_statement(database, delete(r).where(mine))
        self._in_state = compile_statement(
            database,
            select(r)
            .where(r.c.state == bindparam("s"))
            .order_by(r.c.object)
            .limit(bindparam("most"))
            .offset(literal_column("0")),
        )
        self._in_state_at = compile_statement(
            database,
            select(r)
            .where(r.c.state == bindparam("s"), r.c.location == bindparam("l"))
            .order_by(r.c.object)
            .limit(bindparam("most"))
            .offset(literal_column("0")),
        )
        self._at = compile_statement(
            database, select(r).where(r.c.location == bindparam("l")).order_by(r.c.object)
        )
        self._forget_caches = compile_statement(
            database,
            delete(r).where(
                func.substr(r.c.location, literal_column("1"), literal_column("6"))
                == literal_column("'cache:'")
            ),
        )
        self._expiry = compile_statement(database, update(r).values(expires_ns=bindparam("v_e")).where(mine))
        self._due = compile_statement(
            database,
            select(r.c.object)
            .where(r.c.expires_ns.is_not(None) & (r.c.expires_ns < bindparam("now")) & readable)
            .where(r.c.object > bindparam("after"))
            .group_by(r.c.object)
            .order_by(r.c.object)
            .limit(bindparam("most"))
            .offset(literal_column("0")),
        )
        self._in_bucket = compile_statement(
            database,
            select(o)
            .where((o.c.bucket == bindparam("b")) & (o.c.id > bindparam("after")))
            .where((o.c.state == literal_column("'sealed'")) & (o.c.live > literal_column("0")))
            .order_by(o.c.id)
            .limit(bindparam("most"))
            .offset(literal_column("0")),
        )
        self._stored = compile_statement(
            database,
            select(o.c.bucket, r.c.location, func.sum(o.c.size))
            .select_from(r.join(o, o.c.id == r.c.object))
            .where(readable)
            .where(
                func.substr(r.c.location, literal_column("1"), literal_column("6"))
                != literal_column("'cache:'")
            )
            .group_by(o.c.bucket, r.c.location),
        )
        self._tally = compile_statement(
            database,
            select(
                r.c.location, r.c.state, func.count(), func.coalesce(func.sum(o.c.size), literal_column("0"))
            )
            .select_from(r.join(o, o.c.id == r.c.object))
            .group_by(r.c.location, r.c.state),
        )

    def key_of(self, object_: PhysicalObject, replica: Replica) -> str:
        """The replica's key: its own, or one derived from namespace, number and epoch, used for nothing else."""
        id_ = object_.id
        return replica.key or f"{self._namespace_id}/{id_ & 0xFF:02x}/{id_:012x}-{object_.epoch:x}"

    # --- objects

    def account(self, object_: int, delta: int) -> None:
        """An extent that refers to the object came (or went): ``delta`` live bytes."""
        self._live[object_] = self._live.get(object_, 0) + delta

    def flush(self) -> None:
        if self._live:
            deltas = [(delta, object_) for object_, delta in self._live.items() if delta]
            self.garbage_possible = self.garbage_possible or any(delta < 0 for delta, _ in deltas)
            self._live.clear()
            if deltas:
                self._account.many(deltas)

    @property
    def has_changes(self) -> bool:
        return bool(self._live)

    def add(self, object_: PhysicalObject) -> None:
        self._insert.run(*object_)

    def get(self, object_: int) -> PhysicalObject | None:
        row = self._select.one(object_)
        return _object(row) if row else None

    def grow(self, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """(size, crc32c, synced, object) of open segments, as of the commit to come."""
        self._grow.many(rows)

    def mark_synced(self, object_: int) -> None:
        self._synced.run(object_)

    def seal(self, object_: int, size: int, crc32c: int, block_crcs: bytes, synced: int) -> None:
        """It will not change any more. A sealed object without live bytes is garbage at once."""
        self._seal.run(ObjectState.SEALED, size, crc32c, block_crcs, synced, object_)
        self.garbage_possible = True

    def learn(self, object_: int, crc32c: int, block_crcs: bytes) -> None:
        """The checksums of an imported object, computed from its bytes."""
        self._learn.run(crc32c, block_crcs, object_)

    def remove(self, object_: int) -> None:
        self._delete.run(object_)

    # --- bytes that the log of commits carries until their file is flushed

    def add_redo(self, object_: int, offset: int, data: bytes) -> None:
        """Carry bytes of an object; what a failed flush left of them is replaced."""
        self._redo_delete_from.run(object_, offset)
        self._redo_insert.run(object_, offset, data)

    def drop_redo(self, object_: int) -> None:
        """The object's file has been flushed."""
        self._redo_delete.run(object_)

    def redo(self) -> list[tuple[ObjectId, int, bytes]]:
        """(object, offset, bytes) to be written again after a crash; writing them twice does no harm."""
        return [(ObjectId(row[0]), int(row[1]), bytes(row[2])) for row in self._redo_all.all()]

    def garbage(self, most: int = 1000) -> list[ObjectId]:
        """Sealed objects that no extent refers to."""
        self.flush()
        return [ObjectId(row[0]) for row in self._garbage.all(most)]

    def local_only(self) -> list[PhysicalObject]:
        """Objects without a readable replica at any location but a cache."""
        return [_object(row) for row in self._local_only.all()]

    def short_of(self, ino: Ino, copies: int) -> list[ObjectId]:
        """Objects of a file that fewer locations keep for good. Write its extents out before."""
        return [ObjectId(row[0]) for row in self._short.all(ino, copies)]

    def unsynced(self) -> list[PhysicalObject]:
        """Objects whose last bytes may not be on the local disk."""
        return [_object(row) for row in self._unsynced.all()]

    def all(self) -> list[PhysicalObject]:
        self.flush()
        return [_object(row) for row in self._all.all()]

    def sparse(self, live_percent: int) -> list[PhysicalObject]:
        """Sealed objects of which less than that share is live."""
        self.flush()
        return [_object(row) for row in self._sparse.all(live_percent)]

    def still_open(self) -> list[PhysicalObject]:
        """Segments that nobody has sealed."""
        return [_object(row) for row in self._open.all()]

    def ids(self) -> set[int]:
        """The number of every object."""
        return {row[0] for row in self._ids.all()}

    def totals(self) -> tuple[int, int, int]:
        """(objects, bytes, live bytes)."""
        self.flush()
        row = self._sums.one() or (0, 0, 0)
        return int(row[0]), int(row[1]), int(row[2])

    # --- replicas

    def replicas(self, object_: int) -> list[Replica]:
        return [_replica(row) for row in self._replicas.all(object_)]

    def replica(self, object_: int, location: str) -> Replica | None:
        row = self._replica.one(object_, location)
        return _replica(row) if row else None

    def add_replica(
        self,
        object_: int,
        location: LocationId,
        state: ReplicaState,
        *,
        key: str | None = None,
        expires_ns: int | None = None,
    ) -> None:
        self._replica_insert.run(object_, location, state, key, None, self.now_ns(), expires_ns, 1)
        if state in READABLE:
            self._count_kept(object_, location, 1)

    def add_foreign(self, object_: int, location: LocationId, key: str, etag: str, *, owned: bool) -> None:
        """A replica that was there before us, under a key of its own."""
        self._replica_insert.run(
            object_, location, ReplicaState.AVAILABLE, key, etag, self.now_ns(), None, int(owned)
        )
        self._count_kept(object_, location, 1)

    def disown(self, object_: int) -> None:
        """What lies under the keys of its foreign replicas is something else by now: it is not ours to delete."""
        self._disown.run(object_)

    def advance(
        self, object_: int, location: LocationId, event: Event, *, etag: str | None = None
    ) -> ReplicaState:
        """Let ``event`` happen to the replica. Raises LastReplica where the invariant would break."""
        replica = self.replica(object_, location)
        if replica is None:
            raise ValueError(f"object {object_}: no replica at {location}")
        state = step(replica.state, event)
        if replica.state in READABLE and state not in READABLE:
            self._refuse_last(object_, location)
        if (state in READABLE) != (replica.state in READABLE):
            self._count_kept(object_, location, 1 if state in READABLE else -1)
        if state is ReplicaState.TOMBSTONE and replica.state in READABLE and replica.owned:
            self._tell_let_go(replica)
        if state is ReplicaState.GONE:
            self._replica_delete.run(object_, location)
        else:
            keeps = state in READABLE and replica.state in READABLE
            since_ns = replica.since_ns if keeps else self.now_ns()
            self._replica_state.run(state, etag or replica.etag, since_ns, object_, location)
        return state

    def _tell_let_go(self, replica: Replica) -> None:
        row = self.get(replica.object)
        if row is not None and not replica.location.startswith("cache:"):
            self.on_let_go(row, replica)

    def _refuse_last(self, object_: int, location: LocationId) -> None:
        others = [r for r in self.replicas(object_) if r.location != location and r.state in READABLE]
        if others:
            return
        row = self.get(object_)
        if row is not None and row.live + self._live.get(object_, 0) > 0:
            raise LastReplica(f"object {object_}: {location} holds its last replica")

    def set_expiry(self, object_: int, location: LocationId, expires_ns: int | None) -> None:
        """When the policy lets the replica go; None: never."""
        self._expiry.run(expires_ns, object_, location)

    def due(self, now_ns: int, after: int, most: int) -> list[ObjectId]:
        """Objects numbered above ``after`` that have a readable replica past its expiry, in order."""
        return [ObjectId(row[0]) for row in self._due.all(now_ns, after, most)]

    def in_bucket(self, bucket: int, after: int, most: int) -> list[PhysicalObject]:
        """Sealed objects of a bucket numbered above ``after``, in order: to walk them in pieces."""
        return [_object(row) for row in self._in_bucket.all(bucket, after, most)]

    def stored(self) -> list[tuple[int, str, int]]:
        """(bucket, location, bytes) of everything a location keeps, caches left out. Summed once, then counted."""
        if self._kept is None:
            self._kept = {(int(row[0]), row[1]): int(row[2]) for row in self._stored.all()}
        return [(bucket, location, size) for (bucket, location), size in self._kept.items() if size]

    def _count_kept(self, object_: int, location: str, sign: int) -> None:
        """A replica became readable, or is no longer: what is stored changes now."""
        if location.startswith("cache:"):
            return
        self.before_kept_changes()
        row = self.get(object_)
        if self._kept is not None and row is not None:
            key = (row.bucket, location)
            self._kept[key] = self._kept.get(key, 0) + sign * row.size

    def forget_caches(self) -> None:
        """The disks of a lost machine are gone, and with them every replica in a cache: recovery only."""
        self._forget_caches.run()

    def in_state(self, state: ReplicaState, most: int = 1000) -> list[Replica]:
        return [_replica(row) for row in self._in_state.all(state, most)]

    def in_state_at(self, state: ReplicaState, location: LocationId, most: int) -> list[Replica]:
        return [_replica(row) for row in self._in_state_at.all(state, location, most)]

    def at(self, location: LocationId) -> list[Replica]:
        return [_replica(row) for row in self._at.all(location)]

    def tally(self) -> list[tuple[str, str, int, int]]:
        """(location, state, replicas, bytes)."""
        return [(row[0], row[1], int(row[2]), int(row[3])) for row in self._tally.all()]


def _objects_short_of_copies() -> Select[Any]:
    x, r = schema.extent, schema.replica
    kept = (
        select(func.count())
        .select_from(r)
        .where((r.c.object == x.c.object) & r.c.expires_ns.is_(None))
        .where(r.c.state.in_([literal_column(f"'{s}'") for s in sorted(READABLE)]))
        .where(
            func.substr(r.c.location, literal_column("1"), literal_column("6")) != literal_column("'cache:'")
        )
        .correlate(x)
        .scalar_subquery()
    )
    mine = select(x.c.object).where(x.c.ino == bindparam("i")).group_by(x.c.object)
    return mine.having(kept < bindparam("copies")).order_by(x.c.object)


def _object(row: Row) -> PhysicalObject:
    id_, bucket, epoch, state, *rest = row
    return PhysicalObject(id_, bucket, epoch, ObjectState(state), *rest)


def _replica(row: Row) -> Replica:
    object_, location, state, key, etag, since_ns, expires_ns, owned = row
    return Replica(object_, location, ReplicaState(state), key, etag, since_ns, expires_ns, bool(owned))
