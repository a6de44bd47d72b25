"""Object files on the local disk: one sparse file for each physical object, segments and fetched blocks alike.

Owns the files, how much they take, and which of their blocks are there and verified. Never reads the
namespace and never talks to a location. What is present is found again after a restart from the files'
own data ranges (SEEK_DATA); a block found so is trusted only after its checksum was compared.
"""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import islice
from pathlib import Path

import google_crc32c

from gsfs.errors import NoSpace, PermissionRefused
from gsfs.model import KIB, MIB, ObjectId

BLOCK = MIB
"""Unit of fetching and verifying, in bytes."""
WRITE_BYTES = 64 * KIB
"""Longest single write. For a longer one the kernel takes larger pages, which a file system that has them must first
find: measured on ext4 (kernel 6.18, virtual machine), a gigabyte costs 0.3 s of CPU like this and 1.3 to 3 s in writes
of 1 MiB."""
OPEN_FILES_MAX = 512
SUBDIRECTORIES = 256
CANDIDATES = 128
"""So many of the least recently used files are compared when room is needed: the price of order stays bounded."""
FLOOR_BYTES = 16 << 20
"""Free space that is left whatever the configuration says: without room for its log, nothing could be committed,
uploaded or let go of any more."""


class ObjectFile:
    """The local file of one object. ``present`` and ``verified`` are bit sets over its blocks."""

    __slots__ = (
        "bytes",
        "doubtful",
        "fd",
        "growing",
        "held",
        "id",
        "is_new",
        "path",
        "present",
        "used_s",
        "users",
        "verified",
    )

    def __init__(self, id_: ObjectId, path: Path) -> None:
        self.id = id_
        self.path = path
        self.fd = -1
        self.present = 0
        self.verified = 0
        self.bytes = 0  # what it takes on the disk, by our count
        self.held = False  # must not be evicted: the only copy, or still being appended to
        self.growing = False  # an open segment: all that extents name was written by this very process
        self.users = 0  # reads and transfers under way
        self.used_s = 0.0  # when it was last used, in seconds since the epoch
        self.is_new = False  # a power cut may still take its name
        self.doubtful = False  # a flush failed: the kernel takes its pages for written all the same

    def sync(self) -> None:
        """Make its bytes and its name survive power loss. Runs in a thread, too. Raises OSError."""
        if self.fd < 0:
            return
        try:
            if self.doubtful:
                self._write_again()
            os.fdatasync(self.fd)
            if self.is_new:
                sync_directory(self.path.parent)
        except OSError:
            self.doubtful = True
            raise
        self.is_new = self.doubtful = False

    def _write_again(self) -> None:
        """After a failed flush the next one would report success without writing anything: make the pages dirty."""
        offset = 0
        while data := os.pread(self.fd, BLOCK, offset):
            os.pwrite(self.fd, data, offset)
            offset += len(data)


Order = Callable[[Sequence[ObjectFile], int], Sequence[ObjectFile]]


class ObjectCache:
    """Every object file, least recently used first."""

    def __init__(self, directory: Path, capacity_bytes: int, min_free_bytes: int) -> None:
        self.directory = directory / "objects"
        self.capacity_bytes = capacity_bytes
        self.min_free_bytes = max(min_free_bytes, FLOOR_BYTES)
        self.used_bytes = 0
        self.evicted_bytes = 0
        self.on_evict: Callable[[ObjectId], bool] = lambda _id: True
        """Asked before a file goes: releases the object's local replica, False to keep it."""
        self.pinned: Set[ObjectId] = frozenset()
        """Objects that stay whatever happens (``transfer.keeper`` owns the set)."""
        self.clock: Callable[[], float] = time.time
        self.order: Order = lambda candidates, _need_bytes: candidates
        """Which of the files that were not used for longest go first, until so many bytes are free."""
        self._files: OrderedDict[ObjectId, ObjectFile] = OrderedDict()
        self._open: OrderedDict[ObjectId, ObjectFile] = OrderedDict()
        try:
            self._make_directories()
            probe = self.directory / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoSpace(f"cache.path {directory}: the disk is full") from None
            raise PermissionRefused(f"cache.path {directory}: cannot be written: {error.strerror}") from None
        self._load()

    def _make_directories(self) -> None:
        """All of them at once, so that a new file needs no more than its own directory flushed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if len(os.listdir(self.directory)) < SUBDIRECTORIES:
            for number in range(SUBDIRECTORIES):
                (self.directory / f"{number:02x}").mkdir(exist_ok=True)
            sync_directory(self.directory)
            sync_directory(self.directory.parent)

    def _load(self) -> None:
        """Find the files of an earlier run, oldest use first."""
        found = []
        for sub in self.directory.iterdir():
            if not sub.is_dir():
                continue
            for path in sub.iterdir():
                try:
                    id_, status = ObjectId(int(path.name, 16)), path.stat()
                except (ValueError, OSError):
                    continue
                found.append((status.st_atime_ns, id_, path, min(status.st_blocks * 512, status.st_size)))
        for atime_ns, id_, path, size in sorted(found):
            file = self._files[id_] = ObjectFile(id_, path)
            file.bytes = size
            file.used_s = atime_ns / 1e9
            file.present = -1
            self.used_bytes += size

    def _path(self, id_: ObjectId) -> Path:
        return self.directory / f"{id_ & 0xFF:02x}" / f"{id_:012x}"

    def create(self, id_: ObjectId) -> ObjectFile:
        """A new, empty file. Raises OSError."""
        path = self._path(id_)
        file = ObjectFile(id_, path)
        self._open_file(file, os.O_CREAT | os.O_TRUNC)
        file.is_new = True
        file.used_s = self.clock()
        self._files[id_] = file
        return file

    def get(self, id_: ObjectId) -> ObjectFile | None:
        """The object's file with its descriptor open, now the most recently used; None if there is none."""
        file = self._files.get(id_)
        if file is None:
            return None
        if file.fd < 0:
            try:
                self._open_file(file, 0)
            except FileNotFoundError:
                self.forget(id_)
                return None
        if file.present < 0:
            file.present = _blocks_with_data(file.fd)
        self._files.move_to_end(id_)
        file.used_s = self.clock()
        return file

    def blocks(self, id_: ObjectId) -> int:
        """Bit set of the blocks that are here; looking is no use of the file."""
        file = self._files.get(id_)
        if file is None:
            return 0
        if file.present < 0:
            try:
                fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return 0
            try:
                return _blocks_with_data(fd)
            finally:
                os.close(fd)
        return file.present

    def _open_file(self, file: ObjectFile, flags: int) -> None:
        try:
            file.fd = os.open(file.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            file.path.parent.mkdir(exist_ok=True)
            file.fd = os.open(file.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self._open[file.id] = file
        if len(self._open) > OPEN_FILES_MAX:
            self._close_idle()

    def _close_idle(self) -> None:
        for id_, file in list(self._open.items())[:64]:
            if not file.held and not file.users:
                del self._open[id_]
                os.close(file.fd)
                file.fd = -1

    def ids(self) -> list[ObjectId]:
        return list(self._files)

    def __contains__(self, id_: ObjectId) -> bool:
        return id_ in self._files

    # --- space

    def take(self, file: ObjectFile, size_bytes: int) -> None:
        """Count bytes that were written to a file."""
        file.bytes += size_bytes
        self.used_bytes += size_bytes

    def free_bytes(self) -> int:
        """Free space on the cache's disk, for this user."""
        status = os.statvfs(self.directory)
        return status.f_bavail * status.f_frsize

    def make_room(self, size_bytes: int, *, look_at_disk: bool) -> bool:
        """Evict until ``size_bytes`` more fit under the cap (and above the disk's floor); False if they cannot."""
        excess = self.used_bytes + size_bytes - self.capacity_bytes
        if look_at_disk:
            excess = max(excess, self.min_free_bytes + size_bytes - self.free_bytes())
        if excess <= 0:
            return True
        stay: set[ObjectId] = set()
        while candidates := list(islice(self._evictable(stay), CANDIDATES)):
            victims = self.order(candidates, excess)
            if not victims:
                stay.update(file.id for file in candidates)
            for file in victims:
                if not self.on_evict(file.id):
                    stay.add(file.id)
                    continue
                excess -= file.bytes
                self.evicted_bytes += file.bytes
                self.remove(file.id)
                if excess <= 0:
                    return True
        return False

    def _evictable(self, stay: set[ObjectId]) -> Iterator[ObjectFile]:
        """Least recently used first; lazily, for there may be many."""
        for file in self._files.values():
            if not file.held and not file.users and file.id not in self.pinned and file.id not in stay:
                yield file

    def remove(self, id_: ObjectId) -> None:
        """Delete the file."""
        file = self._files.get(id_)
        if file is None:
            return
        self.forget(id_)
        file.path.unlink(missing_ok=True)

    def forget(self, id_: ObjectId) -> None:
        """Stop counting the file; it is gone, or will be."""
        file = self._files.pop(id_)
        self.used_bytes -= file.bytes
        if self._open.pop(id_, None) is not None and file.fd >= 0:
            os.close(file.fd)
        file.fd = -1

    # --- blocks

    def store_block(self, id_: ObjectId, block: int, data: bytes) -> ObjectFile:
        """Keep a fetched and verified block. Raises OSError when the disk refuses."""
        file = self.get(id_) or self.create(id_)
        write_fully(file.fd, data, block * BLOCK)
        self.note_stored(file, block, len(data))
        return file

    def note_stored(self, file: ObjectFile, first: int, size_bytes: int) -> None:
        """Verified bytes were written to the file from block ``first`` on."""
        for at in range(0, size_bytes, BLOCK):
            bit = 1 << first + at // BLOCK
            if not file.present & bit:
                self.take(file, min(BLOCK, size_bytes - at))
            file.present |= bit
            file.verified |= bit

    def look_again(self, file: ObjectFile) -> None:
        """Its bytes were written past this cache: find out anew which blocks are there, and what they take."""
        status = os.fstat(file.fd)
        self.take(file, min(status.st_blocks * 512, status.st_size) - file.bytes)
        file.present = _blocks_with_data(file.fd)
        file.verified = 0

    def drop_block(self, file: ObjectFile, block: int) -> None:
        """A block that failed its checksum: as if it were not there."""
        if file.present >> block & 1:
            self.take(file, -min(BLOCK, max(os.fstat(file.fd).st_size - block * BLOCK, 0), file.bytes))
        file.present &= ~(1 << block)
        file.verified &= ~(1 << block)

    def close(self) -> None:
        """Close every file; what is on the disk is found again by the next run."""
        for file in self._files.values():
            if file.fd >= 0:
                os.close(file.fd)
                file.fd = -1
        self._open.clear()


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive power loss. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_fully(fd: int, data: bytes | memoryview, offset: int) -> None:
    """All of it, or OSError: a disk that fills up takes part of a write before it refuses. Runs in a thread, too."""
    length = len(data)
    done = os.pwrite(fd, data, offset) if length <= WRITE_BYTES else 0
    while done < length:
        done += os.pwrite(fd, memoryview(data)[done : done + WRITE_BYTES], offset + done)


def mask(first: int, last: int) -> int:
    """Bit set of the blocks first..last."""
    return ((1 << (last - first + 1)) - 1) << first


def block_crc(block_crcs: bytes, block: int) -> int:
    """The recorded CRC32C of a block."""
    return int.from_bytes(block_crcs[block * 4 : block * 4 + 4], "big")


def crc_of_file(fd: int, size_bytes: int) -> tuple[int, bytes] | None:
    """(CRC32C of the first ``size_bytes``, CRC32C of each block); None where the file is shorter."""
    total, blocks, offset = 0, bytearray(), 0
    while offset < size_bytes:
        data = os.pread(fd, min(BLOCK, size_bytes - offset), offset)
        if not data or (len(data) < BLOCK and offset + len(data) < size_bytes):
            return None
        total = google_crc32c.extend(total, data)
        blocks += google_crc32c.value(data).to_bytes(4, "big")
        offset += len(data)
    return total, bytes(blocks)


def _blocks_with_data(fd: int) -> int:
    """Bit set of the blocks in which the file has any data."""
    present, offset, size = 0, 0, os.fstat(fd).st_size
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        present |= mask(start // BLOCK, (end - 1) // BLOCK)
        offset = end
    return present
