"""Keys of a local location as paths, both ways. Owns the escaping; never touches the disk.

A component that is a sensible file name stays as it is, so that a directory that was there before can be
adopted and an exported one reads naturally. Any other component (empty, ``.``, ``..``, with NUL, longer than
255 bytes, beginning with ``.gsfs``) is escaped: percent-encoded, cut into parts, each part but the last a
directory ``.gsfs+PART``, the last ``.gsfs~PART`` for a directory and ``.gsfs=PART`` for an object. Because
the two differ, and a plain object that is in the way of a directory moves to its escaped name, the keys
``a`` and ``a/b`` live side by side.
"""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import unquote_to_bytes

RESERVED: Final = b".gsfs"
TEMPORARY: Final = b".gsfs-tmp"
"""Directory in the root for files that are being written; never listed."""
CONTINUED: Final = b".gsfs+"
DIRECTORY: Final = b".gsfs~"
OBJECT: Final = b".gsfs="

NAME_BYTES: Final = 255
PART_BYTES: Final = 240


def directory_of(key: str) -> tuple[bytes, ...]:
    """Path components of the directory that holds the object, from the root of the location."""
    found: list[bytes] = []
    for component in os.fsencode(key).split(b"/")[:-1]:
        found += (component,) if is_plain(component) else _escaped(component, DIRECTORY)
    return tuple(found)


def plain_name(key: str) -> bytes | None:
    """The object's own file name where it can have one, else None."""
    name = os.fsencode(key).rpartition(b"/")[2]
    return name if is_plain(name) else None


def escaped_names(key: str) -> tuple[bytes, ...]:
    """Components below ``directory_of`` under which the object can always be kept."""
    return _escaped(os.fsencode(key).rpartition(b"/")[2], OBJECT)


def is_plain(component: bytes) -> bool:
    """Whether the component can be a file name as it is."""
    odd = component in (b"", b".", b"..") or b"\0" in component or component.startswith(RESERVED)
    return not odd and len(component) <= NAME_BYTES


def decode(name: bytes, carried: bytes) -> tuple[bytes, bytes]:
    """Read one name on the way down: ``(component, carried)``.

    ``carried`` is what the ``.gsfs+`` directories above have gathered; below such a name it goes on.
    """
    if name.startswith(CONTINUED):
        return b"", carried + name[len(CONTINUED) :]
    for mark in (DIRECTORY, OBJECT):
        if name.startswith(mark):
            return unquote_to_bytes(carried + name[len(mark) :]), b""
    return name, b""


def _escaped(component: bytes, mark: bytes) -> tuple[bytes, ...]:
    quoted = component.replace(b"%", b"%25").replace(b"\0", b"%00")
    last = max(0, (len(quoted) - 1) // PART_BYTES) * PART_BYTES
    parts = [CONTINUED + quoted[at : at + PART_BYTES] for at in range(0, last, PART_BYTES)]
    return (*parts, mark + quoted[last:])
