"""Opening a namespace after whatever happened before. Owns the decision to rewind; loses nothing silently.

After a crash of the process the kernel still has everything that was written, so every commit stands. After
a power cut a commit may name bytes that never reached the disk: then the namespace is rewound to its last
commit that was durable together with its data, which is a state the file system really was in.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from gsfs.config import Config
from gsfs.data.cache import ObjectCache, crc_of_file, sync_directory, write_fully
from gsfs.errors import Busy, Incomplete, NoSpace, PermissionRefused
from gsfs.model import LocationId
from gsfs.namespace import sqlite
from gsfs.namespace.database import NOT_TO_BE_REWOUND
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.replicas import READABLE, Event
from gsfs.namespace.sqlite import SqliteDatabase
from gsfs.namespace.store import Store, open_store
from gsfs.transfer.uploads import is_intact

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovered:
    """What a start found."""

    rewound_bytes: int = 0
    damaged: list[PhysicalObject] = field(default_factory=list)
    """Objects whose only copy fails its checksum or is gone."""
    sealed: int = 0
    dropped_files: int = 0


def cache_location(directory: Path) -> LocationId:
    """The cache's own name as a location: bytes that are only there can be looked for there."""
    path = directory / "cache-id"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            temporary = directory / ".cache-id"
            with open(temporary, "w") as file:
                file.write(uuid.uuid4().hex[:12] + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_directory(directory)
        return LocationId(f"cache:{path.read_text().strip()}")
    except OSError as error:
        kind = NoSpace if error.errno == errno.ENOSPC else PermissionRefused
        raise kind(f"cache.path {directory}: {error.strerror}") from None


def open_recovered(
    config: Config, *, allow_missing: bool = False
) -> tuple[Store, ObjectCache, LocationId, Recovered]:
    """Open the namespace and the cache and bring them into step."""
    here = cache_location(config.cache_dir)
    store = open_store(config.namespace.url)
    try:
        cache = ObjectCache(config.cache_dir, config.cache_bytes, config.min_free_bytes)
        report = Recovered()
        _redo(store, cache)
        bad = _broken(store, cache)
        if bad and isinstance(store.database, SqliteDatabase) and store.mark != NOT_TO_BE_REWOUND:
            store = _rewind(store, store.database, report)
            _redo(store, cache)
            bad = _broken(store, cache)
        report.damaged = bad
        for object_ in bad:
            log.error("object %d (%d bytes): its only copy is damaged or gone", object_.id, object_.size)
        _refuse_foreign_cache(store, here, allow_missing)
        _seal_open(store, cache, report)
        _flush_unsynced(store, cache)
        _drop_unknown_files(store, cache, report)
        _forget_evicted(store, cache, here)
        _hold_only_copies(store, cache)
        _drop_redo(store)
        store.begin_epoch()
        _commit_durably(store)
        store.database.commit()
        store.database.prepare_log()
        store.database.begin()
    except BaseException:
        abandon = getattr(store.database, "abandon", store.database.close)
        abandon()
        raise
    return store, cache, here, report


def _redo(store: Store, cache: ObjectCache) -> None:
    """Write what the log carries to the files it belongs to. Appends never change, so doing it again is safe."""
    touched = set()
    for id_, offset, data in store.objects.redo():
        file = cache.get(id_) or cache.create(id_)
        write_fully(file.fd, data, offset)
        touched.add(id_)
    for id_ in touched:
        if (written := cache.get(id_)) is not None:
            cache.look_again(written)
            written.is_new = True
            written.sync()


def _drop_redo(store: Store) -> None:
    """Every file has been flushed."""
    for id_ in {id_ for id_, _, _ in store.objects.redo()}:
        store.objects.drop_redo(id_)


def _broken(store: Store, cache: ObjectCache) -> list[PhysicalObject]:
    """Objects that the disk may have missed, and did."""
    return [
        o
        for o in store.objects.unsynced()
        if o.live and not is_intact(cache, o) and not _readable_elsewhere(store, o)
    ]


def _readable_elsewhere(store: Store, object_: PhysicalObject) -> bool:
    return any(
        r.state in READABLE and not r.location.startswith("cache:")
        for r in store.objects.replicas(object_.id)
    )


def _rewind(store: Store, database: SqliteDatabase, report: Recovered) -> Store:
    """Back to the last commit that was durable with its data."""
    salt, frames = store.mark
    path = database.path
    database.abandon()
    report.rewound_bytes = sqlite.rewind(path, salt, frames)
    log.warning(
        "after a power cut: the namespace was taken back to its last durable commit (%d bytes of log)",
        report.rewound_bytes,
    )
    return open_store(f"sqlite:///{path}")


def _refuse_foreign_cache(store: Store, here: LocationId, allow_missing: bool) -> None:
    """Bytes that wait in another cache directory would read as errors: say so before anything starts."""
    missing = [o for o in store.objects.local_only() if o.live and _only_in_other_caches(store, o, here)]
    if not missing:
        return
    where = sorted({str(r.location) for o in missing for r in store.objects.replicas(o.id)})
    text = f"{len(missing)} objects ({sum(o.live for o in missing)} bytes) were not uploaded yet and are only in {', '.join(where)}"
    if not allow_missing:
        raise Incomplete(
            f"cache.path: {text}; mount with that cache directory, or give up these bytes with --allow-missing"
        )
    log.warning("%s; reading them fails", text)


def _only_in_other_caches(store: Store, object_: PhysicalObject, here: LocationId) -> bool:
    replicas = store.objects.replicas(object_.id)
    return bool(replicas) and not any(r.location == here for r in replicas)


def _seal_open(store: Store, cache: ObjectCache, report: Recovered) -> None:
    """What was being appended to ends where the last commit says."""
    for object_ in store.objects.still_open():
        file, sums = cache.get(object_.id), None
        if file is not None and os.fstat(file.fd).st_size >= object_.size:
            os.ftruncate(file.fd, object_.size)
            sums = crc_of_file(file.fd, object_.size)
        if file is None or sums is None or sums[0] != object_.crc32c:
            # Damaged: with no checksum of any block, reading it fails instead of showing what it never held.
            store.objects.seal(object_.id, object_.size, object_.crc32c, b"", object_.synced)
            if object_.live and object_ not in report.damaged:
                report.damaged.append(object_)
            continue
        store.objects.seal(object_.id, object_.size, sums[0], sums[1], object_.synced)
        file.present = file.verified = (1 << len(sums[1]) // 4) - 1
        report.sealed += 1


def _flush_unsynced(store: Store, cache: ObjectCache) -> None:
    """What a crash left in the kernel's memory only goes to the disk: no later fsync would think of it."""
    for object_ in store.objects.unsynced():
        file = cache.get(object_.id)
        if file is not None:
            file.is_new = True
            file.sync()
        store.objects.mark_synced(object_.id)


def _forget_evicted(store: Store, cache: ObjectCache, here: LocationId) -> None:
    """A crash may take back the commit that says that a file was evicted: a copy that is gone must not count."""
    for replica in store.objects.at(here):
        gone = replica.state in READABLE and replica.object not in cache
        if gone and any(
            r.state in READABLE and r.location != here for r in store.objects.replicas(replica.object)
        ):
            store.objects.advance(replica.object, here, Event.DROP)
            store.objects.advance(replica.object, here, Event.REMOVED)


def _commit_durably(store: Store) -> None:
    """All that this start found or decided stands, whatever happens next."""
    store.record_mark(NOT_TO_BE_REWOUND)
    store.commit()
    store.database.sync()
    mark = store.database.durable_mark()
    if mark is not None:
        store.record_mark(mark)


def _drop_unknown_files(store: Store, cache: ObjectCache, report: Recovered) -> None:
    """Files whose object no durable commit names."""
    known = store.objects.ids()
    for id_ in cache.ids():
        if id_ not in known:
            cache.remove(id_)
            report.dropped_files += 1


def _hold_only_copies(store: Store, cache: ObjectCache) -> None:
    for object_ in store.objects.local_only():
        file = cache.get(object_.id)
        if file is not None:
            file.held = True


def check_cache_lock(directory: Path) -> int:
    """Hold the cache directory for one process. Raises Busy."""
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Busy(f"cache.path {directory}: in use by another mount") from None
    return fd
