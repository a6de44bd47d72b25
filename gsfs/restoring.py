"""A namespace back from what was shipped, on a machine that has nothing but the configuration.

Owns finding the newest whole generation and building the database from it. Bytes that were never uploaded
are named, file by file; their files keep their sizes and reading them fails, so that nothing is silently empty.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gsfs.backends.location import Location
from gsfs.errors import DatabaseCorrupt, EntryExists, InvalidArgument, NotFoundError
from gsfs.model import MIB, ROOT_INO, LocationId, ReplicaState
from gsfs.namespace import pages
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.pages import Pages
from gsfs.namespace.store import Store, open_store
from gsfs.transfer.shipping import prefix

CHUNK = 8 * MIB
Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A snapshot and the parts that follow it without a gap."""

    namespace_id: str
    number: int
    sizes: tuple[int, ...]
    """Bytes of the snapshot and of each part."""
    newest_ns: int

    def key(self, name: str, part: int) -> str:
        return f"{prefix(name, self.namespace_id)}{self.number:012x}/{part:08x}"


@dataclass(slots=True)
class Restored:
    """What came back, and what did not."""

    files: int = 0
    missing: list[tuple[str, int]] = field(default_factory=list)
    """(path, bytes) of files with bytes that were never uploaded."""


async def find(location: Location, name: str, namespace_id: str = "") -> Generation:
    """The newest whole generation. Raises NotFoundError, and InvalidArgument where several namespaces fit."""
    parts: dict[tuple[str, int], dict[int, tuple[int, int]]] = defaultdict(dict)
    async for info in location.list(prefix(name)):
        try:
            id_, generation, part = info.key[len(prefix(name)) :].split("/")
            parts[id_, int(generation, 16)][int(part, 16)] = (info.size_bytes, info.mtime_ns)
        except ValueError:
            continue
    found = [
        _generation(id_, number, have) for (id_, number), have in parts.items() if 0 in have and 1 in have
    ]
    found = [g for g in found if namespace_id in ("", g.namespace_id)]
    if not found:
        raise NotFoundError(f"{location.id}: holds no shipped namespace of the name {name!r}")
    ids = sorted({g.namespace_id for g in found})
    if len(ids) > 1:
        raise InvalidArgument(
            f"{location.id}: several namespaces are named {name!r}; choose with --namespace-id: {', '.join(ids)}"
        )
    return max(found, key=lambda g: g.number)


def _generation(namespace_id: str, number: int, have: dict[int, tuple[int, int]]) -> Generation:
    whole = 0
    while whole in have:
        whole += 1
    sizes = tuple(have[part][0] for part in range(whole))
    return Generation(namespace_id, number, sizes, max(have[part][1] for part in range(whole)))


async def restore(
    location: Location, name: str, generation: Generation, target: Path, progress: Progress
) -> None:
    """Build the database at ``target``, which must not exist. Raises DatabaseCorrupt."""
    if target.exists():
        raise EntryExists(
            f"namespace {target}: exists; nothing was changed (move it away to recover over it)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(target.name + ".recovering")
    total, done = sum(generation.sizes), 0
    with open(work, "wb") as file:
        for offset in range(0, generation.sizes[0], CHUNK):
            length = min(CHUNK, generation.sizes[0] - offset)
            file.write(await location.get_range(generation.key(name, 0), offset, length))
            done += length
            progress(done, total)
    _to_plain_journal(work)
    for part, size in enumerate(generation.sizes[1:], 1):
        data = await location.get_range(generation.key(name, part), 0, size)
        pages.lay(work, Pages.decode(data))
        done += size
        progress(done, total)
    os.replace(work, target)


def _to_plain_journal(database: Path) -> None:
    """A copy made by the backup has no log beside it; nothing may be left that looks like one."""
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)


def give_up_caches(url: str, here: LocationId) -> Restored:
    """Forget the caches of the lost machine; name every file that has bytes only there.

    Small objects whose bytes all travelled in the namespace's own log are kept: the first start writes them
    to the cache ``here``.
    """
    store = open_store(url)
    try:
        problems = store.database.check()
        if problems:
            raise DatabaseCorrupt(f"the recovered namespace fails its check: {problems[0]}")
        only_there = store.objects.local_only()
        carried = {o.id for o in only_there if _carried(store, o)}
        lost: set[int] = {o.id for o in only_there if o.live and o.id not in carried}
        report = Restored(files=store.inodes.count(), missing=_files_with(store, lost))
        store.objects.forget_caches()
        for kept in carried:
            store.objects.add_replica(kept, here, ReplicaState.AVAILABLE)
        for id_ in lost:
            store.objects.drop_redo(id_)
    finally:
        store.close()
    return report


def _carried(store: Store, object_: PhysicalObject) -> bool:
    """Whether the log carries every byte of the object."""
    reached = 0
    for id_, offset, data in store.objects.redo():
        if id_ == object_.id and offset == reached:
            reached += len(data)
    return reached == object_.size > 0


def _files_with(store: Store, lost: set[int]) -> list[tuple[str, int]]:
    """Files that refer to any of the objects, and how many of their bytes do."""
    missing: dict[int, int] = defaultdict(int)
    after = (0, -1)
    while page := store.extents.page_of_objects(after, 5000):
        for ino, run in page:
            after = (ino, run.offset)
            if run.object in lost:
                missing[ino] += run.length
    paths = _paths(store, set(missing))
    return sorted((paths.get(ino, f"inode {ino}, without a name"), size) for ino, size in missing.items())


def _paths(store: Store, wanted: set[int]) -> dict[int, str]:
    """A path of each wanted inode, by one walk over the tree."""
    paths: dict[int, str] = {}
    stack: list[tuple[int, str]] = [(ROOT_INO, "")]
    while stack and wanted - paths.keys():
        directory, path = stack.pop()
        after = b""
        while page := store.entries.page(directory, after, store.last_entry_number, 5000):
            for name, *row in page:
                after = bytes(name)
                inode = store.inodes.adopt(tuple(row))
                here = f"{path}/{os.fsdecode(after)}"
                if inode.ino in wanted:
                    paths[inode.ino] = here
                if inode.is_dir:
                    stack.append((inode.ino, here))
    return paths
