"""The contract of a location's backend, mostly prose. Owns the types that cross it; implements nothing.

A backend is *synchronous and blocking*: it is called in a worker thread by ``backends.location.Location``,
the asynchronous face that everything else uses. A backend never retries, never sleeps and never logs a
secret: retries, limits, the circuit breaker, time-outs and measuring are wrappers' work, once for all.
Every backend passes ``tests/backends/test_contract.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileSource:
    """Bytes to upload: ``size_bytes`` of the file at ``path`` from ``offset``; each attempt reads afresh."""

    path: Path
    size_bytes: int
    crc32c: int
    """CRC32C (Castagnoli) of exactly these bytes; verified at the destination."""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Bytes to upload, held in memory."""

    data: bytes
    crc32c: int

    @property
    def size_bytes(self) -> int:
        return len(self.data)


Source = FileSource | BytesSource


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a location says about one object."""

    key: str
    size_bytes: int
    etag: str
    """The provider's version tag, quotes stripped; changes whenever the bytes do."""
    mtime_ns: int
    """When it was stored, nanoseconds since the epoch, as coarse as the provider's clock; 0 where the answer
    to a put does not say."""
    crc32c: int | None = None
    """CRC32C as stored by the provider or in the object's metadata; None when it knows none."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do natively; callers fall back where it cannot."""

    max_object_bytes: int
    max_key_bytes: int
    copy_within: bool
    """``copy`` moves no bytes through this machine."""
    put_if_absent: bool
    """``if_absent`` is atomic at the provider."""
    native_crc32c: bool
    """The provider itself verifies CRC32C on put."""
    storage_classes: tuple[str, ...] = ()
    delete_batch: int = 1000
    """Keys per delete request."""


class Backend(Protocol):
    """One bucket, container or directory. Keys are opaque UTF-8 strings, ``/`` groups them.

    Errors are those of ``gsfs.errors`` under ``BackendError``; nothing else may escape. Every method may
    raise BackendPermission, Throttled, Unavailable and Misconfigured besides what it names.
    """

    capabilities: Capabilities

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        """Store the whole object, atomically: a reader sees all of it or none.

        The size and CRC32C are verified at the destination before this returns (by the provider where it
        can, else by what it reports back). When it returns, the object is durable and listed.

        Raises ObjectExists (``if_absent`` and the key is taken; nothing changed) and BackendCorrupt (what
        arrived differs; the object must be taken as not stored).
        """

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        """Bytes ``[offset, offset+length)``, shorter only where the object ends; b"" at or past its end.

        With ``if_match`` only of the object that has this etag: else ObjectExists (412) or ObjectChanged.

        A body that breaks off or is longer than asked for is Unavailable or BackendCorrupt, never a short
        answer. Raises ObjectNotFound.
        """

    def head(self, key: str) -> ObjectInfo:
        """Facts without the bytes. Raises ObjectNotFound."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove the objects; a key that is not there is no error. Any number of keys."""

    def list_page(self, prefix: str, start_after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """At most ``limit`` objects whose key begins with ``prefix`` and comes after ``start_after``.

        Fewer than ``limit`` only at the end, so that a short page saves the request that would prove it.
        The order is the provider's own but total and stable. (Keys of one listing are compared with
        ``start_after`` in the provider's order.)
        """

    def copy(self, source_key: str, key: str) -> ObjectInfo:
        """Copy within the location. Raises ObjectNotFound; callers look at ``capabilities.copy_within``."""

    def check(self) -> None:
        """One cheap request that proves that the bucket exists and answers to these credentials."""

    def close(self) -> None:
        """Give back connections. No call follows."""


def list_all(backend: Backend, prefix: str, limit: int = 1000) -> Iterator[ObjectInfo]:
    """Every object under ``prefix``, page by page: one request for each ``limit`` objects."""
    last, page = "", backend.list_page(prefix, "", limit)
    while page:
        yield from page
        last = page[-1].key
        page = backend.list_page(prefix, last, limit) if len(page) >= limit else ()
