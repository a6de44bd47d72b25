"""What the local cache keeps, fetches and lets go on somebody's word: pin, warm, evict.

Owns the set of pinned objects, which the cache and the policies respect; never reads a directory.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Iterator

import trio
import trio.lowlevel

from gsfs.data.cache import BLOCK, ObjectCache, mask
from gsfs.errors import GsfsError, InvalidArgument, NoSpace, Stale
from gsfs.model import ObjectId
from gsfs.namespace.inodes import Inode
from gsfs.namespace.runs import Run
from gsfs.namespace.store import Store
from gsfs.transfer.downloads import Downloads
from gsfs.transfer.steward import Steward

log = logging.getLogger(__name__)

LOOK_S = 30.0
"""How often it is seen to that what is pinned is here: files that are pinned may be written to."""
PINNED_SHARE_MAX = 0.75
"""Share of the cache that may be pinned: the rest is for writers and readers."""
WORKERS = 4
FILES_AT_ONCE = 64


class Kept(enum.StrEnum):
    """Why a local copy does not go."""

    PINNED = "pinned"
    ONLY_COPY = "only copy"
    IN_USE = "in use"


class Keeper:
    """One for each mount."""

    def __init__(self, store: Store, cache: ObjectCache, downloads: Downloads, steward: Steward) -> None:
        self._store = store
        self._cache = cache
        self._downloads = downloads
        self.objects: set[ObjectId] = set()
        """Of every pinned file."""
        self.bytes = 0
        """Sizes of those objects."""
        self._wake = trio.Event()
        cache.pinned = steward.pinned = self.objects
        self._take({id_ for inode in self._inodes() for id_ in self._of(inode)})

    # --- what is pinned

    def pin(self, inode: Inode) -> None:
        """Keep the file here from now on; ``run`` fetches what is missing. Raises NoSpace, InvalidArgument."""
        if not inode.is_regular:
            raise InvalidArgument(f"inode {inode.ino}: takes a file; gsfs pin takes directories, too")
        wanted = self.objects | self._of(inode)
        most = int(self._cache.capacity_bytes * PINNED_SHARE_MAX)
        if sum(map(self._size, wanted - self.objects)) + self.bytes > most:
            raise NoSpace(
                f"pinned files may take {most} bytes ({PINNED_SHARE_MAX:.0%}) of the cache; this is too much"
            )
        self._store.pins.add(inode.ino)
        self._store.changed()
        self._take(wanted)
        self._wake.set()

    def unpin(self, inode: Inode) -> None:
        """Treat the file like any other again."""
        if inode.ino not in self._store.pins:
            return
        self._store.pins.remove(inode.ino)
        self._store.changed()
        self._wake.set()
        if not self._store.pins:
            self._take(set())

    def is_pinned(self, inode: Inode) -> bool:
        return inode.ino in self._store.pins

    def _of(self, inode: Inode) -> set[ObjectId]:
        return {run.object for run in self._store.extents.runs(inode, 0, inode.size)}

    def _inodes(self) -> Iterator[Inode]:
        for ino in self._store.pins:
            try:
                yield self._store.inodes.get(ino)
            except Stale:
                self._store.pins.remove(ino)

    def _size(self, id_: ObjectId) -> int:
        object_ = self._downloads.describe(id_)
        return object_.size if object_ is not None else 0

    def _take(self, objects: set[ObjectId]) -> None:
        """The set is shared: it is changed in place."""
        self.objects &= objects
        self.objects |= objects
        self.bytes = sum(map(self._size, objects))

    # --- seeing to it

    async def run(self) -> None:
        """Bring what is pinned and not here, until cancelled."""
        while True:
            await self.look()
            with trio.move_on_after(LOOK_S):
                await self._wake.wait()

    async def look(self) -> None:
        """Once: which objects the pinned files consist of now, and fetching what is missing of them."""
        self._wake = trio.Event()
        objects: set[ObjectId] = set()
        missing: list[Run] = []
        for number, inode in enumerate(self._inodes()):
            runs = self._store.extents.runs(inode, 0, inode.size)
            objects.update(run.object for run in runs)
            missing += [run for run in runs if not self._here(run)]
            if number % FILES_AT_ONCE == FILES_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
        if not self._wake.is_set():  # nobody pinned anything while this looked
            self._take(objects)
        for problem in (await self.fetch(missing))[:1]:
            log.warning("pinned: %s", problem)

    # --- fetching and letting go

    async def fetch(
        self, runs: Iterable[Run], done: Callable[[int], None] = lambda _bytes: None
    ) -> list[str]:
        """Bring these runs into the cache; ``done`` is told of bytes that need no more waiting. What failed."""
        shared, failed = iter(runs), []

        async def work() -> None:
            for run in shared:
                try:
                    await self._bring(run)
                except (GsfsError, OSError) as error:
                    failed.append(str(error))
                done(run.length)

        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(work)
        return failed

    def missing(self, inode: Inode) -> list[Run]:
        """Runs of the file that the cache does not have."""
        return [run for run in self._store.extents.runs(inode, 0, inode.size) if not self._here(run)]

    def _here(self, run: Run) -> bool:
        file = self._cache.get(run.object)
        if file is None:
            return False
        wanted = mask(run.object_offset // BLOCK, (run.object_offset + run.length - 1) // BLOCK)
        return file.growing or file.present & wanted == wanted

    async def _bring(self, run: Run) -> None:
        object_ = self._downloads.describe(run.object)
        if object_ is None:
            return  # the file was changed meanwhile
        first, last = run.object_offset // BLOCK, (run.object_offset + run.length - 1) // BLOCK
        if not self._here(run) or not await self._downloads.verify(object_, first, last):
            await self._downloads.fetch(object_, first, last)

    def evict(self, id_: ObjectId) -> int | Kept:
        """Let the local copy of an object go: the bytes given back, or why it stays."""
        file = self._cache.get(id_)
        if file is None:
            return 0
        if id_ in self.objects:
            return Kept.PINNED
        if file.held:
            return Kept.ONLY_COPY
        if file.users:
            return Kept.IN_USE
        if not self._cache.on_evict(id_):
            return Kept.ONLY_COPY
        size = file.bytes
        self._cache.remove(id_)
        return size
