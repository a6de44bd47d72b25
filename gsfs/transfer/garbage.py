"""Garbage: objects that nothing refers to any more. Owns their removal, from everywhere, in the safe order.

Tombstone (durable), delete, forget: whatever step a crash hits, the next run finds the tombstone and goes on.
"""

from __future__ import annotations

import logging

import trio

from gsfs import failpoints
from gsfs.backends.location import Location
from gsfs.data.cache import ObjectCache
from gsfs.errors import BackendError
from gsfs.model import LocationId, ObjectId, ReplicaState
from gsfs.namespace.objects import Replica
from gsfs.namespace.replicas import Event
from gsfs.namespace.store import Store
from gsfs.transfer.committer import Committer
from gsfs.transfer.uploads import CACHE_PREFIX, Uploads

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
BATCH = 1000


class Garbage:
    """One for each mount."""

    def __init__(
        self,
        store: Store,
        cache: ObjectCache,
        committer: Committer,
        uploads: Uploads,
        locations: dict[LocationId, Location],
    ) -> None:
        self._store = store
        self._cache = cache
        self._committer = committer
        self._uploads = uploads
        self._locations = locations
        self._tombstones = True  # an earlier run may have left some
        self._doomed: list[ObjectId] = []
        self.removed_objects = 0

    def tombstones_left(self) -> None:
        """Somebody made tombstones."""
        self._tombstones = True

    async def run(self) -> None:
        """Collect now and then, until cancelled."""
        while True:
            await trio.sleep(INTERVAL_S)
            try:
                await self.collect()
            except OSError as error:
                log.error("garbage: %s", error)

    async def collect(self) -> int:
        """Remove what is garbage now; the number of objects that are gone for good."""
        before = self.removed_objects
        objects = self._store.objects
        if objects.garbage_possible:
            ids = [id_ for id_ in objects.garbage(BATCH) if not self._in_use(id_)]
            objects.garbage_possible = bool(ids)
            for id_ in ids:
                self._bury(id_)
        if self._tombstones or self._doomed:
            await self._committer.durable()
            self._drop_files()
        if self._tombstones:
            await self._delete_tombstones()
        return self.removed_objects - before

    def _in_use(self, id_: ObjectId) -> bool:
        file = self._cache.get(id_)
        return self._uploads.busy(id_) or (file is not None and file.users > 0)

    def _bury(self, id_: ObjectId) -> None:
        """Tombstones for its replicas; what was never sent anywhere is gone at once."""
        objects = self._store.objects
        for replica in objects.replicas(id_):
            if replica.state is ReplicaState.TOMBSTONE:
                continue
            never_sent = replica.state is ReplicaState.INTENT or replica.location.startswith(CACHE_PREFIX)
            objects.advance(id_, replica.location, Event.DROP)
            if never_sent:
                objects.advance(id_, replica.location, Event.REMOVED)
            else:
                self._tombstones = True
        self._uploads.forget(id_)
        self._store.changed()
        failpoints.hit("garbage.after-tombstone")
        self._forget_if_gone(id_)
        self._doom_file(id_)

    def _doom_file(self, id_: ObjectId) -> None:
        """Its local file goes once the burial is durable: a rewound commit may still name the bytes."""
        if self._cache.get(id_) is not None:
            self._doomed.append(id_)

    def _drop_files(self) -> None:
        """A file that a slow reader still has open waits for the next run: its descriptor must not be reused."""
        used = [id_ for id_ in self._doomed if self._in_use(id_)]
        for id_ in set(self._doomed).difference(used):
            self._cache.remove(id_)
        self._doomed = used

    async def _delete_tombstones(self) -> None:
        """Delete at the locations what a durable tombstone names."""
        self._tombstones = False
        async with trio.open_nursery() as nursery:  # one that hangs keeps the others' bytes on nobody's bill
            for location in list(self._locations):
                replicas = self._store.objects.in_state_at(ReplicaState.TOMBSTONE, location, BATCH)
                if replicas:
                    nursery.start_soon(self._empty, location, replicas)

    async def _empty(self, location: LocationId, replicas: list[Replica]) -> None:
        if not await self._delete_at(location, replicas):
            self._tombstones = True

    async def _delete_at(self, location: LocationId, replicas: list[Replica]) -> bool:
        """True when they are gone; a location that fails is asked again later."""
        target = self._locations.get(location)
        if target is None:
            return True
        keys = {}
        for replica in replicas:
            object_ = self._store.objects.get(replica.object)
            if object_ is not None and replica.owned:
                keys[replica.object] = self._store.objects.key_of(object_, replica)
        try:
            if keys:
                await target.delete_many(list(keys.values()))
        except BackendError as error:
            log.warning("garbage at %s: %s", location, error)
            return False
        failpoints.hit("garbage.after-delete")
        foreign = [replica.object for replica in replicas if not replica.owned]
        for id_ in [*keys, *foreign]:
            if self._store.objects.replica(id_, location) is not None:
                self._store.objects.advance(id_, location, Event.REMOVED)
                self._forget_if_gone(id_)
        self._store.changed()
        failpoints.hit("garbage.after-gone")
        return len(replicas) < BATCH

    def _forget_if_gone(self, id_: ObjectId) -> None:
        if not self._store.objects.replicas(id_):
            self._store.objects.remove(id_)
            self._store.policies.drop_trails(id_)
            self.removed_objects += 1
