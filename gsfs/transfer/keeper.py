"""What the local cache keeps, fetches and lets go on somebody's word: pin, warm, evict.

Owns the set of pinned objects, which the cache and the policies respect. A directory is pinned with all that is and
comes below it: a file that comes is found by a few steps up in memory, everything else by a walk now and then.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import trio
import trio.lowlevel

from gsfs.data.cache import BLOCK, ObjectCache, mask
from gsfs.errors import GsfsError, InvalidArgument, NoSpace, Stale
from gsfs.model import ROOT_INO, Ino, ObjectId
from gsfs.namespace.inodes import Inode
from gsfs.namespace.runs import Run
from gsfs.namespace.store import Store
from gsfs.transfer.downloads import Downloads
from gsfs.transfer.steward import Steward

log = logging.getLogger(__name__)

LOOK_S = 30.0
"""How often it is seen to that what is pinned is here: files that are pinned may be written to."""
PACE = 20
"""Looking takes at most so small a part of the time."""
PAGE = 500
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
        """Of every pinned file, as far as the share of the cache goes."""
        self.bytes = 0
        """Sizes of those objects."""
        self._counted: dict[ObjectId, int] = {}
        """As they went into that sum: an object that is being written to grows."""
        self._below: set[int] = set()
        """Files below pinned directories, whatever their own marks say."""
        self._came: set[int] = set()
        """Files that came there while the tree was being walked."""
        self._seen: dict[int, int] = {}
        """Pinned files written to since the last walk: up to where what they consist of is known."""
        self._wake = trio.Event()
        self._seen_news = -1
        self._warned = False
        cache.pinned = steward.pinned = self.objects
        for _ in self._survey():
            pass
        store.before_commit.append(self._note_written)

    # --- what is pinned

    def pin(self, inode: Inode, files: Iterable[Inode] | None = None) -> None:
        """Keep the file here from now on, or the directory with ``files``, which are all that is below it, and with
        whatever comes later. ``run`` fetches what is missing. Raises NoSpace, InvalidArgument.
        """
        files = self._files_of(inode, files)
        wanted = {id_ for file in files for id_ in self._of(file)}
        if sum(map(self._size, wanted - self.objects)) + self.bytes > self._most:
            raise NoSpace(
                f"pinned files may take {self._most} bytes ({PINNED_SHARE_MAX:.0%}) of the cache; this is too much"
            )
        self._clear_below(inode, files)
        self._store.pins.remove(inode.ino)
        if not self.is_pinned(inode):
            self._store.pins.set(inode.ino, pinned=True)
        if inode.is_dir:
            self._below.update(file.ino for file in files)
        self._store.changed()
        self._take(self.objects | wanted)
        self._wake.set()

    def unpin(self, inode: Inode, files: Iterable[Inode] | None = None) -> None:
        """Treat the file, or everything below the directory, like any other again."""
        if not self._store.pins:
            return
        self._clear_below(inode, self._files_of(inode, files))
        self._store.pins.remove(inode.ino)
        if self.is_pinned(inode):  # by a directory above it
            self._store.pins.set(inode.ino, pinned=False)
        self._store.changed()
        self._wake.set()
        if not self._store.pins:
            self._below.clear()
            self._take(set())

    def is_pinned(self, inode: Inode) -> bool:
        """By its own mark, or by that of the nearest directory above it that has one."""
        if inode.is_dir:
            return self._holds(inode)
        mark = self._store.pins.mark(inode.ino)
        return inode.ino in self._below if mark is None else mark

    def placed(self, directory: Inode, inode: Inode) -> None:
        """A name in the directory leads to the inode from now on."""
        if inode.is_regular and self._holds(directory):
            self._below.add(inode.ino)
            self._came.add(inode.ino)
            if inode.allocated:
                self._wake.set()  # it was moved here with its bytes
        elif inode.is_dir or inode.ino in self._below:
            self._wake.set()  # what is below it, or which names still lead to it, takes a walk

    def _holds(self, directory: Inode) -> bool:
        """Whether files in it are pinned: some steps up in memory, for directories know their parents."""
        pins, inodes = self._store.pins, self._store.inodes
        while (mark := pins.mark(directory.ino)) is None:
            if directory.ino == ROOT_INO:
                return False
            try:
                directory = inodes.get(directory.parent)
            except Stale:  # removed, while somebody still works in it
                return False
        return mark

    @staticmethod
    def _files_of(inode: Inode, files: Iterable[Inode] | None) -> list[Inode]:
        if files is None and not inode.is_regular:
            raise InvalidArgument(f"inode {inode.ino}: takes a file; gsfs pin takes directories, too")
        return [inode] if files is None else list(files)

    def _clear_below(self, inode: Inode, files: list[Inode]) -> None:
        """What is said of a directory last is said of everything in it."""
        pins = self._store.pins
        inside = {file.ino for file in files}
        for ino in pins.marked():
            if ino in inside or (ino != inode.ino and self._is_below(ino, inode)):
                pins.remove(ino)

    def _is_below(self, ino: Ino, directory: Inode) -> bool:
        try:
            one = self._store.inodes.get(ino)
            while one.is_dir and one.ino != ROOT_INO:
                one = self._store.inodes.get(one.parent)
                if one.ino == directory.ino:
                    return True
        except Stale:
            self._store.pins.remove(ino)
        return False

    def _of(self, inode: Inode) -> set[ObjectId]:
        return {run.object for run in self._store.extents.runs(inode, 0, inode.size)}

    def _size(self, id_: ObjectId) -> int:
        object_ = self._downloads.describe(id_)
        return object_.size if object_ is not None else 0

    @property
    def _most(self) -> int:
        return int(self._cache.capacity_bytes * PINNED_SHARE_MAX)

    def _take(self, objects: Iterable[ObjectId]) -> None:
        """These are pinned now, as far as the share of the cache goes: what is pinned must not end writing.

        The set is shared: it is changed in place.
        """
        self._counted, left_out = {}, 0
        self.bytes = 0
        for id_ in objects:
            size = self._size(id_)
            if self.bytes + size > self._most:
                left_out += size
            else:
                self.bytes += size
                self._counted[id_] = size
        self.objects.intersection_update(self._counted)
        self.objects.update(self._counted)
        if left_out and not self._warned:
            log.warning(
                "pinned files have grown past %d bytes (%.0f%% of the cache): %d bytes are kept like any others",
                self._most, PINNED_SHARE_MAX * 100, left_out,
            )  # fmt: skip
        self._warned = bool(left_out)

    def _note_written(self) -> None:
        """Part of each commit: bytes just written to pinned files are pinned before they can be evicted."""
        if not self._store.pins:
            return
        for inode in self._store.inodes.changed():
            if inode.is_regular and inode.allocated and self.is_pinned(inode):
                seen = min(
                    self._seen.get(inode.ino, 0), max(inode.size - 1, 0)
                )  # the last object may have grown
                for run in self._store.extents.runs(inode, seen, inode.size):
                    self._take_one(run.object)
                self._seen[inode.ino] = inode.size

    def _take_one(self, id_: ObjectId) -> None:
        """An object of a pinned file, new or larger than before."""
        size_bytes, before = self._size(id_), self._counted.get(id_, 0)
        if self.bytes + size_bytes - before <= self._most:
            self.objects.add(id_)
            self._counted[id_] = size_bytes
        else:
            self.objects.discard(id_)
            self._counted.pop(id_, None)
        self.bytes += self._counted.get(id_, 0) - before

    # --- seeing to it

    async def run(self) -> None:
        """Bring what is pinned and not here, until cancelled."""
        while True:
            began = trio.current_time()
            await self.look()
            took_s = trio.current_time() - began
            with trio.move_on_after(max(LOOK_S, took_s * PACE)):
                await self._wake.wait()
                await trio.sleep(took_s)  # a storm of renames is no storm of walks

    async def look(self) -> None:
        """Once: which objects the pinned files consist of now, and fetching what is missing of them.

        Nothing is done where nothing was asked for and nothing has changed.
        """
        if not self._wake.is_set() and self._store.news == self._seen_news:
            return
        self._wake = trio.Event()
        news = self._store.news
        missing: list[Run] = []
        for number, runs in enumerate(self._survey()):
            missing += [run for run in runs if not self._here(run)]
            if number % FILES_AT_ONCE == FILES_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
        failed = await self.fetch([run for run in missing if run.object in self.objects])
        for problem in failed[:1]:
            log.warning("pinned: %s", problem)
        if not failed:
            self._seen_news = news

    def _survey(self) -> Iterator[list[Run]]:
        """The runs of each pinned file in turn; what is pinned is known anew at the end."""
        self._came, self._seen = set(), {}
        below: set[int] = set()
        objects: dict[ObjectId, None] = {}  # in order: what is pinned first is the last to be left out
        for inode in self._pinned_files(below):
            runs = self._store.extents.runs(inode, 0, inode.size)
            objects.update((run.object, None) for run in runs)
            yield runs
        self._below = below | self._came
        if not self._wake.is_set():  # nobody pinned or let go anything while this looked
            for ino in self._came:
                with suppress(Stale):
                    objects.update((id_, None) for id_ in self._of(self._store.inodes.get(Ino(ino))))
            self._take(objects)

    def _pinned_files(self, below: set[int]) -> Iterator[Inode]:
        """Files that are pinned themselves, then those of pinned directories, which are added to ``below``."""
        pins, inodes = self._store.pins, self._store.inodes
        directories: list[Ino] = []
        for ino in pins:
            try:
                inode = inodes.get(ino)
            except Stale:
                pins.remove(ino)
                continue
            if inode.is_dir:
                directories.append(ino)
            else:
                yield inode
        while directories:
            for inode in self._children(directories.pop()):
                if inode.is_dir and pins.mark(inode.ino) is None:
                    directories.append(Ino(inode.ino))
                elif inode.is_regular and inode.ino not in below:
                    below.add(inode.ino)
                    if pins.mark(inode.ino) is None:
                        yield inode

    def _children(self, directory: Ino) -> Iterator[Inode]:
        after = b""
        while True:
            self._store.flush()
            page = self._store.entries.page(directory, after, self._store.last_entry_number, PAGE)
            for name, *row in page:
                after = bytes(name)
                yield self._store.inodes.adopt(tuple(row))
            if len(page) < PAGE:
                return

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
