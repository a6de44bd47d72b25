"""A backend that fails as it is told, around any other. Owns the script of failures; no clock, no network."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from gsfs.backends.base import Backend, ObjectInfo, Source
from gsfs.errors import BackendError, Unavailable

OPERATIONS: Final = ("put", "get", "head", "delete", "list", "copy", "check")


class FlakyBackend:
    """Passes calls on, except those that the script spoils.

    ``fail("put", error, ...)``: the next puts raise these errors instead of being carried out.
    ``fail_after("put", error, ...)``: they are carried out, and then raise: the bytes landed.
    ``down = True``: everything is Unavailable until it is False again.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.capabilities = inner.capabilities
        self.down = False
        self.calls: list[tuple[str, str]] = []
        """Every call: the operation and its key, in order."""
        self._lock = threading.Lock()
        self._before: dict[str, list[BackendError]] = {name: [] for name in OPERATIONS}
        self._after: dict[str, list[BackendError]] = {name: [] for name in OPERATIONS}

    def fail(self, operation: str, *errors: BackendError) -> None:
        with self._lock:
            self._before[operation] += errors

    def fail_after(self, operation: str, *errors: BackendError) -> None:
        with self._lock:
            self._after[operation] += errors

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        self._enter("put", key)
        info = self._inner.put(key, source, if_absent=if_absent)
        self._leave("put")
        return info

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        self._enter("get", key)
        data = self._inner.get_range(key, offset, length, if_match=if_match)
        self._leave("get")
        return data

    def head(self, key: str) -> ObjectInfo:
        self._enter("head", key)
        info = self._inner.head(key)
        self._leave("head")
        return info

    def delete_many(self, keys: Sequence[str]) -> None:
        self._enter("delete", keys[0] if keys else "")
        self._inner.delete_many(keys)
        self._leave("delete")

    def list_page(self, prefix: str, start_after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        self._enter("list", prefix)
        page = self._inner.list_page(prefix, start_after, limit)
        self._leave("list")
        return page

    def copy(self, source_key: str, key: str) -> ObjectInfo:
        self._enter("copy", key)
        info = self._inner.copy(source_key, key)
        self._leave("copy")
        return info

    def check(self) -> None:
        self._enter("check", "")
        self._inner.check()
        self._leave("check")

    def close(self) -> None:
        self._inner.close()

    def _enter(self, operation: str, key: str) -> None:
        with self._lock:
            self.calls.append((operation, key))
            if self.down:
                raise Unavailable(f"{operation} {key}: down, as the test asked")
            if self._before[operation]:
                raise self._before[operation].pop(0)

    def _leave(self, operation: str) -> None:
        with self._lock:
            if self._after[operation]:
                raise self._after[operation].pop(0)
