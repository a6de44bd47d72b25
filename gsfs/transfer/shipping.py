"""The namespace's own way to a location: a snapshot, then what its log gains, seconds behind.

Owns the keys under ``meta/NAME/`` and what may be deleted of them. A generation is a snapshot and the parts
that follow it; it counts only once its first part is there, for the snapshot was made after that part began.
Nothing is listed here; only ``gsfs recover`` lists. What is shipped is durable locally first, so a recovered
namespace is a state that the file system was in.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import google_crc32c
import trio

from gsfs.backends.base import BytesSource, FileSource
from gsfs.backends.location import Location
from gsfs.data.cache import crc_of_file
from gsfs.errors import BackendError
from gsfs.namespace import pages
from gsfs.namespace.pages import Pages, Position
from gsfs.namespace.sqlite import SqliteDatabase
from gsfs.namespace.store import Store
from gsfs.transfer.committer import Committer

log = logging.getLogger(__name__)

REWRITE_MIN_BYTES = 64 << 20
"""A new snapshot is made when the parts are larger than the last one, and than this."""
PARTS_UNRECORDED = 64
"""Parts that a crash may have kept from being recorded."""


def prefix(name: str, namespace_id: str = "") -> str:
    """Where a file system's shipped namespaces are."""
    return f"meta/{name}/{namespace_id}/" if namespace_id else f"meta/{name}/"


class Shipping:
    """One for each mount of an SQLite namespace."""

    def __init__(
        self, store: Store, database: SqliteDatabase, committer: Committer, location: Location, scratch: Path
    ) -> None:
        self._store = store
        self._database = database
        self._committer = committer
        self._location = location
        self._scratch = scratch
        self._base = prefix(store.name, store.namespace_id)
        self._generation = 0  # 0: none of this mount yet
        self._part = 0
        self._position = Position()
        self._waiting = Pages()  # read from a log that has started afresh since
        self._news_shipped = -1
        self._snapshot_bytes = 0
        self._parts_bytes = 0
        self._lock = trio.Lock()  # one shipment at a time; taken before the committer's turn
        self.failure: str | None = None
        self.shipped_parts = 0
        committer.before_fold = self.keep_log

    def key(self, generation: int, part: int) -> str:
        """Part 0 is the snapshot."""
        return f"{self._base}{generation:012x}/{part:08x}"

    async def run(self, interval_s: float) -> None:
        """Ship now and then, until cancelled."""
        while True:
            await trio.sleep(interval_s)
            try:
                await self.ship()
            except (BackendError, OSError) as error:
                if self.failure is None:
                    log.warning("the namespace could not be shipped to %s: %s", self._location.id, error)
                self.failure = str(error)

    async def ship(self) -> None:
        """Return when the namespace as it is now is at the location. Raises BackendError, OSError."""
        async with self._lock:
            news = self._store.news
            if self._news_shipped == news:
                return
            await self._committer.durable()
            if not self._generation or self._parts_bytes > max(self._snapshot_bytes, REWRITE_MIN_BYTES):
                await self._new_generation()
            else:
                await self._ship_part()
            self._news_shipped = news
            self.failure = None

    async def _new_generation(self) -> None:
        """Position first, then the snapshot, then the part that leads past it."""
        old, old_parts = self._store.shipped
        async with self._committer.turn():
            self._position = self._now()
            self._waiting = Pages()
        generation = (self._store.epoch << 16) + (self._generation & 0xFFFF) + 1
        copy = self._scratch / "namespace.snapshot"
        await trio.to_thread.run_sync(pages.snapshot, self._database.path, copy)
        try:
            size, crc = await trio.to_thread.run_sync(_size_and_crc, copy)
            await self._location.put(self.key(generation, 0), FileSource(copy, size, crc), patient=True)
        finally:
            copy.unlink(missing_ok=True)
        self._generation, self._part = generation, 0
        self._snapshot_bytes, self._parts_bytes = size, 0
        self._store.record_shipped(generation, 0)
        await self._committer.durable()
        await self._ship_part()
        if old:
            await self._forget(old, old_parts)

    async def _forget(self, generation: int, parts: int) -> None:
        """Delete an older generation; a crash may have left a few parts more than are on record."""
        keys = [self.key(generation, part) for part in range(parts + PARTS_UNRECORDED)]
        await self._location.delete_many(keys)

    async def _ship_part(self) -> None:
        """What the log has gained. A failed part is sent again, whole, with the next."""
        async with self._committer.turn():
            mark = self._database.durable_mark()
            assert mark is not None
            position, gained = pages.read_log(self._database.path, self._position, mark[1])
        merged = Pages(
            {**self._waiting.images, **gained.images}, gained.page_count or self._waiting.page_count
        )
        self._position, self._waiting = position, merged
        data = await trio.to_thread.run_sync(merged.encode)
        part = self._part + 1
        await self._location.put(
            self.key(self._generation, part), BytesSource(data, google_crc32c.value(data)), patient=True
        )
        self._waiting = Pages()
        self._part = part
        self._parts_bytes += len(data)
        self.shipped_parts += 1
        self._store.record_shipped(self._generation, part)

    def keep_log(self) -> None:
        """The log is about to start afresh: keep what was not shipped. Everything in it is durable."""
        if not self._generation:
            return
        mark = self._database.durable_mark()
        if mark is None:
            return
        position, gained = pages.read_log(self._database.path, self._position, mark[1])
        self._waiting = Pages(
            {**self._waiting.images, **gained.images}, gained.page_count or self._waiting.page_count
        )
        self._position = position

    def _now(self) -> Position:
        mark = self._database.durable_mark()
        return Position(pages.log_salt(self._database.path), mark[1] if mark else 0)


def _size_and_crc(path: Path) -> tuple[int, int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        sums = crc_of_file(fd, size)
    finally:
        os.close(fd)
    if sums is None:
        raise OSError(f"{path}: changed while it was read")
    return size, sums[0]
