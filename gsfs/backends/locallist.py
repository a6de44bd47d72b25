"""Listing a local location in key order. Owns the walk; never opens a file and never follows symlinks."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gsfs.backends import localpath

Entry = tuple[bytes, bytes, bool]
"""``(component, path, is_directory)``."""


def list_keys(root: bytes, prefix: str, start_after: str) -> Iterator[tuple[str, bytes]]:
    """Keys and paths of the objects with ``prefix`` that come after ``start_after``, in UTF-8 byte order."""
    return _walk(root, b"", os.fsencode(prefix), os.fsencode(start_after))


def _walk(directory: bytes, above: bytes, prefix: bytes, after: bytes) -> Iterator[tuple[str, bytes]]:
    """``above`` is the key of the directory with its slash, empty for the root."""
    found = [
        (above + component + (b"/" if is_directory else b""), path, is_directory)
        for component, path, is_directory in _entries(directory, b"")
        if above or os.path.basename(path) != localpath.TEMPORARY
    ]
    for key, path, is_directory in sorted(found):
        if is_directory:
            if _may_hold(key, prefix, after):
                yield from _walk(path, key, prefix, after)
        elif key > after and key.startswith(prefix):
            yield os.fsdecode(key), path


def _may_hold(directory_key: bytes, prefix: bytes, after: bytes) -> bool:
    """Whether some key below the directory can match; spares reading whole subtrees."""
    matches = directory_key.startswith(prefix) or prefix.startswith(directory_key)
    return matches and (directory_key > after or after.startswith(directory_key))


def _entries(directory: bytes, carried: bytes) -> Iterator[Entry]:
    """What the directory holds, with names that were cut into parts put together again."""
    try:
        scan = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):  # pruned meanwhile
        return
    with scan:
        for entry in scan:
            component, gathered = localpath.decode(entry.name, carried)
            is_directory = entry.is_dir(follow_symlinks=False)
            if entry.name.startswith(localpath.CONTINUED):
                if is_directory:
                    yield from _entries(entry.path, gathered)
            elif is_directory or entry.is_file(follow_symlinks=False):
                yield component, entry.path, is_directory
