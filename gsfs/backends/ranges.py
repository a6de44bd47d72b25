"""Checking that a ranged answer is what was asked for. Owns the comparison; never fetches anything."""

from __future__ import annotations

import re
from typing import Final

from gsfs.backends.checksum import crc32c
from gsfs.errors import BackendCorrupt, Unavailable

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def range_header(offset: int, length: int) -> str:
    """The Range header for a run of bytes (RFC 9110, section 14.1.2)."""
    return f"bytes={offset}-{offset + length - 1}"


def check_range(
    what: str, body: bytes, offset: int, length: int, content_range: str | None, whole_crc32c: int | None
) -> bytes:
    """The body, once it is shown to be exactly the range.

    ``content_range`` is the answer's header, None when the server sent the whole object instead.
    ``whole_crc32c`` is the CRC32C of the whole object, where known: it is compared when all of it came back.
    """
    if content_range is None:
        first, total = 0, len(body)
        if offset != 0 or total > length:
            raise BackendCorrupt(f"{what}: {total} bytes came back, but not the range that was asked for")
    else:
        first, total = _parse(what, content_range)
    wanted = max(0, min(length, total - offset))
    if first != offset or len(body) > wanted:
        raise BackendCorrupt(f"{what}: {len(body)} bytes from {first} came back where {wanted} were due")
    if len(body) < wanted:
        raise Unavailable(f"{what}: broke off after {len(body)} of {wanted} bytes")
    if whole_crc32c is not None and offset == 0 and wanted == total and crc32c(body) != whole_crc32c:
        raise BackendCorrupt(f"{what}: {total} bytes came back with a wrong CRC32C")
    return body


def _parse(what: str, content_range: str) -> tuple[int, int]:
    found = _CONTENT_RANGE.fullmatch(content_range.strip())
    if found is None:
        raise BackendCorrupt(f"{what}: Content-Range is {content_range!r}")
    return int(found[1]), int(found[3])
