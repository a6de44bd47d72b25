"""Fetching blocks of physical objects into the cache. Owns single-flight and the choice among replicas at
the time of asking; every byte is verified before anybody sees it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from functools import partial

import google_crc32c
import trio
from cachetools import LRUCache, TTLCache

from gsfs.backends.location import Location
from gsfs.data.cache import BLOCK, ObjectCache, ObjectFile, block_crc, crc_of_file, mask, write_fully
from gsfs.errors import BackendCorrupt, BackendError, InputOutput
from gsfs.model import LocationId, ObjectId
from gsfs.namespace.objects import ObjectTable, PhysicalObject, Replica
from gsfs.namespace.replicas import READABLE
from gsfs.transfer.accounts import pays
from gsfs.transfer.sources import Sources

log = logging.getLogger(__name__)

CRC_UNKNOWN = -1
"""In place of the checksum of an imported object that has not been read as a whole."""
FETCH_BLOCKS_MAX = 8
"""Blocks asked for in one ranged read."""
FAILED_S = 1.0
"""The kernel asks again at once, page by page, for what it could not read ahead: so long it gets the same answer."""

RankSources = Callable[[PhysicalObject, Sequence[Replica]], Sequence[Replica]]
"""The policy's order in which replicas are to be tried."""


class Downloads:
    """Blocks on their way into the cache."""

    def __init__(
        self,
        objects: ObjectTable,
        cache: ObjectCache,
        locations: dict[LocationId, Location],
        deadline_s: float,
        rank: RankSources,
        hedges_to: Callable[[LocationId], bool] = lambda _location: False,
    ) -> None:
        self._objects = objects
        self._cache = cache
        self._locations = locations
        self.deadline_s = deadline_s
        self._rank = rank
        self._flights: dict[tuple[ObjectId, int], trio.Event] = {}
        self._known: LRUCache[ObjectId, PhysicalObject] = LRUCache(4096)
        self._failed: TTLCache[ObjectId, str] = TTLCache(1024, FAILED_S, timer=trio.current_time)
        self.sources = Sources(hedges_to)
        self.fetched_bytes = 0
        self.on_learned: Callable[[], None] = lambda: None
        """Told when checksums of an imported object were written down."""
        self.on_read: Callable[[PhysicalObject, Sequence[Replica]], None] = lambda _object, _replicas: None
        """Told before bytes are asked of a location; may refuse by raising QuotaExceeded."""

    def describe(self, id_: ObjectId) -> PhysicalObject | None:
        """The object's row; sealed objects never change, so theirs are remembered (but for ``live``)."""
        known: PhysicalObject | None = self._known.get(id_)
        if known is None:
            known = self._objects.get(id_)
            if known is not None and known.block_crcs is not None:
                self._known[id_] = known
        return known

    async def fetch(
        self,
        object_: PhysicalObject,
        first: int,
        last: int,
        *,
        until: float = math.inf,
        patient: bool = True,
        is_read: bool = True,
    ) -> None:
        """Return when blocks first..last are in the cache. Raises InputOutput past the deadline.

        ``until`` on trio's clock, where it comes before the deadline; ``patient``: wait for locations that are down;
        ``is_read`` False: bytes that are moved on are nobody's read, and teach the policies nothing.
        """
        if patient and (told := self._failed.get(object_.id)):
            raise InputOutput(told)
        try:
            with trio.fail_at(min(until, trio.current_time() + self.deadline_s)):
                await self._fetch_all(object_, first, last, patient, is_read)
        except (trio.TooSlowError, BackendError) as error:
            late = f"not read from {self._where(object_)} within {self.deadline_s:g} s"
            told = f"object {object_.id}: " + (
                late if isinstance(error, trio.TooSlowError) else f"cannot be read: {error}"
            )
            if patient:
                self._failed[object_.id] = told
            raise InputOutput(told) from None

    def to_fetch(self, object_: PhysicalObject) -> tuple[int, int]:
        """(bytes, requests) that it takes to have the whole object in the cache, as ``fetch`` goes about it."""
        present = self._cache.blocks(object_.id)
        blocks, requests, run = 0, 0, 0
        last = (object_.size - 1) // BLOCK
        for block in range(last + 1):
            if present >> block & 1:
                run = 0
                continue
            requests += run == 0
            blocks += 1
            run = (run + 1) % FETCH_BLOCKS_MAX
        size = blocks * BLOCK
        if object_.size and not present >> last & 1:
            size -= (last + 1) * BLOCK - object_.size
        return size, requests

    async def _fetch_all(
        self, object_: PhysicalObject, first: int, last: int, patient: bool, is_read: bool
    ) -> None:
        block = first
        while block <= last:
            if self._has(object_.id, block):
                block += 1
                continue
            flight = self._flights.get((object_.id, block))
            if flight is not None:
                await flight.wait()
                if not self._has(object_.id, block):
                    await self._fly(object_, block, block, patient, is_read)
                continue
            end = block
            while end < last and end - block + 1 < FETCH_BLOCKS_MAX and self._missing(object_.id, end + 1):
                end += 1
            await self._fly(object_, block, end, patient, is_read)
            block = end + 1

    def _has(self, id_: ObjectId, block: int) -> bool:
        file = self._cache.get(id_)
        return file is not None and bool(file.present >> block & 1)

    def _missing(self, id_: ObjectId, block: int) -> bool:
        return not self._has(id_, block) and (id_, block) not in self._flights

    async def _fly(
        self, object_: PhysicalObject, first: int, last: int, patient: bool, is_read: bool
    ) -> None:
        """One ranged read of blocks that nobody else is fetching."""
        event = trio.Event()
        keys = [(object_.id, block) for block in range(first, last + 1)]
        for key in keys:
            self._flights.setdefault(key, event)
        try:
            with pays(object_.bucket):
                await self._read_verified(object_, first, last, patient, is_read)
        finally:
            for key in keys:
                if self._flights.get(key) is event:
                    del self._flights[key]
            event.set()

    async def _read_verified(
        self, object_: PhysicalObject, first: int, last: int, patient: bool, is_read: bool
    ) -> None:
        offset = first * BLOCK
        length = min((last + 1) * BLOCK, object_.size) - offset
        replicas = [
            r
            for r in self._objects.replicas(object_.id)
            if r.state in READABLE and r.location in self._locations
        ]
        if is_read:
            self.on_read(object_, replicas)
        if not replicas:
            raise InputOutput(f"object {object_.id}: cannot be read: no replica is readable from here")
        get = partial(self._get, object_, first, offset, length)
        data = await self.sources.read(self._rank(object_, replicas), get, patient=patient)
        await self._keep(object_.id, first, data)
        if object_.block_crcs is None:
            await self._learn(object_)

    async def _get(
        self, object_: PhysicalObject, first: int, offset: int, length: int,
        replica: Replica, deadline_s: float, patient: bool,
    ) -> bytes:  # fmt: skip
        """One ranged read; what fails its checksum is asked for again by the location's retries."""

        def verify(data: bytes) -> None:
            if len(data) != length:
                raise BackendCorrupt(
                    f"object {object_.id}: {len(data)} bytes came where {length} were asked for"
                )
            if object_.block_crcs is None:
                return
            for at in range(0, length, BLOCK):
                block = first + at // BLOCK
                if google_crc32c.value(data[at : at + BLOCK]) != block_crc(object_.block_crcs, block):
                    raise BackendCorrupt(f"object {object_.id}: block {block} fails its checksum")

        location = self._locations[replica.location]
        key = self._objects.key_of(object_, replica)
        # Others may write to keys that are not ours: all blocks must be of the version that was imported.
        same = (replica.etag or "") if replica.key is not None else ""
        return await location.get_range(
            key, offset, length, deadline_s=deadline_s, patient=patient, verify=verify, if_match=same
        )

    async def _learn(self, object_: PhysicalObject) -> None:
        """Write down the checksums of an imported object as soon as all of it is here."""
        file = self._cache.get(object_.id)
        whole = mask(0, (object_.size - 1) // BLOCK)
        if file is None or file.verified & whole != whole:
            return
        file.users += 1
        try:
            sums = await trio.to_thread.run_sync(crc_of_file, file.fd, object_.size)
        finally:
            file.users -= 1
        if sums is None:
            return
        if object_.crc32c not in (CRC_UNKNOWN, sums[0]):
            for block in range((object_.size - 1) // BLOCK + 1):
                self._cache.drop_block(file, block)
            raise BackendCorrupt(f"object {object_.id}: its bytes fail the checksum that its location keeps")
        self._objects.learn(object_.id, *sums)
        self.on_learned()

    async def _keep(self, id_: ObjectId, first: int, data: bytes) -> None:
        """Write verified blocks into the object's file. Raises OSError when the disk refuses."""
        cache = self._cache
        cache.make_room(len(data), look_at_disk=True)
        file = cache.get(id_) or cache.create(id_)
        file.users += 1
        try:
            await trio.to_thread.run_sync(write_fully, file.fd, data, first * BLOCK)
        finally:
            file.users -= 1
        cache.note_stored(file, first, len(data))
        self.fetched_bytes += len(data)

    def _where(self, object_: PhysicalObject) -> str:
        return ", ".join(r.location for r in self._objects.replicas(object_.id)) or "anywhere"

    async def verify(self, object_: PhysicalObject, first: int, last: int) -> bool:
        """Compare the checksums of blocks that an earlier run left; drops what fails. True when all are good."""
        file = self._cache.get(object_.id)
        wanted = mask(first, last)
        if file is not None and object_.block_crcs is None:
            self._drop_unproven(file, first, last)
        if file is None or file.present & wanted != wanted or object_.block_crcs is None:
            return file is not None and file.verified & wanted == wanted
        unknown = [block for block in range(first, last + 1) if not file.verified >> block & 1]
        file.users += 1
        try:
            bad = await trio.to_thread.run_sync(
                _bad_blocks, file.fd, object_.size, object_.block_crcs, unknown
            )
        finally:
            file.users -= 1
        for block in unknown:
            if block not in bad:
                file.verified |= 1 << block
            elif file.held:
                log.error("object %d: block %d of the only copy fails its checksum", object_.id, block)
            else:
                log.warning(
                    "object %d: cached block %d fails its checksum; fetching it again", object_.id, block
                )
                self._cache.drop_block(file, block)
        return not bad

    def _drop_unproven(self, file: ObjectFile, first: int, last: int) -> None:
        """Blocks that an earlier run left of an imported object, whose checksums nobody knows."""
        for block in range(first, last + 1):
            if file.present >> block & 1 and not file.verified >> block & 1:
                self._cache.drop_block(file, block)


def _bad_blocks(fd: int, size: int, block_crcs: bytes, blocks: Sequence[int]) -> set[int]:
    """Those of the blocks in the local file that fail their checksum. Runs in a thread."""
    bad = set()
    for block in blocks:
        length = min(BLOCK, size - block * BLOCK)
        data = os.pread(fd, length, block * BLOCK)
        if len(data) != length or google_crc32c.value(data) != block_crc(block_crcs, block):
            bad.add(block)
    return bad
