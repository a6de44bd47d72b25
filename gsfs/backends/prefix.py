"""A backend seen through a key prefix, so that many can share one bucket. Owns the mapping only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gsfs.backends.base import Backend, ObjectInfo, Source


class PrefixedBackend:
    """Every key gets ``prefix`` in front on the way in and loses it on the way out."""

    def __init__(self, inner: Backend, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix
        room = inner.capabilities.max_key_bytes - len(prefix.encode())
        self.capabilities = replace(inner.capabilities, max_key_bytes=room)

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        return self._bare(self._inner.put(self._prefix + key, source, if_absent=if_absent))

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        return self._inner.get_range(self._prefix + key, offset, length, if_match=if_match)

    def head(self, key: str) -> ObjectInfo:
        return self._bare(self._inner.head(self._prefix + key))

    def delete_many(self, keys: Sequence[str]) -> None:
        self._inner.delete_many([self._prefix + key for key in keys])

    def list_page(self, prefix: str, start_after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        after = self._prefix + start_after if start_after else ""
        page = self._inner.list_page(self._prefix + prefix, after, limit)
        return [self._bare(info) for info in page]

    def copy(self, source_key: str, key: str) -> ObjectInfo:
        return self._bare(self._inner.copy(self._prefix + source_key, self._prefix + key))

    def check(self) -> None:
        self._inner.check()

    def close(self) -> None:
        self._inner.close()

    def _bare(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, key=info.key.removeprefix(self._prefix))
