"""Replicas that policies want and no longer want: copies them to locations, lets them go. Owns no decision.

A copy goes through the cache and the upload lanes like any segment, so it is verified, resumed and counted
in the same way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio

from gsfs.data.cache import BLOCK, ObjectCache, ObjectFile
from gsfs.errors import GsfsError, InputOutput
from gsfs.model import LocationId, ObjectId, ObjectState, ReplicaState
from gsfs.namespace.objects import LastReplica
from gsfs.namespace.replicas import READABLE, Event
from gsfs.namespace.store import Store
from gsfs.policy.expiry import expired
from gsfs.transfer.accounts import pays
from gsfs.transfer.downloads import Downloads
from gsfs.transfer.garbage import Garbage
from gsfs.transfer.steward import Steward
from gsfs.transfer.uploads import CACHE_PREFIX, Uploads

log = logging.getLogger(__name__)

EXPIRY_TICK_S = 30.0
EXPIRY_BATCH = 500
WORKERS = 8
"""So many that some whose source or target hangs leave room for the others."""
QUEUE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A replica that is to be made; ``expires_ns`` None: for good."""

    object: ObjectId
    location: LocationId
    expires_ns: int | None


class Replication:
    """One for each mount."""

    def __init__(
        self,
        store: Store,
        cache: ObjectCache,
        downloads: Downloads,
        uploads: Uploads,
        garbage: Garbage,
        steward: Steward,
    ) -> None:
        self._store = store
        self._cache = cache
        self._downloads = downloads
        self._uploads = uploads
        self._garbage = garbage
        self._steward = steward
        self._send, self._receive = trio.open_memory_channel[Wanted](QUEUE_MAX)
        self._under_way: set[tuple[ObjectId, LocationId]] = set()
        self._handed_over = trio.Event()
        self.expired_replicas = 0
        self._expired_to = 0  # object up to which the present round of expiry has looked
        self.failed: dict[tuple[ObjectId, LocationId], str] = {}

    @property
    def waiting(self) -> int:
        """Replicas that are wanted and not yet handed to an upload."""
        return len(self._under_way)

    def request(self, wanted: Wanted) -> bool:
        """Ask for a replica; False when too many are waiting (the next read asks again), or the location is being left."""
        key = (wanted.object, wanted.location)
        if wanted.expires_ns is not None and wanted.location in self._store.locations.draining():
            return False
        if key in self._under_way:
            return True
        try:
            self._send.send_nowait(wanted)
        except trio.WouldBlock:
            return False
        self._under_way.add(key)
        return True

    async def run(self) -> None:
        """Copy and expire until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(self._work)
            nursery.start_soon(self._expire_now_and_then)

    async def _work(self) -> None:
        async for wanted in self._receive:
            key = (wanted.object, wanted.location)
            try:
                await self.copy(wanted)
                self.failed.pop(key, None)
            except (GsfsError, OSError) as error:
                self.failed[key] = str(error)
                log.warning("replica of object %d at %s: %s", wanted.object, wanted.location, error)
            finally:
                self._under_way.discard(key)
                self._handed_over.set()
                self._handed_over = trio.Event()

    async def copy(self, wanted: Wanted) -> None:
        """Bring the whole object into the cache, and let it be uploaded. Raises InputOutput."""
        objects = self._store.objects
        object_ = objects.get(wanted.object)
        if object_ is None or object_.state is not ObjectState.SEALED:
            return
        present = objects.replica(wanted.object, wanted.location)
        if present is not None and present.state is ReplicaState.TOMBSTONE:
            await self._garbage.collect()  # an earlier copy of it is on its way out
            present = objects.replica(wanted.object, wanted.location)
        if present is not None:
            if present.state is ReplicaState.TOMBSTONE:
                raise InputOutput(f"object {wanted.object}: an earlier copy is not deleted there yet")
            self._extend(wanted, present.state)
            return
        file = self._cache.get(wanted.object) or self._cache.create(wanted.object)
        file.users += 1  # what is fetched first must still be there when the last comes
        try:
            with pays(object_.bucket):
                last = (object_.size - 1) // BLOCK
                if not await self._downloads.verify(object_, 0, last):
                    await self._downloads.fetch(object_, 0, last, patient=False, is_read=False)
            self._hand_over(wanted, file, object_.size)
        finally:
            file.users -= 1
            if not file.bytes and not file.users and self._cache.get(wanted.object) is file:
                self._cache.remove(wanted.object)

    def _hand_over(self, wanted: Wanted, file: ObjectFile, size_bytes: int) -> None:
        """All of it is here: let it be uploaded."""
        objects = self._store.objects
        now = objects.get(wanted.object)
        if now is None or objects.replica(wanted.object, wanted.location):
            return
        if now.block_crcs is None or self._cache.get(wanted.object) is not file:
            raise InputOutput(f"object {wanted.object}: did not stay in the cache as a whole")
        file.held = True  # until the upload has settled
        objects.add_replica(wanted.object, wanted.location, ReplicaState.INTENT, expires_ns=wanted.expires_ns)
        self._uploads.queue(wanted.object, size_bytes, wanted.location)
        self._store.changed()

    def _extend(self, wanted: Wanted, state: ReplicaState) -> None:
        """It is there already: the later expiry holds."""
        if state is ReplicaState.EXPIRING:
            self._store.objects.advance(wanted.object, wanted.location, Event.RENEW)
        self._store.objects.set_expiry(wanted.object, wanted.location, wanted.expires_ns)
        self._store.changed()

    def renew(self, object_: ObjectId, location: LocationId, expires_s: float) -> None:
        """A read prolongs a replica that is there; a permanent one needs it not."""
        replica = self._store.objects.replica(object_, location)
        if replica is not None and replica.expires_ns is not None and replica.state in READABLE:
            self._extend(Wanted(object_, location, int(expires_s * 1e9)), replica.state)

    # --- letting go

    async def _expire_now_and_then(self) -> None:
        while True:
            await trio.sleep(EXPIRY_TICK_S)
            self.expire(self._steward.clock())

    def expire(self, now_s: float) -> int:
        """Let go of replicas past their time, a batch at each call; how many.

        What is past its time and stays all the same (pinned, below a minimum age, the last one) stands in nobody's
        way: the next call goes on behind it, and begins anew at the end.
        """
        prices = self._steward.prices
        if prices is None:
            return 0
        count = 0
        due = self._store.objects.due(int(now_s * 1e9), self._expired_to, EXPIRY_BATCH)
        self._expired_to = due[-1] if len(due) == EXPIRY_BATCH else 0
        for id_ in due:
            for fact in expired(self._steward.facts(self._store.objects.replicas(id_)), now_s, prices):
                count += self.drop(id_, LocationId(fact.region))
        self.expired_replicas += count
        return count

    def drop(self, object_: ObjectId, location: LocationId) -> bool:
        """Let one replica go; False where it is the last one at any location, or its bytes are moving."""
        objects = self._store.objects
        replica = objects.replica(object_, location)
        if replica is None or self._uploads.busy(object_):
            return False
        others = [r for r in objects.replicas(object_) if r.location != location and r.state in READABLE]
        row = objects.get(object_)
        if row is not None and row.live and all(r.location.startswith(CACHE_PREFIX) for r in others):
            return False  # this machine's disk alone would not keep what the bucket promises
        try:
            if replica.state is ReplicaState.AVAILABLE:
                objects.advance(object_, location, Event.EXPIRE)
            objects.advance(object_, location, Event.DROP)
        except LastReplica:
            if replica.state is ReplicaState.AVAILABLE:
                objects.advance(object_, location, Event.RENEW)
            return False
        if replica.state is ReplicaState.INTENT:
            objects.advance(object_, location, Event.REMOVED)
        self._garbage.tombstones_left()
        self._store.changed()
        return True

    async def settle(self, wanted: list[Wanted]) -> list[Wanted]:
        """Make these replicas and wait until they are there; those that could not be made."""
        keys = {(item.object, item.location) for item in wanted}
        for item in wanted:
            while not self.request(item):
                await self._handed_over.wait()
        while keys & self._under_way:
            await self._handed_over.wait()
        await self._uploads.drained({item.object for item in wanted})
        return [item for item in wanted if not self.is_there(item)]

    def is_there(self, item: Wanted) -> bool:
        """Whether the replica can be read; also where nobody needs it any more."""
        replica = self._store.objects.replica(item.object, item.location)
        gone = self._store.objects.get(item.object) is None
        return gone or (replica is not None and replica.state in READABLE)
