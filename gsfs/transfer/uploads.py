"""Uploads: every sealed segment goes to its bucket's locations, in parallel, oldest first, until it is there.

Intent, transfer, verify, commit. The intent rows are written in the same transaction that seals the
segment; bytes move only once that is durable, so that after any crash each row says what to look at.
Nothing is given up: a location that fails is tried again, and its trouble slows no other location.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable
from functools import partial

import trio

from gsfs import failpoints
from gsfs.backends.base import FileSource
from gsfs.backends.location import Location
from gsfs.data.cache import ObjectCache, crc_of_file
from gsfs.errors import BackendError, GsfsError, ObjectNotFound
from gsfs.model import Ino, LocationId, ObjectId, ObjectState, ReplicaState
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.replicas import READABLE, Event
from gsfs.namespace.store import Store
from gsfs.transfer.accounts import pays
from gsfs.transfer.committer import Committer

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0
CACHE_PREFIX = "cache:"


class Lane:
    """What waits for one location, oldest first."""

    def __init__(self, location: LocationId) -> None:
        self.location = location
        self.waiting: list[ObjectId] = []
        self.more = trio.Event()
        self.moving: set[ObjectId] = set()
        self.pause_s = 0.0

    def push(self, id_: ObjectId) -> None:
        heapq.heappush(self.waiting, id_)
        self.more.set()


class Uploads:
    """One for each mount."""

    def __init__(
        self,
        store: Store,
        cache: ObjectCache,
        committer: Committer,
        locations: dict[LocationId, Location],
        cache_location: LocationId,
        *,
        held: bool = False,
    ) -> None:
        self._store = store
        self._cache = cache
        self._committer = committer
        self._locations = locations
        self._cache_location = cache_location
        self._lanes = {id_: Lane(id_) for id_ in locations}
        self._gate = trio.Event()  # open: uploads go on
        if not held:
            self._gate.set()
        self._held = held
        self._start_lane: Callable[[Lane], None] = lambda _lane: None
        self._arrived = trio.Event()
        self._fresh: dict[ObjectId, int] = {}  # arrived, but a power cut may still undo the row that says so
        self.damaged: frozenset[ObjectId] = frozenset()
        """Objects whose only copy fails its checksum: the start has said so."""
        self.pending: dict[ObjectId, int] = {}
        """Sealed objects that are not at their locations yet, and their sizes."""
        self.pending_bytes = 0
        self.uploaded_bytes = 0
        self.uploaded_objects = 0
        self.on_progress: Callable[[], None] = lambda: None
        self.targets: Callable[[Ino], Iterable[LocationId]] = lambda _bucket: ()
        """The locations at which a bucket's new objects are placed; the policy's word."""

    # --- what is to be uploaded

    def add(self, id_: ObjectId, bucket: Ino, size: int) -> None:
        """A segment was sealed: write its intents. Runs within the operation that sealed it."""
        for location in self.targets(bucket):
            self._store.objects.add_replica(id_, location, ReplicaState.INTENT)
            self.queue(id_, size, location)

    def queue(self, id_: ObjectId, size: int, location: LocationId) -> None:
        """Its intent for the location is written: upload it."""
        if id_ not in self.pending:
            self.pending[id_] = size
            self.pending_bytes += size
        lane = self._lanes.get(location)
        if lane is not None:
            lane.push(id_)

    def recover(self) -> None:
        """After a start: look at every transfer that was under way, and queue what is not there yet.

        A segment that was sealed by a start which did not live to write its intents gets them now.
        An intent may have been acted on by a process that a power cut took back: it counts as under way.
        """
        for replica in self._store.objects.in_state(ReplicaState.INTENT, most=10**9):
            self._store.objects.advance(replica.object, replica.location, Event.START)
            self._store.changed()
        for replica in self._store.objects.in_state(ReplicaState.TRANSFERRING, most=10**9):
            object_ = self._store.objects.get(replica.object)
            if object_ is not None:
                self._hold(object_.id)
                self.queue(object_.id, object_.size, replica.location)

        for object_ in self._store.objects.local_only():
            if object_.state is ObjectState.SEALED and object_.live and object_.id not in self.pending:
                self.add(object_.id, object_.bucket, object_.size)
                self._store.changed()

    def _hold(self, id_: ObjectId) -> None:
        file = self._cache.get(id_)
        if file is not None:
            file.held = True

    # --- moving

    async def run(self, workers_per_location: int) -> None:
        """Upload until cancelled."""
        async with trio.open_nursery() as nursery:
            self._start_lane = partial(self._start_workers, nursery, workers_per_location)
            for lane in self._lanes.values():
                self._start_lane(lane)
            await trio.sleep_forever()

    def _start_workers(self, nursery: trio.Nursery, workers: int, lane: Lane) -> None:
        for _ in range(workers):
            nursery.start_soon(self._work, lane)

    def add_lane(self, location: LocationId) -> None:
        """A location came while uploads run."""
        lane = self._lanes[location] = Lane(location)
        self._start_lane(lane)

    async def _work(self, lane: Lane) -> None:
        while True:
            await self._gate.wait()
            if not lane.waiting:
                lane.more = trio.Event()
                await lane.more.wait()
                continue
            id_ = heapq.heappop(lane.waiting)
            lane.moving.add(id_)
            try:
                with pays(self._payer(id_)):
                    done = await self._upload(id_, lane)
            except OSError as error:  # the local disk; the object stays where it is
                log.error("upload of object %d: %s", id_, error)
                done = False
            except GsfsError:
                raise
            except Exception:  # whatever it was, the object still has to get there
                log.exception("upload of object %d failed", id_)
                done = False
            finally:
                lane.moving.discard(id_)
            if not done:
                lane.push(id_)
                lane.pause_s = min(max(lane.pause_s * 2, RETRY_FIRST_S), RETRY_MAX_S)
                await trio.sleep(lane.pause_s)
            else:
                lane.pause_s = 0.0

    def _payer(self, id_: ObjectId) -> int:
        object_ = self._store.objects.get(id_)
        return object_.bucket if object_ is not None else 0

    async def _upload(self, id_: ObjectId, lane: Lane) -> bool:
        """One object to one location; False: try again later."""
        failpoints.hit("upload.before-intent")
        await self._committer.durable()
        failpoints.hit("upload.after-intent")
        object_ = self._store.objects.get(id_)
        replica = self._store.objects.replica(id_, lane.location)
        if (
            object_ is None
            or replica is None
            or replica.state not in (ReplicaState.INTENT, ReplicaState.TRANSFERRING)
        ):
            self._settled(id_)
            return True
        location = self._locations[lane.location]
        key = self._store.objects.key_of(object_, replica)
        try:
            etag = None
            if replica.state is ReplicaState.TRANSFERRING:
                etag = await self._found(location, key, object_)
            else:
                self._store.objects.advance(id_, lane.location, Event.START)
                self._store.changed()
            if etag is None and id_ in self.damaged:
                log.error(
                    "object %d is not at %s and its local copy is damaged: nothing can be uploaded",
                    id_,
                    lane.location,
                )
                self.forget(id_)
                return True
            if etag is None:
                etag = await self._put(location, key, object_)
        except BackendError as error:
            log.warning("upload of object %d to %s: %s", id_, lane.location, error)
            return False
        self._arrive(id_, lane.location, etag)
        return True

    async def _found(self, location: Location, key: str, object_: PhysicalObject) -> str | None:
        """An earlier attempt may have landed: look before sending the bytes again."""
        try:
            info = await location.head(key, patient=True)
        except ObjectNotFound:
            return None
        good = info.size_bytes == object_.size and info.crc32c in (None, object_.crc32c)
        return info.etag if good else None

    async def _put(self, location: Location, key: str, object_: PhysicalObject) -> str:
        file = self._cache.get(object_.id)
        if file is None:
            raise FileNotFoundError(f"its local file is gone ({object_.size} bytes)")
        failpoints.hit("upload.before-put")
        file.users += 1
        try:
            source = FileSource(file.path, object_.size, object_.crc32c)
            info = await location.put(key, source, patient=True)
        finally:
            file.users -= 1
        failpoints.hit("upload.after-put")
        return info.etag

    def _arrive(self, id_: ObjectId, location: LocationId, etag: str) -> None:
        """Verified at the destination: one transaction makes it true."""
        replica = self._store.objects.replica(id_, location)
        if replica is not None and replica.state in (ReplicaState.INTENT, ReplicaState.TRANSFERRING):
            failpoints.hit("upload.before-available")
            self._store.objects.advance(id_, location, Event.VERIFIED, etag=etag)
            self._store.changed()
            self._note_fresh(id_)
            failpoints.hit("upload.after-available")
        self.uploaded_objects += 1
        self.uploaded_bytes += self.pending.get(id_, 0)
        self._settled(id_)

    def _note_fresh(self, id_: ObjectId) -> None:
        """Remember until two rounds have made the arrival durable; older ones are forgotten on the way."""
        while self._fresh:
            oldest = next(iter(self._fresh))
            if self._committer.syncs < self._fresh[oldest] + 2:
                break
            del self._fresh[oldest]
        self._fresh[id_] = self._committer.syncs

    def _settled(self, id_: ObjectId) -> None:
        """Nothing more is to be done for the object at one location; perhaps at none."""
        replicas = self._store.objects.replicas(id_)
        waiting = [r for r in replicas if r.state in (ReplicaState.INTENT, ReplicaState.TRANSFERRING)]
        elsewhere = [r for r in replicas if r.state in READABLE and not r.location.startswith(CACHE_PREFIX)]
        if not waiting:
            self.pending_bytes -= self.pending.pop(id_, 0)
        if elsewhere and not waiting:
            file = self._cache.get(id_)
            if file is not None:
                file.held = False
        self._arrived.set()
        self._arrived = trio.Event()
        self.on_progress()

    # --- waiting for it

    def pending_of(self, bucket: Ino) -> set[ObjectId]:
        """What a bucket has waiting."""
        return {id_ for id_ in self.pending if self._payer(id_) == bucket}

    def busy(self, id_: ObjectId) -> bool:
        """Whether the object's bytes are moving right now."""
        return any(id_ in lane.moving for lane in self._lanes.values())

    def forget(self, id_: ObjectId) -> None:
        """The object is garbage; it need not be uploaded any more."""
        self.pending_bytes -= self.pending.pop(id_, 0)
        self._arrived.set()
        self._arrived = trio.Event()
        self.on_progress()

    async def drained(self, wanted: Iterable[ObjectId] | None = None) -> None:
        """Return when the objects (default: all that wait now) are at their locations."""
        ids = set(self.pending if wanted is None else wanted)
        self._gate.set()
        try:
            while any(id_ in self.pending for id_ in ids):
                await self._arrived.wait()
        finally:
            if self._held and not self.pending:
                self._gate = trio.Event()

    def release_local(self, id_: ObjectId) -> bool:
        """Let the cache's copy go; False where it is the last one that would survive a power cut."""
        arrived = self._fresh.get(id_)
        if arrived is not None:
            if self._committer.syncs < arrived + 2:
                return False
            del self._fresh[id_]
        failpoints.hit("evict.before-release")
        replica = self._store.objects.replica(id_, self._cache_location)
        if replica is not None:
            others = [
                r
                for r in self._store.objects.replicas(id_)
                if r.location != self._cache_location and r.state in READABLE
            ]
            if not others or replica.state not in READABLE:
                return False
            self._store.objects.advance(id_, self._cache_location, Event.DROP)
            self._store.objects.advance(id_, self._cache_location, Event.REMOVED)
            self._store.changed()
        failpoints.hit("evict.after-release")
        return True


def is_intact(cache: ObjectCache, object_: PhysicalObject) -> bool:
    """Whether the local file still holds exactly what the namespace says; used after an unclean stop."""
    if object_.size == 0:
        return True
    file = cache.get(object_.id)
    if file is None:
        return False
    sums = crc_of_file(file.fd, object_.size)
    if sums is None or sums[0] != object_.crc32c:
        return False
    return object_.state is ObjectState.OPEN or object_.block_crcs in (None, sums[1])
