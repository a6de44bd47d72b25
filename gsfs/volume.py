"""A mounted file system without FUSE: everything below the transport, put together. Decides nothing itself.

Tests drive it directly; ``daemon`` puts FUSE and the control socket on top.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from gsfs import failpoints, memory
from gsfs.backends.location import Location
from gsfs.backends.registry import open_location
from gsfs.backends.spec import LocationSpec
from gsfs.config import Config
from gsfs.data.segments import Segment, SegmentEvents, SegmentLog
from gsfs.errors import BackendError, ConfigError, DatabaseLost, EntryExists, InputOutput
from gsfs.exchange.following import Following
from gsfs.filesystem.attributes import Attributes
from gsfs.filesystem.content import Content
from gsfs.filesystem.core import BucketDefaults, Core
from gsfs.filesystem.directories import Directories
from gsfs.filesystem.names import Names
from gsfs.filesystem.ranges import Ranges
from gsfs.filesystem.reaper import Reaper
from gsfs.filesystem.rebucket import Rebucket
from gsfs.filesystem.recording import Recorder
from gsfs.model import Ino, LocationId, ObjectId, ObjectState, ReplicaState
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.inodes import Inode
from gsfs.namespace.objects import PhysicalObject, Replica
from gsfs.namespace.sqlite import SqliteDatabase
from gsfs.namespace.store import give_back
from gsfs.policy.prices import PriceTable, load_prices
from gsfs.recovery import check_cache_lock, open_recovered
from gsfs.transfer.accounts import Accounts
from gsfs.transfer.committer import Committer
from gsfs.transfer.compaction import Compaction
from gsfs.transfer.downloads import Downloads
from gsfs.transfer.eviction import Eviction
from gsfs.transfer.forgetting import Forgetting
from gsfs.transfer.garbage import Garbage
from gsfs.transfer.keeper import Keeper
from gsfs.transfer.pressure import Pressure
from gsfs.transfer.reader import Reader
from gsfs.transfer.replication import Replication, Wanted
from gsfs.transfer.shipping import Shipping
from gsfs.transfer.steward import Steward
from gsfs.transfer.uploads import Uploads

log = logging.getLogger(__name__)

SEAL_TICK_S = 0.5
RESTART_S = 5.0
Mover = Callable[[], Awaitable[None]]
VIRTUAL_TOTAL_BYTES = 1 << 50
"""What ``df`` shows as the size of a file system whose home is a cloud: there is no true limit."""
FREE_INODES = 1 << 40
TRIM_TICK_S = 10.0


class Space(NamedTuple):
    """What statfs tells."""

    total_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int


def within_quota(whole: Space, bucket: Bucket) -> Space:
    """The bucket as a file system of its own, as large as its quota; what has no quota is that of the whole."""
    total, free, inodes, free_inodes = whole
    if bucket.quota_bytes is not None:
        total, free = bucket.quota_bytes, min(free, max(0, bucket.quota_bytes - bucket.used_bytes))
    if bucket.quota_inodes is not None:
        inodes, free_inodes = bucket.used_inodes, max(0, bucket.quota_inodes - bucket.used_inodes)
    return Space(total, free, inodes, free_inodes)


class Volume:
    """One namespace, opened and served. ``run`` must be running for bytes to move."""

    def __init__(
        self, config: Config, *, allow_missing: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        """``clock``: seconds since the epoch, for everything that policies decide and the ledger counts."""
        self._clock = clock
        self.config = config
        self.specs = {LocationId(spec.id): spec for spec in config.location}
        self._lock_fd = check_cache_lock(config.cache_dir)
        try:
            self.locations: dict[LocationId, Location] = {
                LocationId(spec.id): open_location(spec) for spec in config.location
            }
            self.store, self.cache, self.cache_location, self.recovered = open_recovered(
                config, allow_missing=allow_missing
            )
        except BaseException:
            os.close(self._lock_fd)
            raise
        self.started_s = time.time()
        self._compose_data()
        self._compose_filesystem()
        self._recover()

    def _compose_data(self) -> None:
        config, store = self.config, self.store
        store.objects.now_ns = lambda: int(self._clock() * 1e9)
        events = SegmentEvents(
            created=self._segment_created, sealed=self._segment_sealed, new_id=store.new_object
        )
        self.segments = SegmentLog(self.cache, config.segment_bytes, time.monotonic, events)
        store.before_commit.append(lambda: store.objects.grow(self.segments.records()))
        self.committer = Committer(store, self.segments)
        self.uploads = Uploads(
            store,
            self.cache,
            self.committer,
            self.locations,
            self.cache_location,
            held=config.transfer.upload == "held",
        )
        self.cache.on_evict = self.uploads.release_local
        prices = self._prices()
        self.accounts = Accounts(
            store,
            self.locations,
            config.mount.region,
            self._clock,
            prices.min_age_s if prices is not None else lambda _location: 0,
        )
        self.steward = Steward(store, self.locations, config.mount.region, prices, self._clock)
        self.uploads.targets = self.steward.targets
        self.steward.heir = LocationId(config.bucket_defaults.home)
        self.downloads = Downloads(
            store.objects,
            self.cache,
            self.locations,
            config.mount.read_deadline_s,
            self.steward.rank,
            lambda location: self.steward.hedges_to(location, config.mount.hedge_reads),
        )
        self.downloads.on_read = self._on_read
        self.downloads.on_learned = store.changed
        self.garbage = Garbage(store, self.cache, self.committer, self.uploads, self.locations)
        self.replication = Replication(
            store, self.cache, self.downloads, self.uploads, self.garbage, self.steward
        )
        self.cache.clock = self._clock
        if self.steward.region and self.steward.prices is not None:
            self.cache.order = Eviction(store.objects, self.steward).order
        self.keeper = Keeper(store, self.cache, self.downloads, self.steward)
        self.forgetting = Forgetting(store, self.steward)
        self.pressure = Pressure(self.cache, lambda: self.dirty_bytes, config.transfer.full_wait_s)
        self.pressure.hurry = self._hurry
        self.pressure.troubled = self.steward.troubled
        self.pressure.held_by = self._held_by
        self.uploads.on_progress = self.pressure.progressed
        self.reader = Reader(store.extents, self.cache, self.downloads)
        self.shipping = self._make_shipping()
        self.compaction = Compaction(
            store, self.segments, self.committer, self.downloads, self.cache, self.steward.worth_compacting
        )

    def _prices(self) -> PriceTable | None:
        """The price table; every location and the mount's region must be in it as soon as there is a region."""
        path = self.config.policy.prices
        if not self.config.mount.region and not path:
            return None
        prices = load_prices(Path(path) if path else None)
        prices.require({*map(str, self.locations), *filter(None, [self.config.mount.region])})
        return prices

    def _make_shipping(self) -> Shipping | None:
        """An SQLite namespace is shipped; a PostgreSQL one has a machine of its own."""
        database = self.store.database
        if not isinstance(database, SqliteDatabase):
            return None
        location = self.locations[LocationId(self.config.ship_to)]
        return Shipping(self.store, database, self.committer, location, self.config.cache_dir)

    def _compose_filesystem(self) -> None:
        d = self.config.bucket_defaults
        self.core = Core(
            self.store, self.segments, BucketDefaults(LocationId(d.home), d.durability, d.copies)
        )
        self.names = Names(self.core)
        self.attributes = Attributes(self.core)
        self.directories = Directories(self.core)
        self.content = Content(self.core, self.attributes, self.reader, self.pressure, self.committer)
        self.content.ensure_remote = self.ensure_remote
        self.ranges = Ranges(self.core, self.attributes, self.content)
        self.core.on_placed = self.keeper.placed
        self.reaper = Reaper(self.core)
        self.rebucket = Rebucket(self.core, self.names)
        self.following = Following(
            self.core, self.names, self.content, self.reader, self.cache, self.committer, self.locations, self.specs,
            scratch=self.config.cache_dir / "export", workers=self.config.transfer.uploads_per_location,
        )  # fmt: skip

    def _recover(self) -> None:
        self.uploads.damaged = frozenset(object_.id for object_ in self.recovered.damaged)
        self.uploads.recover()
        self.reaper.recover()

    # --- segments tell; rows are written within the operation

    def _segment_created(self, segment: Segment) -> None:
        objects = self.store.objects
        objects.add(
            PhysicalObject(
                segment.id,
                segment.bucket,
                self.store.epoch,
                ObjectState.OPEN,
                0,
                0,
                0,
                None,
                time.time_ns(),
                0,
            )
        )
        objects.add_replica(segment.id, self.cache_location, ReplicaState.AVAILABLE)
        failpoints.hit("segment.created")

    def _segment_sealed(self, segment: Segment) -> None:
        self.store.objects.seal(segment.id, segment.size, segment.crc32c, segment.checksums(), segment.synced)
        self.uploads.add(segment.id, segment.bucket, segment.size)
        self.store.changed()
        failpoints.hit("segment.sealed")

    # --- facts

    @property
    def dirty_bytes(self) -> int:
        """Bytes on the local disk only."""
        return self.uploads.pending_bytes + sum(s.size for s in self.segments.open_segments())

    def _held_by(self, bucket: Ino) -> int:
        """Of the dirty bytes, those of one bucket."""
        waiting = sum(self.uploads.pending.get(id_, 0) for id_ in self.uploads.pending_of(bucket))
        return waiting + sum(s.size for s in self.segments.open_segments() if s.bucket == bucket)

    def space(self, ino: int | None = None) -> Space:
        """What is used and free for a path, by its inode: within its bucket's quota, if it has one; None: in all."""
        whole = self._whole_space()
        bucket = None if ino is None else self.store.buckets.get(self.store.inodes.get(ino).bucket)
        return whole if bucket is None else within_quota(whole, bucket)

    def _whole_space(self) -> Space:
        """True figures of the homes that have a size (directories), a virtual petabyte where they have none."""
        used = sum(b.used_bytes for b in self.store.buckets.all())
        inodes = 1 + sum(b.used_inodes for b in self.store.buckets.all())
        path = next((s.path for s in self.config.location if s.id == self.config.bucket_defaults.home), "")
        if path:
            try:
                status = os.statvfs(path)
            except OSError:  # its disk is not mounted: what can be written meanwhile goes to the cache
                status = os.statvfs(self.config.cache_dir)
            free = status.f_bavail * status.f_frsize
            return Space(used + free, free, inodes, FREE_INODES)
        return Space(VIRTUAL_TOTAL_BYTES, max(0, VIRTUAL_TOTAL_BYTES - used), inodes, FREE_INODES)

    def _on_read(self, object_: PhysicalObject, replicas: Sequence[Replica]) -> None:
        """Bytes are about to be asked of a location: the policy may want a replica nearer."""
        decision = self.steward.on_read(object_, replicas)
        if decision is None or decision.ttl_s <= 0 or self.steward.region not in self.locations:
            return
        here = LocationId(self.steward.region)
        if decision.replicate:
            self.replication.request(Wanted(object_.id, here, int(decision.expires_s * 1e9)))
        else:
            self.replication.renew(object_.id, here, decision.expires_s)

    async def add_location(self, spec: LocationSpec) -> None:
        """Use one more location from now on. Raises BackendError, ConfigError; nothing is changed then."""
        id_ = LocationId(spec.id)
        if id_ in self.locations:
            raise EntryExists(f"{id_}: is in use already")
        location = await trio.to_thread.run_sync(open_location, spec)
        await location.check()
        self.locations[id_], self.specs[id_] = location, spec
        try:
            self.steward.locations_changed()
        except ConfigError:
            del self.locations[id_]
            raise
        self.accounts.watch(location)
        self.uploads.add_lane(id_)

    # --- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Every background mover, until cancelled."""
        memory.share_one_arena()
        async with trio.open_nursery() as nursery:
            self.reader.nursery = nursery
            for mover in self._movers():
                nursery.start_soon(self._keep_going, mover)
            task_status.started()

    def _movers(self) -> list[Mover]:
        """What runs beside the requests."""
        movers: list[Mover] = [
            self.committer.run,
            partial(self.uploads.run, self.config.transfer.uploads_per_location),
            self.garbage.run,
            self.accounts.run,
            self.replication.run,
            self.forgetting.run,
            self.keeper.run,
            self.reaper.run,
            self.rebucket.run,
            self.following.run,
            self.compaction.run,
            self._seal_idle,
            self._housekeeping,
        ]
        interval_s = self.config.namespace.ship_interval_s
        if self.shipping is not None and interval_s and self.config.transfer.upload == "auto":
            movers.append(partial(self.shipping.run, interval_s))
        return movers

    async def _keep_going(self, mover: Mover) -> None:
        """What nobody foresaw in one mover is told once and ends neither the others nor the mount."""
        while True:
            try:
                await mover()
            except DatabaseLost:
                raise  # what is in memory is not in the database any more: only a new start helps
            except Exception:
                log.exception("a background task failed; it starts again in %g s", RESTART_S)
                await trio.sleep(RESTART_S)
            else:
                return

    async def _seal_idle(self) -> None:
        t = self.config.transfer
        while True:
            await trio.sleep(min(SEAL_TICK_S, t.seal_idle_s))
            if t.upload == "auto":
                try:
                    self.segments.seal_idle(t.seal_idle_s, t.seal_age_s)
                except OSError as error:
                    log.error("sealing: %s", error)

    async def _housekeeping(self) -> None:
        """Bound what is kept in memory, and keep the disk above its floor."""
        moved_before = 0
        while True:
            await trio.sleep(TRIM_TICK_S)
            self.store.inodes.trim()
            moved = self.uploads.uploaded_bytes + self.downloads.fetched_bytes
            if moved != moved_before:
                moved_before = moved
                await trio.to_thread.run_sync(memory.give_back)
            self.cache.make_room(0, look_at_disk=True)
            if self.core.recorder is not None:
                self.core.recorder.hand_over()

    async def stop_recording(self) -> Recorder | None:
        """End the trace that is being recorded; None where there is none."""
        recorder, self.core.recorder = self.core.recorder, None
        if recorder is not None:
            await trio.to_thread.run_sync(recorder.stop)
        return recorder

    def _hurry(self) -> None:
        """Room is needed: what can be uploaded is."""
        if self.config.transfer.upload == "auto":
            self.segments.seal_all()

    async def flush(self, bucket: Ino | None = None, wanted: set[ObjectId] | None = None) -> None:
        """Return when everything written so far (of a bucket) is at its locations."""
        self.segments.seal_all(bucket)
        await self.committer.durable()
        if bucket is not None and wanted is None:
            wanted = self.uploads.pending_of(bucket)  # another bucket's location may be down
        await self.uploads.drained(wanted)
        await self.committer.durable()

    async def ensure_remote(self, inode: Inode, bucket: Bucket) -> None:
        """Durability ``remote``: the bytes are at locations, and so is the metadata that names them.

        Raises InputOutput where an object of the file cannot be copied to as many locations as are promised.
        """
        await self.flush(bucket.ino)
        self.store.flush()
        if short := self.store.objects.short_of(inode.ino, bucket.copies):
            await self._complete(inode, bucket, short)
        if self.shipping is not None:
            await self.shipping.ship()

    async def _complete(self, inode: Inode, bucket: Bucket, short: list[ObjectId]) -> None:
        """What the file brought from another bucket, or has from before the promise, goes where its bucket keeps it."""
        self.segments.seal_these(short)
        await self.uploads.drained(short)
        objects = self.store.objects
        wanted = [
            Wanted(id_, location, None)
            for id_ in objects.short_of(inode.ino, bucket.copies)
            for location in self.steward.targets(bucket.ino)
        ]
        if missing := await self.replication.settle(wanted):
            raise InputOutput(f"inode {inode.ino}: {len(missing)} replica(s) could not be made")
        await self.committer.durable()

    async def drain(self, deadline_s: float) -> int:
        """Upload what waits before a stop, for at most ``deadline_s``; the number of bytes that remain."""
        self.compaction.stop()  # it would make new bytes to upload
        with trio.move_on_after(deadline_s):
            await self.flush()
            await self._ship_last()
        return self.uploads.pending_bytes

    async def _ship_last(self) -> None:
        """Leave the location with the namespace as it is at the end; a location that is down is no reason to stay."""
        if self.shipping is None or not self.config.namespace.ship_interval_s:
            return
        try:
            await self.shipping.ship()
        except (BackendError, OSError) as error:
            log.warning("the namespace could not be shipped: %s", error)

    async def close(self) -> None:
        """Make everything durable locally and give all back. ``run`` must have ended. Raises OSError."""
        with trio.CancelScope(shield=True):
            try:
                await self.stop_recording()
                self.segments.seal_all()
                await self.committer.durable()
                failpoints.hit("close.before-commit")
                self.committer.close()
                self.store.close()
            except BaseException:
                self.abandon()
                raise
            self.cache.close()
            for location in self.locations.values():
                await location.aclose()
            os.close(self._lock_fd)
            self._lock_fd = -1

    def abandon(self) -> None:
        """Give all back as a crash would: commits whose data may not be on the disk must not be folded."""
        if self._lock_fd < 0:
            return
        self.committer.close()
        give_back(self.store.database)
        self.cache.close()
        os.close(self._lock_fd)
        self._lock_fd = -1
