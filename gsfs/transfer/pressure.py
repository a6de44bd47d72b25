"""Back-pressure: writers are let in while the cache has room, slowed when it fills, refused at last.

Owns the decision only. Nothing that is not at a location yet is ever dropped to make room.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from gsfs.data.cache import ObjectCache
from gsfs.errors import NoSpace
from gsfs.model import MIB, Ino

DISK_LOOK_BYTES = 32 * MIB
"""How much may be written between two looks at the disk's free space."""
SLOW_FROM = 0.8
"""Share of the cache that may be held by bytes under way before writers are slowed."""
LOOK_S = 0.5
"""What has arrived becomes evictable a little later, once a power cut cannot undo the row that says so."""
HOPELESS_S = 5.0
"""A writer waits no longer while nothing is under way to a location: then no upload will make room."""
BUCKET_SHARE = 0.9
"""Share of the cache that one bucket's bytes under way may hold: when its home is down, the others still find room."""


class Pressure:
    """One for each mount."""

    def __init__(self, cache: ObjectCache, held_bytes: Callable[[], int], wait_s: float) -> None:
        self._cache = cache
        self._held_bytes = held_bytes
        self._wait_s = wait_s
        self._until_look = 0
        self._progress = trio.Event()
        self.hurry: Callable[[], None] = lambda: None
        """Called when room is needed: seal and upload what can be."""
        self.waiting = 0
        self.held_by: Callable[[Ino], int] = lambda _bucket: 0
        """Those of the held bytes that are a bucket's."""
        self.troubled: Callable[[Ino], bool] = lambda _bucket: False
        """Whether a bucket's home is down, so that what is written to it stays here."""

    def admits(self, length: int) -> bool:
        """Whether ``length`` bytes can be written at once."""
        cache = self._cache
        self._until_look -= length
        if self._until_look < 0:
            return False
        return cache.used_bytes + length <= cache.capacity_bytes * SLOW_FROM

    def progressed(self) -> None:
        """Bytes became evictable, or were given back."""
        self._progress.set()
        self._progress = trio.Event()

    async def wait(self, length: int, bucket: Ino) -> None:
        """Return when ``length`` bytes fit. Raises NoSpace when nothing has moved for ``wait_s``, or is to move."""
        deadline = trio.current_time() + self._wait_s
        hopeless_at = trio.current_time() + HOPELESS_S
        self.waiting += 1
        try:
            while not self._room(length, bucket):
                self.hurry()
                progress, now = self._progress, trio.current_time()
                if self._held_bytes():
                    hopeless_at = now + HOPELESS_S
                if now >= deadline:
                    raise NoSpace("the cache is full of bytes that are not at a location yet")
                if now >= hopeless_at:
                    raise NoSpace("the cache's disk is full, and nothing of it waits for upload")
                with trio.move_on_at(min(deadline, hopeless_at, now + LOOK_S)):
                    await progress.wait()
                if progress.is_set() and not self.troubled(bucket):
                    deadline = trio.current_time() + self._wait_s
            await self._slow_down(length)
        finally:
            self.waiting -= 1

    def _room(self, length: int, bucket: Ino) -> bool:
        cache = self._cache
        most = cache.capacity_bytes * BUCKET_SHARE
        if self._held_bytes() + length > most and self.held_by(bucket) + length > most:
            return False
        look = self._until_look < 0
        if not cache.make_room(length, look_at_disk=look):
            return False
        if look:
            self._until_look = min(DISK_LOOK_BYTES, max(cache.free_bytes() - cache.min_free_bytes, MIB))
        return True

    async def _slow_down(self, length: int) -> None:
        """Pace writers between the mark and full, so that they meet the uploads' speed gently."""
        capacity = self._cache.capacity_bytes
        over = self._held_bytes() - capacity * SLOW_FROM
        if over > 0:
            self.hurry()
            share = min(over / (capacity * (1 - SLOW_FROM)), 1.0)
            await trio.sleep(share * length / MIB * 0.02)
