"""Proof that a location does what gsfs needs: every operation of the contract, once, and how fast. Owns the order."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import google_crc32c

from gsfs.backends.base import BytesSource, ObjectInfo
from gsfs.backends.location import Location
from gsfs.errors import BackendError, ObjectExists, ObjectNotFound
from gsfs.model import MIB

LARGE_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class Proof:
    """One operation."""

    operation: str
    ok: bool
    seconds: float
    detail: str
    """Throughput, or what went wrong."""


async def prove(location: Location) -> AsyncIterator[Proof]:
    """Try everything under a key of its own, and remove it; stops at the first thing that fails."""
    key = f"gsfs-test/{uuid.uuid4().hex}"
    small, large = _source(4096), _source(LARGE_BYTES)
    steps: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("connect", lambda: _none(location.check())),
        ("put 4 KiB", lambda: _none(location.put(key, small))),
        ("head", lambda: _head(location, key, small)),
        ("put if absent is refused", lambda: _refused(location, key, small)),
        ("get range", lambda: _range(location, key, small)),
        ("put 8 MiB", lambda: _timed(location.put(key + "-large", large))),
        ("get 8 MiB", lambda: _get(location, key + "-large", large)),
        ("list", lambda: _listed(location, key)),
        ("copy", lambda: _copied(location, key)),
        ("delete", lambda: _deleted(location, [key, key + "-large", key + "-copy"])),
    ]
    for name, step in steps:
        start = time.perf_counter()
        try:
            detail = await step()
        except BackendError as error:
            yield Proof(name, False, time.perf_counter() - start, str(error))
            return
        yield Proof(name, True, time.perf_counter() - start, detail)


def _source(size_bytes: int) -> BytesSource:
    data = os.urandom(size_bytes)
    return BytesSource(data, google_crc32c.value(data))


async def _none(call: Awaitable[object]) -> str:
    await call
    return ""


async def _timed(call: Awaitable[object]) -> str:
    start = time.perf_counter()
    await call
    return f"{LARGE_BYTES / MIB / (time.perf_counter() - start):.1f} MiB/s"


async def _head(location: Location, key: str, source: BytesSource) -> str:
    info: ObjectInfo = await location.head(key)
    if info.size_bytes != source.size_bytes:
        raise BackendError(
            f"{location.id}: head {key}: {info.size_bytes} bytes, {source.size_bytes} were put"
        )
    return "" if info.crc32c is not None else "keeps no CRC32C: gsfs compares what it reads"


async def _refused(location: Location, key: str, source: BytesSource) -> str:
    if not location.capabilities.put_if_absent:
        return "not atomic here"
    try:
        await location.put(key, source, if_absent=True)
    except ObjectExists:
        return ""
    raise BackendError(f"{location.id}: put if absent overwrote an object")


async def _range(location: Location, key: str, source: BytesSource) -> str:
    if await location.get_range(key, 1000, 100) != source.data[1000:1100]:
        raise BackendError(f"{location.id}: get range {key}: other bytes came back")
    return ""


async def _get(location: Location, key: str, source: BytesSource) -> str:
    start = time.perf_counter()
    if await location.get_range(key, 0, source.size_bytes) != source.data:
        raise BackendError(f"{location.id}: get {key}: other bytes came back")
    return f"{LARGE_BYTES / MIB / (time.perf_counter() - start):.1f} MiB/s"


async def _listed(location: Location, key: str) -> str:
    keys = [info.key async for info in location.list(key)]
    if sorted(keys) != [key, key + "-large"]:
        raise BackendError(f"{location.id}: list {key}: {len(keys)} objects came where two were put")
    return ""


async def _copied(location: Location, key: str) -> str:
    if not location.capabilities.copy_within:
        return "not offered; gsfs copies through this machine"
    await location.copy(key, key + "-copy")
    return ""


async def _deleted(location: Location, keys: list[str]) -> str:
    await location.delete_many(keys)
    try:
        await location.head(keys[0])
    except ObjectNotFound:
        return ""
    raise BackendError(f"{location.id}: delete {keys[0]}: it is still there")
