"""Compaction: objects that are mostly dead give up their space. Owns what is worth copying and the copying.

The live bytes of a sparse object are appended to the log like any write, and the extents are re-pointed in
one transaction if they still say the same; the object then has no live byte and is garbage.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import trio
import trio.lowlevel

from gsfs import failpoints
from gsfs.data.cache import BLOCK, ObjectCache
from gsfs.data.segments import SegmentLog
from gsfs.errors import GsfsError, Stale
from gsfs.model import MIB, Ino, ObjectId
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.runs import Run
from gsfs.namespace.store import Store
from gsfs.transfer.committer import Committer
from gsfs.transfer.downloads import Downloads

log = logging.getLogger(__name__)

INTERVAL_S = 30.0
LIVE_PERCENT_MAX = 50
"""Objects with a smaller live share are worth copying."""
DEAD_BYTES_MIN = 64 * MIB
"""Nothing is done before so many bytes could be given back."""
PAGE = 2000


class Compaction:
    """One for each mount."""

    def __init__(
        self,
        store: Store,
        segments: SegmentLog,
        committer: Committer,
        downloads: Downloads,
        cache: ObjectCache,
        worth_it: Callable[[PhysicalObject], bool] = lambda _object: True,
    ) -> None:
        """``worth_it``: the policy's word on what a copy costs and saves."""
        self._worth_it = worth_it
        self._store = store
        self._segments = segments
        self._committer = committer
        self._downloads = downloads
        self._cache = cache
        self.copied_bytes = 0
        self._stopped = False

    def stop(self) -> None:
        """Copy nothing more: the mount is being drained."""
        self._stopped = True

    async def run(self) -> None:
        """Compact now and then, until cancelled."""
        while True:
            await trio.sleep(INTERVAL_S)
            try:
                await self.compact(DEAD_BYTES_MIN)
            except (OSError, GsfsError) as error:
                log.error("compaction: %s", error)

    async def compact(self, dead_bytes_min: int) -> int:
        """One pass over what is worth it and local; the number of bytes copied."""
        before = self.copied_bytes
        candidates = self._store.objects.sparse(LIVE_PERCENT_MAX)
        local = {o.id: o for o in candidates if self._is_local(o.id) and self._worth_it(o)}
        if sum(o.size - o.live for o in local.values()) < dead_bytes_min:
            return 0
        after = (0, -1)
        while page := self._store.extents.page_of_objects(after, PAGE):
            for ino, run in page:
                after = (ino, run.offset)
                if self._stopped:
                    return self.copied_bytes - before
                if run.object in local:
                    await self._copy(ino, run)
            await trio.lowlevel.checkpoint()
        return self.copied_bytes - before

    def _is_local(self, id_: ObjectId) -> bool:
        """All its blocks are on the local disk, so that copying costs no egress."""
        file = self._cache.get(id_)
        object_ = self._downloads.describe(id_)
        known = (
            object_ is not None and object_.block_crcs is not None
        )  # not so of what was imported and not read
        return file is not None and object_ is not None and known and file.bytes >= object_.size

    async def _copy(self, ino: Ino, run: Run) -> None:
        file = self._cache.get(run.object)
        object_ = self._downloads.describe(run.object)
        if file is None or object_ is None:
            return
        first, last = run.object_offset // BLOCK, (run.object_offset + run.length - 1) // BLOCK
        file.users += 1
        try:
            if not await self._downloads.verify(object_, first, last):
                return
            data = await trio.to_thread.run_sync(os.pread, file.fd, run.length, run.object_offset)
        finally:
            file.users -= 1
        try:
            inode = self._store.inodes.get(ino)
        except Stale:
            return  # the file was removed meanwhile
        if (
            self._stopped
            or inode.deleted
            or len(data) != run.length
            or self._store.extents.runs(inode, run.offset, run.offset + run.length) != [run]
        ):
            return
        pieces = self._segments.append(inode.bucket, None, data)
        failpoints.hit("compact.after-copy")
        at = run.offset
        for object_id, object_offset, length in pieces:
            piece = run.clip(at, at + length)
            self._store.extents.repoint(inode, piece, object_id, object_offset)
            at += length
        self._store.charge(inode)
        self._store.inodes.touch(inode)
        self._store.changed()
        failpoints.hit("compact.after-repoint")
        self.copied_bytes += run.length
