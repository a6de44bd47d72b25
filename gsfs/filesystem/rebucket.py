"""Trees moved between buckets: the move is one row; this walks what is below it afterwards. Owns the pace."""

from __future__ import annotations

import trio
import trio.lowlevel

from gsfs.filesystem.core import Core
from gsfs.filesystem.names import Names
from gsfs.model import Ino

TICK_S = 1.0
PAGE = 500


class Rebucket:
    """One for each mount. A directory is on the list until all that is in it counts for its bucket."""

    def __init__(self, core: Core, names: Names) -> None:
        self._core = core
        self._names = names

    async def run(self) -> None:
        """Work off the list, until cancelled."""
        while True:
            for ino in self._core.store.rebucket_pending():
                await self.walk(ino)
            await trio.sleep(TICK_S)

    async def walk(self, ino: Ino) -> None:
        """Let the entries of one directory follow it; subdirectories come on the list themselves."""
        store = self._core.store
        after = b""
        while True:
            store.flush()
            page = store.entries.page(ino, after, store.last_entry_number, PAGE)
            for name, *row in page:
                inode = store.inodes.adopt(tuple(row))
                directory = self._core.inode(ino)
                if inode.bucket != directory.bucket:
                    self._names.rebucket(inode, directory)
                after = bytes(name)
            if len(page) < PAGE:
                break
            await trio.lowlevel.checkpoint()
        store.rebucket_done(ino)
        store.changed()
