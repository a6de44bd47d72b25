"""The log: segments that are appended to, and when they are sealed. Owns open segments and what of them is
on the disk. Never reads the namespace; ``records`` hands over what a commit must say about them.

A segment belongs to one bucket. Small writes share the bucket's pooled segments; a file that is written at
length gets a segment of its own, so that it stays contiguous. A sealed segment never changes again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import google_crc32c

from gsfs.data.cache import BLOCK, ObjectCache, ObjectFile, write_fully
from gsfs.model import MIB, Ino, ObjectId

LONG_WRITER_BYTES = MIB
"""Bytes one file must have written in a row before it gets a segment of its own."""
POOL_MAX = 4
"""Open segments without an owner that a bucket keeps."""


class Segment:
    """A physical object in the making."""

    __slots__ = (
        "block_crc", "block_crcs", "bucket", "changed_s", "crc32c", "created_s", "file", "id", "logged", "owner", "sealed",
        "size", "synced", "told",
    )  # fmt: skip

    def __init__(self, id_: ObjectId, bucket: Ino, file: ObjectFile, now_s: float) -> None:
        self.id = id_
        self.bucket = bucket
        self.file = file
        self.size = 0
        self.crc32c = 0
        self.block_crcs = bytearray()  # of whole blocks
        self.block_crc = 0  # of the block in progress
        self.synced = 0  # bytes known to be on the disk
        self.logged = 0  # bytes known to be on the disk, or in the namespace's log (redo)
        self.told = -1  # size in the last commit
        self.sealed = False
        self.owner: Ino | None = None
        self.created_s = self.changed_s = now_s

    def checksums(self) -> bytes:
        """CRC32C of each block so far."""
        tail = self.block_crc.to_bytes(4, "big") if self.size % BLOCK else b""
        return bytes(self.block_crcs) + tail


@dataclass(frozen=True, slots=True)
class SegmentEvents:
    """Whom the log tells. ``created`` and ``sealed`` write rows; both run within the operation."""

    created: Callable[[Segment], None]
    sealed: Callable[[Segment], None]
    new_id: Callable[[], ObjectId]


class SegmentLog:
    """Open segments of every bucket."""

    def __init__(
        self, cache: ObjectCache, segment_size: int, clock: Callable[[], float], events: SegmentEvents
    ) -> None:
        self._cache = cache
        self._size = segment_size
        self._clock = clock
        self._events = events
        self._pool: dict[Ino, list[Segment]] = {}
        self._owned: dict[Ino, Segment] = {}
        self._unsynced: dict[ObjectId, Segment] = {}
        self._untold: dict[ObjectId, Segment] = {}
        self.appended_bytes = 0

    def append(
        self, bucket: Ino, owner: Ino | None, data: bytes | memoryview
    ) -> list[tuple[ObjectId, int, int]]:
        """Append; [(object, offset in it, length)], more than one where a segment was filled. Raises OSError."""
        length = len(data)
        segment = self._owned.get(owner) if owner is not None else None
        if segment is None:
            segment = self._take_own(bucket, owner) if owner is not None else self._shared(bucket)
        room = self._size - segment.size
        if length <= room:
            return [self._write(segment, data)]
        pieces = []
        view = memoryview(data)
        while view:
            if segment.size >= self._size:
                self.seal(segment)
                segment = self._take_own(bucket, owner) if owner is not None else self._shared(bucket)
            part = view[: self._size - segment.size]
            pieces.append(self._write(segment, bytes(part)))
            view = view[len(part) :]
        return pieces

    def _write(self, segment: Segment, data: bytes | memoryview) -> tuple[ObjectId, int, int]:
        length, offset = len(data), segment.size
        write_fully(segment.file.fd, data, offset)
        self._checksum(segment, data if isinstance(data, bytes) else bytes(data))
        segment.size = offset + length
        segment.changed_s = self._clock()
        self._cache.take(segment.file, length)
        self.appended_bytes += length
        self._unsynced[segment.id] = segment
        self._untold[segment.id] = segment
        if segment.size >= self._size:
            self.seal(segment)
        return (segment.id, offset, length)

    @staticmethod
    def _checksum(segment: Segment, data: bytes) -> None:
        segment.crc32c = google_crc32c.extend(segment.crc32c, data)
        done, inside = 0, segment.size % BLOCK
        if inside + len(data) < BLOCK:
            segment.block_crc = google_crc32c.extend(segment.block_crc, data)
            return
        while done < len(data):
            part = data[done : done + BLOCK - inside]
            segment.block_crc = google_crc32c.extend(segment.block_crc, part)
            done += len(part)
            inside += len(part)
            if inside == BLOCK:
                segment.block_crcs += segment.block_crc.to_bytes(4, "big")
                segment.block_crc = inside = 0

    def _shared(self, bucket: Ino) -> Segment:
        pool = self._pool.setdefault(bucket, [])
        if not pool:
            pool.append(self._create(bucket))
        return pool[0]

    def _take_own(self, bucket: Ino, owner: Ino) -> Segment:
        segment = self._owned[owner] = self._create(bucket)
        segment.owner = owner
        return segment

    def _create(self, bucket: Ino) -> Segment:
        id_ = self._events.new_id()
        file = self._cache.create(id_)
        file.held = file.growing = True
        segment = Segment(id_, bucket, file, self._clock())
        self._events.created(segment)
        return segment

    def release(self, owner: Ino) -> None:
        """The long writer has closed its file: what it left of its segment is for everybody."""
        segment = self._owned.pop(owner, None)
        if segment is None:
            return
        segment.owner = None
        pool = self._pool.setdefault(segment.bucket, [])
        pool.append(segment)
        if len(pool) > POOL_MAX:
            self.seal(max(pool, key=lambda s: s.size))

    # --- sealing

    def seal(self, segment: Segment) -> None:
        """No more bytes: it can be uploaded."""
        if segment.sealed:
            return
        segment.sealed = True
        segment.file.growing = False
        if segment.owner is not None:
            self._owned.pop(segment.owner, None)
            segment.owner = None
        pool = self._pool.get(segment.bucket, [])
        if segment in pool:
            pool.remove(segment)
        segment.file.present = (1 << -(-segment.size // BLOCK)) - 1
        segment.file.verified = segment.file.present
        self._untold.pop(segment.id, None)
        self._events.sealed(segment)

    def open_segments(self) -> list[Segment]:
        """Every segment that can still be appended to."""
        return [*self._owned.values(), *(s for pool in self._pool.values() for s in pool)]

    def seal_idle(self, idle_s: float, max_age_s: float) -> int:
        """Seal what was not appended to for ``idle_s``, or is older than ``max_age_s``; how many."""
        now, count = self._clock(), 0
        for segment in self.open_segments():
            if segment.size and (now - segment.changed_s >= idle_s or now - segment.created_s >= max_age_s):
                self.seal(segment)
                count += 1
        return count

    def seal_all(self, bucket: Ino | None = None) -> None:
        """Seal every open segment that has bytes (of one bucket)."""
        for segment in self.open_segments():
            if segment.size and bucket in (None, segment.bucket):
                self.seal(segment)

    def seal_these(self, ids: Collection[ObjectId]) -> None:
        """Seal those of them that are open."""
        for segment in self.open_segments():
            if segment.id in ids:
                self.seal(segment)

    # --- what a commit says, and what the disk has

    def records(self) -> Iterable[tuple[int, int, int, int]]:
        """(size, CRC32C, synced, object) of each open segment that has changed since the last call."""
        rows = [(s.size, s.crc32c, s.synced, s.id) for s in self._untold.values()]
        self._untold.clear()
        return rows

    def unsynced(self) -> list[tuple[Segment, int]]:
        """Segments with bytes that may not be on the disk, and how far they go now."""
        return [(segment, segment.size) for segment in self._unsynced.values()]

    def unlogged_bytes(self) -> int:
        """Bytes that neither the disk nor the namespace's log may have."""
        return sum(segment.size - segment.logged for segment in self._unsynced.values())

    def synced(self, segment: Segment, size: int) -> bool:
        """The disk has the first ``size`` bytes; True when that is all of a sealed segment."""
        segment.synced = max(segment.synced, size)
        segment.logged = max(segment.logged, size)
        if segment.synced >= segment.size:
            self._unsynced.pop(segment.id, None)
            return segment.sealed
        return False
