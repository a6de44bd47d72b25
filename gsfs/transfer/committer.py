"""Group commit and durability. Owns *when* the namespace commits and when a commit survives power loss.

A group commit costs no disk flush: it protects from a crash of this process. ``durable`` makes everything
done before the call survive power loss. On SQLite, data and log are flushed at once, for a commit whose
data did not arrive can be rewound (namespace.sqlite); elsewhere the data is flushed before the commit.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import trio

from gsfs import failpoints
from gsfs.data.segments import Segment, SegmentLog
from gsfs.errors import DatabaseLost
from gsfs.namespace.database import NOT_TO_BE_REWOUND
from gsfs.namespace.store import Store

log = logging.getLogger(__name__)

Target = tuple[Segment, int]
"""A segment, and how far it went when the round began."""

GROUP_INTERVAL_S = 0.03
"""A crash of the process loses at most what was done in this time without fsync."""
SYNC_INTERVAL_S = 2.0
"""A power cut loses at most what was done in about this time without fsync."""
DATA_FIRST_ROUNDS = 3
REDO_BYTES_MAX = 64 * 1024
"""So little new data is put into the log of commits itself: one flush instead of two."""
INLINE_SYNC_S = 0.0005
"""A flush that usually takes less is done without a thread, whose hand-over would take as long."""


class Committer:
    """One for each mount. Lock order: there is one flag, ``_busy``, held by whoever runs a round."""

    def __init__(self, store: Store, segments: SegmentLog) -> None:
        self._store = store
        self._segments = segments
        self._asked = 0  # tickets handed out by durable()
        self._served = 0  # tickets known to be durable
        self._busy = False
        self._idle = trio.Event()
        self._wake = trio.Event()
        self._log_thread = ThreadPoolExecutor(1, thread_name_prefix="gsfs-log-sync")
        self._limiter = trio.CapacityLimiter(2)
        self.commits = 0
        self.syncs = 0
        self._undurable = False  # commits that no round has covered yet
        self._sync_s = 1.0  # smoothed duration of a flush of the log
        self.failure: str | None = None
        self._lost: DatabaseLost | None = None  # nothing can be committed any more: ``run`` ends with it
        self.before_fold: Callable[[], None] = lambda: None
        """Called when the log of commits is about to start afresh, all of it durable."""
        store.on_dirty = self._on_dirty

    def _on_dirty(self) -> None:
        self._wake.set()

    # --- group commit

    async def run(self) -> None:
        """Commit in groups, flush every few seconds, fold the log back when it is due."""
        last_sync = trio.current_time()
        while self._lost is None:
            if not self._store.dirty and not self._undurable:
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(GROUP_INTERVAL_S)
            try:
                if trio.current_time() - last_sync >= SYNC_INTERVAL_S and (
                    self._undurable or self._store.dirty
                ):
                    await self.durable()
                    await self._flush_data()
                    last_sync = trio.current_time()
                    if self._store.database.checkpoint_due():
                        await self.fold()
                elif self._store.dirty and not self._busy:
                    await self._commit_group()
                self.failure = None
            except OSError as error:
                if self.failure is None:
                    log.error("commit failed: %s; retrying", error)
                self.failure = str(error)
                await trio.sleep(1)
            except Exception as error:
                if isinstance(error, DatabaseLost):
                    raise
                if self.failure is None:
                    log.exception("commit failed; retrying")
                self.failure = f"{type(error).__name__}: {error}"
                await trio.sleep(1)
        raise self._lost

    async def _commit_group(self) -> None:
        if self._store.database.commits_need_synced_data:
            await self._take_turn()
            try:
                await self._data_first()
            finally:
                self._give_turn()
        else:
            self.commit_now()

    def commit_now(self) -> None:
        """Commit; not durable yet."""
        failpoints.hit("commit.before")
        try:
            self._store.commit()
        except DatabaseLost as error:
            self._lost = error
            self._wake.set()
            raise
        failpoints.hit("commit.after")
        self.commits += 1
        self._undurable = True

    async def committed(self) -> None:
        """Everything done before this call survives a crash of this process.

        Waits for a round under way: a commit beside it would carry a mark older than what the round promises,
        and one beside a checkpoint would be folded before its data is durable.
        """
        while self._busy:
            await self._idle.wait()
        if self._store.dirty:
            self.commit_now()

    # --- durability

    async def durable(self) -> None:
        """Everything done before this call survives power loss when it returns. Raises OSError.

        Callers that come while a round runs share the next one.
        """
        self._asked += 1
        ticket = self._asked
        while self._served < ticket:
            if self._busy:
                await self._idle.wait()
                continue
            await self._take_turn()
            try:
                await self._round()
            finally:
                self._give_turn()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Within it nobody else commits, and the log of commits stays as it is."""
        await self._take_turn()
        try:
            yield
        finally:
            self._give_turn()

    async def _take_turn(self) -> None:
        while self._busy:
            await self._idle.wait()
        self._busy = True
        self._idle = trio.Event()

    def _give_turn(self) -> None:
        self._busy = False
        self._idle.set()

    async def _round(self) -> None:
        ticket = self._asked
        if not (self._store.dirty or self._undurable or self._segments.unlogged_bytes()):
            self._served = ticket
            return
        if self._store.database.commits_need_synced_data:
            await self._data_first()
        else:
            await self._rewindable()
        self.syncs += 1
        self._served = max(self._served, ticket)

    async def _rewindable(self) -> None:
        """Commit, then flush data and log at the same time; little data travels in the log itself."""
        targets = self._segments.unsynced()
        small = self._segments.unlogged_bytes() <= REDO_BYTES_MAX
        if small:
            self._log_data(targets)
        self.commit_now()
        mark = self._store.database.durable_mark()
        self._undurable = False
        try:
            await self._flush(() if small else targets)
        except OSError:
            self._undurable = True
            raise
        if small:
            for segment, size in targets:
                segment.logged = max(segment.logged, size)
        else:
            self._note_synced(targets)
        if mark is not None:
            self._store.record_mark(mark)

    def _log_data(self, targets: Sequence[Target]) -> None:
        """Put new bytes of segments into the commit to come."""
        for segment, size in targets:
            if size > segment.logged:
                data = os.pread(segment.file.fd, size - segment.logged, segment.logged)
                self._store.objects.add_redo(segment.id, segment.logged, data)

    async def _flush(self, targets: Sequence[Target]) -> None:
        """Flush these files and the log; in a thread unless it is known to be quick."""
        if targets or self._sync_s > INLINE_SYNC_S:
            await trio.to_thread.run_sync(self._flush_both, targets, limiter=self._limiter)
        else:
            self._flush_both(targets)

    async def _flush_data(self) -> None:
        """Flush what so far only the log has, so that it need not carry it for long. Raises OSError."""
        targets = self._segments.unsynced()
        await trio.to_thread.run_sync(_flush_files, targets, limiter=self._limiter)
        self._note_synced(targets)

    async def _data_first(self) -> None:
        """Flush data until none is left that the commit would name, then commit."""
        for _ in range(DATA_FIRST_ROUNDS):
            targets = self._segments.unsynced()
            if not targets:
                break
            await trio.to_thread.run_sync(_flush_files, targets, limiter=self._limiter)
            self._note_synced(targets)
        rest = self._segments.unsynced()
        _flush_files(rest)
        self._note_synced(rest)
        self.commit_now()
        self._undurable = False

    def _flush_both(self, targets: Sequence[Target]) -> None:
        failpoints.hit("sync.before-data")
        flushed = self._log_thread.submit(self._sync_log) if targets else None
        _flush_files(targets)
        failpoints.hit("sync.after-data")
        if flushed is None:
            self._sync_log()
        else:
            flushed.result()
        failpoints.hit("sync.after-log")

    def _sync_log(self) -> None:
        start = time.perf_counter()
        self._store.database.sync()
        self._sync_s += (time.perf_counter() - start - self._sync_s) / 4

    def _note_synced(self, targets: Sequence[Target]) -> None:
        for segment, size in targets:
            had_redo = segment.logged > segment.synced
            if self._segments.synced(segment, size):
                self._store.objects.mark_synced(segment.id)
                self._store.changed()
            if had_redo and segment.logged <= segment.synced:
                self._store.objects.drop_redo(segment.id)
                self._store.changed()

    # --- folding the log back

    async def fold(self) -> None:
        """Checkpoint. Only what is durable with its data may be folded, so nothing commits meanwhile."""
        await self._take_turn()
        try:
            await self._round()
            self._commit_data_first()
            failpoints.hit("checkpoint.before")
            await trio.to_thread.run_sync(self._store.database.checkpoint, limiter=self._limiter)
            failpoints.hit("checkpoint.after")
            self._fold_rest()
        finally:
            self._give_turn()

    def _commit_data_first(self) -> None:
        """A commit that is durable as soon as it is seen, and says so: what is folded can never be rewound."""
        with self._data_first_mark():
            self.commit_now()
        self._store.database.sync()
        mark = self._store.database.durable_mark()
        self._undurable = False
        if mark is not None:
            self._store.record_mark(mark)

    @contextmanager
    def _data_first_mark(self) -> Iterator[None]:
        """Flush all data; the commit made inside needs no rewinding, any later one does."""
        targets = self._segments.unsynced()
        _flush_files(targets)
        self._note_synced(targets)
        before = self._store.mark
        self._store.record_mark(NOT_TO_BE_REWOUND)
        try:
            yield
        finally:
            self._store.record_mark(before)

    def _fold_rest(self) -> None:
        """What was done meanwhile is little: commit, flush and fold it at once, so that the log starts afresh."""
        store = self._store
        with self._data_first_mark():
            store.write_out()
            store.database.commit()
        try:
            store.database.sync()
            mark = store.database.durable_mark()
            failpoints.hit("checkpoint.between")
            self.before_fold()
            store.database.checkpoint_between()
        finally:
            store.database.begin()
        if mark is not None:
            store.record_mark(mark)

    def close(self) -> None:
        """End the thread. The store is closed by its owner."""
        self._log_thread.shutdown()


def _flush_files(targets: Sequence[Target]) -> None:
    for segment, _size in targets:
        segment.file.sync()
