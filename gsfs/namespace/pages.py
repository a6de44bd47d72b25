"""A namespace as pages: reading what its log has gained, and building a database from what was read.

The log's frames are page images. Over a copy of the database that was made *after* a position in the log,
all frames from that position on may be laid in order: the state is then that of the last commit laid.
Format of a part: one line of JSON (facts), then zlib of the pages, each 4 bytes of number and PAGE_SIZE.
Log format: https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from gsfs.errors import DatabaseCorrupt
from gsfs.namespace.sqlite import FRAME_HEADER, PAGE_SIZE, WAL_HEADER_BYTES

STEP = FRAME_HEADER.size + PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log: its salts (they change when it starts afresh) and a number of frames."""

    salt: bytes = b""
    frames: int = 0


@dataclass(slots=True)
class Pages:
    """The newest image of each page that changed between two commits."""

    images: dict[int, bytes] = field(default_factory=dict)
    page_count: int = 0
    """Size of the database after the last commit, in pages."""

    def encode(self) -> bytes:
        facts = json.dumps({"version": 1, "page_count": self.page_count, "pages": len(self.images)})
        body = b"".join(n.to_bytes(4, "big") + image for n, image in sorted(self.images.items()))
        return facts.encode() + b"\n" + zlib.compress(body, 1)

    @classmethod
    def decode(cls, data: bytes) -> Pages:
        """Raises DatabaseCorrupt."""
        try:
            line, _, body = data.partition(b"\n")
            facts, body = json.loads(line), zlib.decompress(body)
        except (ValueError, zlib.error) as error:
            raise DatabaseCorrupt(f"a shipped part of the namespace cannot be read: {error}") from None
        step = 4 + PAGE_SIZE
        if facts.get("version") != 1 or len(body) != facts["pages"] * step:
            raise DatabaseCorrupt("a shipped part of the namespace is of another version, or incomplete")
        pages = cls(page_count=facts["page_count"])
        for at in range(0, len(body), step):
            pages.images[int.from_bytes(body[at : at + 4], "big")] = body[at + 4 : at + step]
        return pages


def read_log(database: Path, since: Position, upto: int) -> tuple[Position, Pages]:
    """Pages of the frames from ``since`` up to frame ``upto``, which ends a commit. Only while the log stays.

    A log with other salts is read from its beginning: what came before is in the database, and whoever asks
    has read it.
    """
    pages = Pages()
    with open(f"{database}-wal", "rb") as file:
        salt = file.read(WAL_HEADER_BYTES)[16:24]
        start = since.frames if salt == since.salt else 0
        file.seek(WAL_HEADER_BYTES + start * STEP)
        for _ in range(start, upto):
            frame = file.read(STEP)
            number, count, *_rest = FRAME_HEADER.unpack_from(frame)
            pages.images[number] = frame[FRAME_HEADER.size :]
            pages.page_count = count or pages.page_count
    return Position(salt, upto), pages


def log_salt(database: Path) -> bytes:
    """The salts of the log as it is now; empty while there is none."""
    try:
        with open(f"{database}-wal", "rb") as file:
            return file.read(WAL_HEADER_BYTES)[16:24]
    except FileNotFoundError:
        return b""


def snapshot(database: Path, target: Path) -> None:
    """A consistent copy of a database in use. Blocking; no writer waits for it."""
    target.unlink(missing_ok=True)
    source = sqlite3.connect(database)
    copy = sqlite3.connect(target)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()


def lay(database: Path, pages: Pages) -> None:
    """Lay pages over a database that nobody has open."""
    with open(database, "r+b") as file:
        for number, image in pages.images.items():
            file.seek((number - 1) * PAGE_SIZE)
            file.write(image)
        if pages.page_count:
            file.truncate(pages.page_count * PAGE_SIZE)
        file.flush()
        os.fsync(file.fileno())
