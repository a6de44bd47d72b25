"""A location in memory, for tests and demonstrations. Owns a dictionary; keeps nothing across a restart."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gsfs.backends.base import Capabilities, ObjectInfo, Source
from gsfs.backends.checksum import crc32c
from gsfs.backends.source import read_source
from gsfs.errors import BackendCorrupt, ObjectChanged, ObjectExists, ObjectNotFound

CAPABILITIES: Final = Capabilities(
    max_object_bytes=1 << 40,
    max_key_bytes=1024,
    copy_within=True,
    put_if_absent=True,
    native_crc32c=True,
)


class MemoryBackend:
    """Objects in a dictionary. Obeys the contract to the letter, so that it can stand in for a cloud."""

    def __init__(self) -> None:
        self.capabilities = CAPABILITIES
        # Guards both fields. Never held across anything that can block.
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._version = 0

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        data = read_source(source)
        if crc32c(data) != source.crc32c:
            raise BackendCorrupt(f"put {key}: the bytes that arrived fail their CRC32C")
        with self._lock:
            if if_absent and key in self._objects:
                raise ObjectExists(f"put {key}: there is an object already")
            return self._store(key, data, source.crc32c)

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        info, data = self._find(key)
        if if_match and info.etag != if_match:
            raise ObjectChanged(f"get {key}: is another object now")
        return data[offset : offset + length]

    def head(self, key: str) -> ObjectInfo:
        return self._find(key)[0]

    def delete_many(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)

    def list_page(self, prefix: str, start_after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        with self._lock:
            keys = sorted(self._objects)
            first = max(bisect_left(keys, prefix), bisect_right(keys, start_after))
            return [self._objects[key][0] for key in keys[first : first + limit] if key.startswith(prefix)]

    def copy(self, source_key: str, key: str) -> ObjectInfo:
        info, data = self._find(source_key)
        with self._lock:
            return self._store(key, data, info.crc32c or crc32c(data))

    def check(self) -> None:
        return None

    def close(self) -> None:
        with self._lock:
            self._objects.clear()

    def _find(self, key: str) -> tuple[ObjectInfo, bytes]:
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise ObjectNotFound(f"no object {key}")
        return found

    def _store(self, key: str, data: bytes, checksum: int) -> ObjectInfo:
        """Caller holds the lock. The version makes each etag differ, even for the same bytes."""
        self._version += 1
        info = ObjectInfo(key, len(data), f"{checksum:08x}-{self._version}", time.time_ns(), checksum)
        self._objects[key] = (info, data)
        return replace(info)
