"""Reading what is to be uploaded. Owns the checks that a source is what it claims; never changes it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from gsfs.backends.base import BytesSource, FileSource, Source
from gsfs.backends.checksum import crc32c, crc32c_of_file
from gsfs.errors import BackendError


class SourceLost(BackendError):
    """The local bytes to upload are missing or shorter than promised: no location can help."""


def read_source(source: Source) -> bytes:
    """All bytes of the source. Raises SourceLost when the file is missing or too short."""
    if isinstance(source, BytesSource):
        return source.data
    with _opened(source) as descriptor:
        data = os.pread(descriptor, source.size_bytes, source.offset)
        while len(data) < source.size_bytes:
            more = os.pread(descriptor, source.size_bytes - len(data), source.offset + len(data))
            if not more:
                raise SourceLost(f"{source.path}: {len(data)} bytes where {source.size_bytes} were promised")
            data += more
    return data


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """A seekable stream of exactly the source's bytes, for SDKs that read streams."""
    if isinstance(source, BytesSource):
        yield io.BytesIO(source.data)
        return
    with _opened(source) as descriptor:
        size = os.fstat(descriptor).st_size
        if size < source.offset + source.size_bytes:
            raise SourceLost(f"{source.path}: {size} bytes, too short for the run that was promised")
        yield io.BufferedReader(_Run(descriptor, source.offset, source.size_bytes), 1 << 18)


def crc32c_of_source(source: Source) -> int:
    """CRC32C of the bytes as they are now, without holding them all in memory. Raises SourceLost."""
    if isinstance(source, BytesSource):
        return crc32c(source.data)
    with _opened(source) as descriptor:
        value, size_bytes = crc32c_of_file(descriptor, source.offset, source.size_bytes)
    if size_bytes != source.size_bytes:
        raise SourceLost(f"{source.path}: {size_bytes} bytes where {source.size_bytes} were promised")
    return value


@contextmanager
def _opened(source: FileSource) -> Iterator[int]:
    try:
        descriptor = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceLost(f"{source.path}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Run(io.RawIOBase):
    """A window of a file. Uses pread, so that attempts that overlap never move each other's position."""

    def __init__(self, descriptor: int, offset: int, size_bytes: int) -> None:
        super().__init__()
        self._descriptor, self._offset, self._size_bytes, self._at = descriptor, offset, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # RawIOBase: Buffer
        wanted = min(len(buffer), self._size_bytes - self._at)
        if wanted <= 0:
            return 0
        got = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._offset + self._at)
        self._at += got
        return got

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at
