"""CRC32C in C, over bytes and over files. Owns the text form of a checksum; never touches a location."""

from __future__ import annotations

import base64
import os
from typing import Final

import google_crc32c

METADATA_KEY: Final = "gsfs_crc32c"
"""Name of the metadata entry that carries the CRC32C where a provider keeps none of its own. An underscore,
because Azure takes only names that are C# identifiers."""

CHUNK_BYTES: Final = 1 << 20
"""How much of a file is in memory at once; the checksum releases the GIL for each chunk."""


def crc32c(data: bytes, before: int = 0) -> int:
    """CRC32C (Castagnoli) of ``data``, continuing from ``before``."""
    return int(google_crc32c.extend(before, data))


def crc32c_of_file(descriptor: int, offset: int, size_bytes: int) -> tuple[int, int]:
    """CRC32C of a run of a file, and how many bytes there really were."""
    value, done = 0, 0
    while done < size_bytes:
        chunk = os.pread(descriptor, min(CHUNK_BYTES, size_bytes - done), offset + done)
        if not chunk:
            break
        value = crc32c(chunk, value)
        done += len(chunk)
    return value, done


def to_base64(value: int) -> str:
    """The form that S3 and Google Cloud Storage use: big-endian, base64."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def from_base64(text: str | None) -> int | None:
    """Back from ``to_base64``; None for nothing and for what is no CRC32C of a whole object."""
    if not text:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return int.from_bytes(raw, "big") if len(raw) == 4 else None


def to_hex(value: int) -> str:
    """The form kept in metadata: eight hexadecimal digits."""
    return f"{value:08x}"


def from_hex(text: str | None) -> int | None:
    """Back from ``to_hex``; None for anything else, because metadata can be edited by others."""
    if text is None or len(text) != 8:
        return None
    try:
        return int(text, 16)
    except ValueError:
        return None
