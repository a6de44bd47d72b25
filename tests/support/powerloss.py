"""Power cuts without a power switch. Owns the recording of a process and the reading of its trace.

A process runs under `Recorder.env()`, which preloads `powerloss/shim.c`: what it does to the files below one
directory goes into a trace. `Trace.materialise` then rebuilds that directory as a power cut at any point of
the trace could have left it (`powerlossdisk` says what "could" means). Never touches the recorded directory.

A program under test tells what it was promised with `mark(b"...")`: `Trace.marks(point)` are those that were
made before the cut.
"""

from __future__ import annotations

import atexit
import enum
import functools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.powerlossdisk import Disk, Journal, Mode

SHIM_SOURCE = Path(__file__).parent / "powerloss" / "shim.c"
HEADER = struct.Struct("<IIIiQqqII")
MAGIC = 0x534C5750


class Op(enum.IntEnum):
    """What a record says; the numbers are those of shim.c."""

    ROOT = 1
    OPEN = 2
    WRITE = 3
    TRUNCATE = 4
    FALLOCATE = 5
    RENAME = 6
    LINK = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10
    SYMLINK = 11
    SYNC_BEGIN = 12
    SYNC_END = 13
    MARK = 14
    CLOSE = 15
    MAP = 16


class SyncKind(enum.IntEnum):
    """`flags` of SYNC_BEGIN and SYNC_END."""

    FSYNC = 1
    FDATASYNC = 2
    WHOLE_FS = 3
    RANGE = 4
    """sync_file_range: promises nothing after a power cut, so the simulation gives nothing for it."""


class TraceError(Exception):
    """The trace is damaged, or shows something that the simulation cannot follow."""


@dataclass(frozen=True, slots=True)
class Record:
    """One operation that succeeded. Which fields have a meaning depends on `op`; see shim.c."""

    op: Op
    flags: int
    ino: int
    offset: int
    """In bytes; the serial number of a sync."""
    size: int
    """In bytes; mode of what OPEN and MKDIR made; the process id of a sync."""
    path: str
    path2: str
    data: bytes


@functools.cache
def build_shim() -> Path:
    """Compile the shim, once for this process. Raises CalledProcessError, FileNotFoundError without gcc."""
    directory = Path(tempfile.mkdtemp(prefix="powerloss-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    target = directory / "shim.so"
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["gcc", *options, "-o", str(target), str(SHIM_SOURCE), "-ldl"], check=True)
    return target


class Recorder:
    """Records processes that work in `root`. Keeps `root` as it was first, and the trace, in `scratch`."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root.resolve()
        self.initial = scratch / "initial"
        self.trace_path = scratch / "trace"
        self.mark_path = scratch / "POWERLOSS-MARK"
        self._shim = build_shim()
        shutil.copytree(self.root, self.initial, symlinks=True)

    def env(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for a subprocess to be recorded; several may append to one trace."""
        return {
            **(os.environ if base is None else base),
            "LD_PRELOAD": str(self._shim),
            "POWERLOSS_ROOTS": str(self.root),
            "POWERLOSS_TRACE": str(self.trace_path),
            "POWERLOSS_MARK": str(self.mark_path),
        }

    def trace(self) -> Trace:
        return Trace.load(self.trace_path)


def mark(text: bytes) -> None:
    """For the program under test: put `text` into the trace, after all it has done so far. Free when not recorded."""
    path = os.environ.get("POWERLOSS_MARK")
    if path is not None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, text)
        os.close(descriptor)


class Trace:
    """The records of a run, in the order of their effects. A point p stands for: the first p have happened."""

    def __init__(self, records: list[Record]) -> None:
        roots = {record.path for record in records if record.op is Op.ROOT}
        if len(roots) != 1:
            raise TraceError(f"one recorded directory is needed, the trace has {sorted(roots)}")
        self.root = roots.pop()
        self.records = records

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read a trace; a last record that is cut short (its process was killed) is left out."""
        return cls(list(_parse(path.read_bytes())))

    def points(self, *after: Op) -> list[int]:
        """Every point of the trace, or those right after the records of these kinds, in order."""
        if not after:
            return list(range(len(self.records) + 1))
        return [index + 1 for index, record in enumerate(self.records) if record.op in after]

    def marks(self, point: int) -> list[bytes]:
        """What the program had said before the cut."""
        return [record.data for record in self.records[:point] if record.op is Op.MARK]

    def materialise(
        self,
        initial: Path,
        target: Path,
        point: int,
        mode: Mode,
        seed: int,
        journal: Journal = Journal.STRICT,
    ) -> None:
        """Make `target` what the directory could be after a power cut at `point`; it must not exist yet.

        `initial` is the directory before the trace began. The same arguments give the same result.
        """
        disk = Disk(initial, journal)
        replay = _Replay(disk, self.root)
        for index, record in enumerate(self.records[:point]):
            replay.step(index, record)
        disk.cut(mode, seed, target)


def _parse(data: bytes) -> Iterator[Record]:
    at = 0
    while at + HEADER.size <= len(data):
        magic, length, op, flags, ino, offset, size, path_size, path2_size = HEADER.unpack_from(data, at)
        if magic != MAGIC:
            raise TraceError(f"no record at byte {at} of the trace")
        if at + length > len(data):
            return
        path_end = at + HEADER.size + path_size
        path2_end = path_end + path2_size
        path, path2 = os.fsdecode(data[at + HEADER.size : path_end]), os.fsdecode(data[path_end:path2_end])
        yield Record(Op(op), flags, ino, offset, size, path, path2, data[path2_end : at + length])
        at += length


class _Replay:
    """Walks a disk through the records. Owns which inode number is which file, at each moment of the trace."""

    def __init__(self, disk: Disk, root: str) -> None:
        self._disk = disk
        self._root = root
        self._sync_begun: dict[tuple[int, int], int] = {}

    def step(self, index: int, record: Record) -> None:
        disk, path, path2 = self._disk, self._below(record.path), self._below(record.path2)
        match record.op:
            case Op.OPEN:
                disk.open(index, path, record.ino, record.flags)
            case Op.WRITE:
                disk.write(index, path, record.ino, record.offset, record.data)
                if record.flags & os.O_DSYNC:
                    disk.sync_file(record.ino, path, index + 1)
            case Op.TRUNCATE:
                disk.truncate(index, path, record.ino, record.size)
            case Op.FALLOCATE:
                disk.allocate(index, path, record.ino, record.flags, record.offset, record.size)
            case Op.RENAME:
                disk.rename(index, path, path2, record.ino, record.flags)
            case Op.LINK:
                disk.link(index, path, path2, record.ino)
            case Op.UNLINK | Op.RMDIR:
                disk.remove(index, path)
            case Op.MKDIR:
                disk.mkdir(index, path)
            case Op.SYMLINK:
                disk.symlink(index, path, record.path2)
            case Op.SYNC_BEGIN:
                self._sync_begun[record.size, record.offset] = index
            case Op.SYNC_END:
                self._synced(record, path)
            case Op.MAP:
                raise TraceError(f"{record.path} is written through a mapping, which cannot be recorded")

    def _synced(self, record: Record, path: str | None) -> None:
        begun = self._sync_begun.pop((record.size, record.offset))
        if record.flags == SyncKind.WHOLE_FS:
            self._disk.sync_all(begun)
        elif record.flags != SyncKind.RANGE:
            self._disk.sync_file(record.ino, path, begun)

    def _below(self, path: str) -> str | None:
        """The path relative to the recorded directory; None outside it and for a file without a name."""
        if path == self._root:
            return ""
        if not path.startswith(self._root + "/") or path.endswith(" (deleted)"):
            return None
        return path[len(self._root) + 1 :]
