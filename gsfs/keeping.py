"""``pin``, ``warm`` and ``evict`` of a path: the walk over its files, with progress. Moves nothing itself."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import trio
import trio.lowlevel

from gsfs.errors import Incomplete, InvalidArgument, NoSpace, Stale
from gsfs.model import ObjectId
from gsfs.namespace.inodes import Inode
from gsfs.namespace.runs import Run
from gsfs.transfer.keeper import Kept
from gsfs.volume import Volume

PAGE = 1000
PROGRESS_S = 1.0
Answer = dict[str, Any]
Tell = Callable[[dict[str, Any]], Awaitable[None]]


def files_below(volume: Volume, ino: int) -> Iterator[Inode]:
    """The file itself, or every file below the directory."""
    store = volume.store
    inode = store.inodes.get(ino)
    if inode.is_regular:
        yield inode
    store.flush()
    stack = [ino] if inode.is_dir else []
    while stack:
        directory, after = stack.pop(), b""
        while page := store.entries.page(directory, after, store.last_entry_number, PAGE):
            after = bytes(page[-1][0])
            for _name, child, _bucket, _parent, mode, *_rest in page:
                if stat.S_ISDIR(mode):
                    stack.append(child)
                elif stat.S_ISREG(mode):
                    with suppress(Stale):  # removed while the walk goes on
                        yield store.inodes.get(child)


async def pin(volume: Volume, ino: int, off: bool, tell: Tell) -> Answer:
    """Keep what is and comes below in the cache (fetching what is missing), or treat it like others again."""
    inode = volume.store.inodes.get(ino)
    if not inode.is_dir and not inode.is_regular:
        raise InvalidArgument(f"inode {ino}: takes a file or a directory")
    files: list[Inode] = []
    for file in files_below(volume, ino):
        files.append(file)
        if not len(files) % PAGE:
            await tell({"left_bytes": 0})
    answer: Answer = {}
    if off:
        volume.keeper.unpin(inode, files)
        await volume.keeper.look()
    else:
        volume.keeper.pin(inode, files)
        answer = await warm(volume, ino, tell)
    await volume.committer.durable()
    return {"files": len(files), **answer, "pinned_bytes": volume.keeper.bytes}


async def warm(volume: Volume, ino: int, tell: Tell) -> Answer:
    """Fetch what the cache does not have of the files below. Raises NoSpace before anything moves, Incomplete."""
    runs: list[Run] = []
    for inode in files_below(volume, ino):
        runs += volume.keeper.missing(inode)
    total = left = sum(run.length for run in runs)
    room = volume.cache.capacity_bytes - volume.keeper.bytes - volume.dirty_bytes
    if total > room and any(run.object not in volume.keeper.objects for run in runs):
        raise NoSpace(f"{total} bytes are to be fetched, and the cache has room for {max(room, 0)}")

    def done(size_bytes: int) -> None:
        nonlocal left
        left -= size_bytes

    failed: list[str] = []
    async with trio.open_nursery() as nursery:

        async def fetch() -> None:
            failed.extend(await volume.keeper.fetch(runs, done))
            nursery.cancel_scope.cancel()

        nursery.start_soon(fetch)
        while True:
            if not await _told(tell, left):
                break  # what was asked for goes on all the same
            await trio.sleep(PROGRESS_S)
    if failed:
        raise Incomplete(f"{len(failed)} of {len(runs)} pieces could not be fetched: {failed[0]}")
    return {"fetched_bytes": total}


async def _told(tell: Tell, left_bytes: int) -> bool:
    """False once nobody listens any more."""
    try:
        await tell({"left_bytes": left_bytes})
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return False
    return True


async def evict(volume: Volume, ino: int, _tell: Tell) -> Answer:
    """Let the local copies of the files below go; never the last copy, nor what is pinned or in use."""
    for _ in range(2):  # an upload counts once two commits after it are durable
        volume.store.changed()
        await volume.committer.durable()
    evicted, kept, seen = 0, Counter[str](), set[ObjectId]()
    for number, inode in enumerate(files_below(volume, ino)):
        for run in volume.store.extents.runs(inode, 0, inode.size):
            if run.object in seen:
                continue
            seen.add(run.object)
            result = volume.keeper.evict(run.object)
            if isinstance(result, Kept):
                kept[result.value] += 1
            else:
                evicted += result
        if not number % PAGE:
            await trio.lowlevel.checkpoint()
    return {"evicted_bytes": evicted, "kept_objects": dict(kept)}
