"""Group commit and durability. Owns *when* the namespace commits and when a commit survives power loss.

A group commit costs no disk flush: it protects from a crash of this process. ``durable`` makes everything
done before the call survive power loss. On SQLite, data and log are flushed at once, for a commit whose
data did not arrive can be rewound (namespace.sqlite); elsewhere the data is flushed before the commit.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import trio

from gsfs import failpoints
from gsfs.data.segments import Segment, SegmentLog
from gsfs.namespace.store import Store

log = logging.getLogger(__name__)

GROUP_INTERVAL_S = 0.03
"""A crash of the process loses at most what was done in this time without fsync."""
SYNC_INTERVAL_S = 2.0
"""A power cut loses at most what was done in about this time without fsync."""
DATA_FIRST_ROUNDS = 3
INLINE_SYNC_BYTES = 256 * 1024


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
        self.failure: str | None = None
        store.on_dirty = self._on_dirty

    def _on_dirty(self) -> None:
        self._wake.set()

    # --- group commit

    async def run(self) -> None:
        """Commit in groups, flush every few seconds, fold the log back when it is due."""
        last_sync = trio.current_time()
        while True:
            if not self._store.dirty and not self._undurable:
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(GROUP_INTERVAL_S)
            try:
                if trio.current_time() - last_sync >= SYNC_INTERVAL_S and (self._undurable or self._store.dirty):
                    await self.durable()
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
        self._store.commit()
        failpoints.hit("commit.after")
        self.commits += 1
        self._undurable = True

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
        if not (self._store.dirty or self._undurable or self._segments.unsynced()):
            self._served = ticket
            return
        if self._store.database.commits_need_synced_data:
            await self._data_first()
        else:
            await self._rewindable()
        self.syncs += 1
        self._served = max(self._served, ticket)

    async def _rewindable(self) -> None:
        """Commit, then flush data and log at the same time."""
        self.commit_now()
        mark = self._store.database.durable_mark()
        targets = self._segments.unsynced()
        self._undurable = False
        try:
            await trio.to_thread.run_sync(self._flush_both, targets, limiter=self._limiter)
        except OSError:
            self._undurable = True
            raise
        self._note_synced(targets)
        if mark is not None:
            self._store.record_mark(mark)

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

    def _flush_both(self, targets: list[tuple[Segment, int]]) -> None:
        failpoints.hit("sync.before-data")
        flushed = self._log_thread.submit(self._store.database.sync) if targets else None
        _flush_files(targets)
        failpoints.hit("sync.after-data")
        if flushed is None:
            self._store.database.sync()
        else:
            flushed.result()
        failpoints.hit("sync.after-log")

    def _note_synced(self, targets: list[tuple[Segment, int]]) -> None:
        for segment, size in targets:
            if self._segments.synced(segment, size):
                self._store.objects.mark_synced(segment.id)
                self._store.changed()

    # --- folding the log back

    async def fold(self) -> None:
        """Checkpoint. Only what is durable with its data may be folded, so nothing commits meanwhile."""
        await self._take_turn()
        try:
            await self._round()
            failpoints.hit("checkpoint.before")
            await trio.to_thread.run_sync(self._store.database.checkpoint, limiter=self._limiter)
            failpoints.hit("checkpoint.after")
            self._fold_rest()
        finally:
            self._give_turn()

    def _fold_rest(self) -> None:
        """What was done meanwhile is little: commit, flush and fold it at once, so that the log starts afresh."""
        store = self._store
        store.write_out()
        store.database.commit()
        try:
            targets = self._segments.unsynced()
            _flush_files(targets)
            store.database.sync()
            failpoints.hit("checkpoint.between")
            store.database.checkpoint_between()
        finally:
            store.database.begin()
        self._note_synced(targets)

    def close(self) -> None:
        """End the thread. The store is closed by its owner."""
        self._log_thread.shutdown()


def _flush_files(targets: list[tuple[Segment, int]]) -> None:
    for segment, _size in targets:
        if segment.file.fd >= 0:
            os.fdatasync(segment.file.fd)
