"""Checks for bytes that came back. Owns the ways to say what is expected; never fetches anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gsfs.backends.checksum import crc32c
from gsfs.errors import BackendCorrupt


def expect_crc32c(expected: int, size_bytes: int | None = None) -> Callable[[bytes], None]:
    """The bytes as a whole have this CRC32C (and this length, when given)."""

    def verify(data: bytes) -> None:
        if size_bytes is not None and len(data) != size_bytes:
            raise BackendCorrupt(f"{len(data)} bytes came back where {size_bytes} were expected")
        if crc32c(data) != expected:
            raise BackendCorrupt(f"{len(data)} bytes came back with a wrong CRC32C")

    return verify


def expect_blocks(block_bytes: int, expected: Sequence[int]) -> Callable[[bytes], None]:
    """Each block of ``block_bytes`` (the last may be shorter) has the CRC32C at its place in ``expected``."""

    def verify(data: bytes) -> None:
        blocks = -(-len(data) // block_bytes)
        if blocks != len(expected):
            raise BackendCorrupt(f"{blocks} blocks came back where {len(expected)} were expected")
        view = memoryview(data)
        for number, wanted in enumerate(expected):
            if crc32c(bytes(view[number * block_bytes : (number + 1) * block_bytes])) != wanted:
                raise BackendCorrupt(f"block {number} of the range came back with a wrong CRC32C")

    return verify
