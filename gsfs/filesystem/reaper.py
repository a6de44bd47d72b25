"""The reaper: removes files without a name whose extents are too many to remove at once. Owns only the pace."""

from __future__ import annotations

import math

import trio
import trio.lowlevel

from gsfs import failpoints
from gsfs.filesystem.core import REAP_INLINE_EXTENTS, Core
from gsfs.model import Ino


class Reaper:
    """One for each mount."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._send, self._receive = trio.open_memory_channel[Ino](math.inf)
        core.reap_later = self._send.send_nowait

    def recover(self) -> None:
        """After a start: nobody has a handle on the orphans of the run before."""
        for ino in list(self._core.store.inodes.orphans()):
            self._send.send_nowait(ino)

    async def run(self) -> None:
        """Remove, piece by piece, until cancelled."""
        async for ino in self._receive:
            await self.reap(ino)

    async def reap(self, ino: Ino) -> None:
        """Remove one orphan; other requests run between two pieces."""
        store = self._core.store
        inode = self._core.inode(ino)
        while not inode.opens and inode.is_regular:
            cut = store.extents.offset_of(inode, REAP_INLINE_EXTENTS)
            if cut is None:
                break
            store.extents.punch(inode, 0, cut)
            store.charge(inode)
            store.inodes.touch(inode)
            store.changed()
            failpoints.hit("reaper.piece")
            await trio.lowlevel.checkpoint()
        if not inode.opens and not inode.deleted:
            self._core.bury(inode, is_orphan=True)
