"""What a disk holds after a power cut. Owns the rules of loss; reads no trace and knows no program.

The rules, which are those of POSIX and of a disk with 512-byte sectors:

* What a sync that returned had to cover is there. The rest may be there, or not, or in part.
* Writes to one file: each is kept, dropped or torn (any of its sectors), in any combination: pages are written
  back in no order. What overtakes nothing is a change of size by truncate or fallocate: one that is lost takes
  what came after it in that file along.
* A torn write has set the file's size: sectors of it that were lost read as what was there, or as zeros.
* Names: in each directory a prefix of the changes, and a rename between two is in both or in neither. A
  directory is synced by itself (`Journal.STRICT`, POSIX), or by any sync of a file (`Journal.EXT4`, one journal).
* Data and names do not wait for each other: a renamed file may be empty.
"""

from __future__ import annotations

import enum
import os
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 0x01, 0x02, 0x10
FALLOC_KNOWN = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE
RENAME_EXCHANGE = 2
KEPT_SHARES = (0.1, 0.5, 0.9)
"""Probabilities that an unsynced change was kept: one is drawn per file, so that extremes occur, too."""


class Mode(enum.Enum):
    """Which of the unsynced changes survive."""

    DROP_ALL = "drop_all"
    KEEP_ALL = "keep_all"
    RANDOM = "random"
    """Each write by itself."""
    REORDER_BETWEEN_FILES = "reorder_between_files"
    """In each file a prefix of the writes, the last perhaps torn; one file may be ahead of another."""


class Journal(enum.Enum):
    """What makes a directory entry durable."""

    STRICT = "strict"
    EXT4 = "ext4"


@dataclass(slots=True)
class Change:
    """One change of a file's contents, at a point of the trace."""

    index: int
    apply: Callable[[bytearray, random.Random | None], None]
    """Applied whole without a generator; torn with one."""
    is_write: bool


@dataclass(eq=False, slots=True)
class File:
    """A regular file: what is on the disk for certain, and what came after."""

    source: Path | None = None
    """Where the contents are as long as nothing has changed them."""
    content: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)

    def durable(self) -> bytearray:
        if self.source is not None:
            self.content, self.source = bytearray(self.source.read_bytes()), None
        return self.content

    def sync(self, before: int) -> None:
        done = [change for change in self.pending if change.index < before]
        if done:
            content = self.durable()
            for change in done:
                change.apply(content, None)
            self.pending = [change for change in self.pending if change.index >= before]


@dataclass(eq=False, slots=True)
class Link:
    """A symbolic link; its target never changes."""

    target: str


@dataclass(eq=False, slots=True)
class Directory:
    """Names as the processes see them, and as the disk has them for certain."""

    seen: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)


Node = File | Link | Directory


@dataclass(slots=True)
class NameChange:
    """Entries that appear (or, with None, go) together."""

    index: int
    edits: list[tuple[Directory, str, Node | None]]

    def directories(self) -> set[int]:
        return {id(directory) for directory, _name, _node in self.edits}


class Disk:
    """A directory tree during a trace. Paths are relative to it; an inode number stands for the file last opened."""

    def __init__(self, initial: Path, journal: Journal) -> None:
        self._journal = journal
        self._by_ino: dict[int, File] = {}
        self._names: list[NameChange] = []
        self._files: list[File] = []
        self._by_initial_ino: dict[int, File] = {}
        self._root = self._load(initial)

    def _load(self, path: Path) -> Directory:
        directory = Directory()
        for entry in os.scandir(path):
            node: Node
            if entry.is_symlink():
                node = Link(os.readlink(entry.path))
            elif entry.is_dir():
                node = self._load(Path(entry.path))
            else:
                node = self._by_initial_ino.setdefault(entry.inode(), File(Path(entry.path)))
                self._files.append(node)
            directory.seen[entry.name] = directory.durable[entry.name] = node
        return directory

    # --- names

    def _find(self, path: str) -> Node | None:
        node: Node | None = self._root
        for part in path.split("/") if path else ():
            node = node.seen.get(part) if isinstance(node, Directory) else None
        return node

    def _place(self, path: str) -> tuple[Directory, str]:
        parent, _, name = path.rpartition("/")
        directory = self._find(parent)
        assert isinstance(directory, Directory), f"{parent!r} was never made a directory"
        return directory, name

    def _edit(self, index: int, *edits: tuple[str | None, Node | None]) -> None:
        change = NameChange(index, [(*self._place(path), node) for path, node in edits if path is not None])
        for directory, name, node in change.edits:
            _set(directory.seen, name, node)
        self._names.append(change)

    def open(self, index: int, path: str | None, ino: int, flags: int) -> None:
        file = self._find(path) if path is not None else self._by_ino.get(ino)
        if file is None:
            file = File()
            self._files.append(file)
            if path is not None:
                assert flags & os.O_CREAT, f"{path} was made by a process that is not recorded"
                self._edit(index, (path, file))
        assert isinstance(file, File)
        self._by_ino[ino] = file
        if flags & os.O_TRUNC:
            self.truncate(index, path, ino, 0)

    def mkdir(self, index: int, path: str | None) -> None:
        self._edit(index, (path, Directory()))

    def symlink(self, index: int, path: str | None, target: str) -> None:
        self._edit(index, (path, Link(target)))

    def link(self, index: int, source: str | None, path: str | None, ino: int) -> None:
        node = self._by_ino.get(ino) if source is None else self._find(source)
        assert node is not None, f"{path} is a link to a file that is not recorded"
        self._edit(index, (path, node))

    def remove(self, index: int, path: str | None) -> None:
        self._edit(index, (path, None))

    def rename(self, index: int, source: str | None, path: str | None, ino: int, flags: int) -> None:
        node = self._by_ino.get(ino) if source is None else self._find(source)
        assert node is not None, f"{path} was renamed from a file that is not recorded"
        replaced = None if path is None else self._find(path)
        if node is replaced:
            return  # two links to one file: POSIX says that nothing happens
        self._edit(index, (source, replaced if flags & RENAME_EXCHANGE else None), (path, node))

    # --- contents

    def _file(self, path: str | None, ino: int) -> File:
        file = self._by_ino.get(ino) or (self._find(path) if path is not None else None)
        assert isinstance(file, File), f"{path} (inode {ino}) was never opened"
        return file

    def write(self, index: int, path: str | None, ino: int, offset: int, data: bytes) -> None:
        def apply(content: bytearray, rng: random.Random | None) -> None:
            _grow(content, offset + len(data))
            for start, end in _sectors(offset, len(data)) if rng else [(offset, offset + len(data))]:
                if rng is None or rng.random() < 0.5:
                    content[start:end] = data[start - offset : end - offset]

        self._file(path, ino).pending.append(Change(index, apply, is_write=True))

    def truncate(self, index: int, path: str | None, ino: int, size: int) -> None:
        def apply(content: bytearray, rng: random.Random | None) -> None:
            del content[size:]
            _grow(content, size)

        self._file(path, ino).pending.append(Change(index, apply, is_write=False))

    def allocate(self, index: int, path: str | None, ino: int, flags: int, offset: int, size: int) -> None:
        assert not flags & ~FALLOC_KNOWN, f"fallocate flags {flags:#x} are not simulated"

        def apply(content: bytearray, rng: random.Random | None) -> None:
            if not flags & FALLOC_KEEP_SIZE:
                _grow(content, offset + size)
            if flags & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                end = min(offset + size, len(content))
                content[offset:end] = bytes(max(0, end - offset))

        self._file(path, ino).pending.append(Change(index, apply, is_write=False))

    # --- durability: what happened before the index is on the disk

    def sync_file(self, ino: int, path: str | None, before: int) -> None:
        node = self._find(path) if path is not None else None
        if isinstance(node, Directory):
            self._sync_names(before, {id(node)})
        else:
            self._file(path, ino).sync(before)
        if self._journal is Journal.EXT4:
            self._sync_names(before, None)

    def sync_all(self, before: int) -> None:
        for file in self._files:
            file.sync(before)
        self._sync_names(before, None)

    def _sync_names(self, before: int, directories: set[int] | None) -> None:
        """Make the changes of these directories (None: of all) durable, with what must come before them."""
        kept: list[NameChange] = []
        done: list[NameChange] = []
        needed = set(directories or ())
        for change in reversed(self._names):
            if change.index < before and (directories is None or change.directories() & needed):
                needed |= change.directories()
                done.append(change)
            else:
                kept.append(change)
        for change in reversed(done):
            for directory, name, node in change.edits:
                _set(directory.durable, name, node)
        self._names = kept[::-1]

    # --- the cut

    def cut(self, mode: Mode, seed: int, target: Path) -> None:
        """Write what is left into `target`. Uses this disk up."""
        rng = random.Random(seed)
        for change in self._surviving_names(mode, rng):
            for directory, name, node in change.edits:
                _set(directory.durable, name, node)
        _Writer(mode, rng).directory(self._root, target)

    def _surviving_names(self, mode: Mode, rng: random.Random) -> Iterable[NameChange]:
        if mode in (Mode.DROP_ALL, Mode.KEEP_ALL):
            yield from self._names if mode is Mode.KEEP_ALL else ()
            return
        share = rng.choice(KEPT_SHARES)
        stopped: set[int] = set()
        for change in self._names:
            if change.directories() & stopped or rng.random() > share:
                stopped |= change.directories()
            else:
                yield change


class _Writer:
    """Writes the tree that is left, drawing for each file what became of its unsynced changes."""

    def __init__(self, mode: Mode, rng: random.Random) -> None:
        self._mode = mode
        self._rng = rng
        self._written: dict[int, Path] = {}

    def directory(self, directory: Directory, target: Path) -> None:
        target.mkdir()
        for name, node in sorted(directory.durable.items(), key=lambda entry: entry[0]):
            if isinstance(node, Directory):
                self.directory(node, target / name)
            elif isinstance(node, Link):
                (target / name).symlink_to(node.target)
            else:
                self._file(node, target / name)

    def _file(self, file: File, target: Path) -> None:
        first = self._written.setdefault(id(file), target)
        if first is not target:
            os.link(first, target)
        elif file.source is not None and not file.pending:
            shutil.copyfile(file.source, target)
        else:
            self._apply_survivors(file)
            target.write_bytes(file.content)

    def _apply_survivors(self, file: File) -> None:
        content, rng, share = file.durable(), self._rng, self._rng.choice(KEPT_SHARES)
        if self._mode is Mode.DROP_ALL:
            return
        for change in file.pending:
            if self._mode is Mode.KEEP_ALL or rng.random() < share:
                change.apply(content, None)
                continue
            if change.is_write and rng.random() < 0.5:
                change.apply(content, rng)
            if self._mode is Mode.REORDER_BETWEEN_FILES or not change.is_write:
                return


def _set(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _grow(content: bytearray, size: int) -> None:
    content.extend(bytes(max(0, size - len(content))))


def _sectors(offset: int, size: int) -> Iterable[tuple[int, int]]:
    """[offset, offset + size) cut at the sector boundaries of the file."""
    start, end = offset, offset + size
    while start < end:
        upto = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, upto
        start = upto
