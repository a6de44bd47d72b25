"""Imports and exports of a mount: asked for, going on by themselves, stopped. Owns their tasks and what is known of them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from gsfs.backends.location import Location
from gsfs.backends.spec import LocationSpec
from gsfs.data.cache import ObjectCache
from gsfs.errors import GsfsError, Incomplete, InvalidArgument, NotFoundError
from gsfs.exchange import watching
from gsfs.exchange.changes import BucketFollower, Changes
from gsfs.exchange.exporting import Exporter
from gsfs.exchange.importing import Importer
from gsfs.exchange.keys import Report, overlap
from gsfs.filesystem.content import Content
from gsfs.filesystem.core import Caller, Core
from gsfs.filesystem.names import Names
from gsfs.model import ROOT_INO, Ino, LocationId
from gsfs.namespace.follows import EXPORT, IMPORT, Place, Settings
from gsfs.transfer.committer import Committer
from gsfs.transfer.reader import Reader

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""Tools close a file, set its times and rename it: after this time they have done, and one PUT does for all."""
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0
PROGRESS_S = 0.5
PROBLEMS_SHOWN = 20
BUCKET_MODE = 0o755
Tell = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class State:
    """What is known of one import or export since the start."""

    last_s: float = 0.0
    """When it was last up to date; 0: not since the start."""
    cause: str = ""
    """Why it is not; empty: it is."""
    report: Report = field(default_factory=Report)
    changes: Changes = field(default_factory=Changes)
    lock: trio.Lock = field(default_factory=trio.Lock)
    """One pass at a time. Nothing else is locked within."""
    scope: trio.CancelScope | None = None
    """Of the task, while it goes on by itself."""

    def passed(self, report: Report) -> None:
        self.last_s, self.cause, self.report = time.time(), "", report

    def failed(self, what: Place, cause: str) -> None:
        if cause != self.cause:
            log.warning("%s of bucket %d, %s: %s", what.kind, what.bucket, what, cause)
        self.cause = cause


class Following:
    """One for each mount."""

    def __init__(
        self,
        core: Core,
        names: Names,
        content: Content,
        reader: Reader,
        cache: ObjectCache,
        committer: Committer,
        locations: dict[LocationId, Location],
        specs: dict[LocationId, LocationSpec],
        *,
        scratch: Path,
        workers: int,
    ) -> None:
        self._core = core
        self._store = core.store
        self._names = names
        self._content = content
        self._reader = reader
        self._cache = cache
        self._committer = committer
        self._locations = locations
        self._specs = specs
        self._scratch = scratch
        self._workers = workers
        self._states: dict[Place, State] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Everything that goes on by itself, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for leftover in self._scratch.glob("*"):
                leftover.unlink()
            for place, settings in self._store.follows.all().items():
                if settings.follows:
                    self._start(place, settings)
            await trio.sleep_forever()

    def status(self) -> list[dict[str, Any]]:
        """Each import and export: what it is, whether it goes on, how it is."""
        rows = []
        for place, settings in self._store.follows.all().items():
            state = self._states.get(place, State())
            name = self._store.entries.name_of(ROOT_INO, place.bucket)
            rows.append(
                {
                    "bucket": os.fsdecode(name or b""),
                    "kind": place.kind,
                    "place": str(place),
                    "follows": settings.follows,
                    "by": ("queue" if settings.queue_url else "listing")
                    if place.kind == IMPORT
                    else "changes",
                    "owned": settings.owned,
                    "last_s": state.last_s,
                    "cause": state.cause,
                    "waiting": len(state.changes.paths),
                    "problems": [
                        {"name": what, "problem": why} for what, why in state.report.problems[:PROBLEMS_SHOWN]
                    ],
                }
            )
        return rows

    # --- asked for

    async def import_(
        self, bucket: str, location: LocationId, prefix: str, settings: Settings, tell: Tell
    ) -> dict[str, Any]:
        """Import now, and from now on if it follows. Raises BackendError, InvalidArgument, QuotaExceeded."""
        at = self._locations[location]
        if settings.queue_url and self._specs[location].kind != "s3":
            raise InvalidArgument(f"{location}: only s3 tells a queue of its changes; follow it by listing")
        place = Place(self._bucket_for_import(bucket, settings), IMPORT, location, prefix)
        self._check_import(place, settings)
        settings = self._going_on(place, settings)
        self._store.follows.set(place, settings)
        self._store.changed()

        async def progress(count: int) -> None:
            await tell({"objects": count})

        state = self._state(place)
        async with state.lock:
            importer = Importer(self._core, self._names, place, settings)
            report = await watching.list_all(
                self._store, importer, at, place, remove=settings.follows, tell=progress
            )
            await self._committer.durable()
        state.passed(report)
        self._restart(place, settings)
        return {"bucket": bucket, "place": str(place), "follows": settings.follows, **report.to_json()}

    def _bucket_for_import(self, name: str, settings: Settings) -> Ino:
        """The bucket of that name, made where it is missing."""
        raw = os.fsencode(name)
        ino = self._store.entries.find(ROOT_INO, raw)
        if ino is None:
            ino = self._names.mkdir(ROOT_INO, raw, BUCKET_MODE, Caller(settings.uid, settings.gid)).ino
            self._core.on_entry_changed(ROOT_INO, raw)
            self._core.on_attributes_changed(ROOT_INO)
        return ino

    def _check_import(self, place: Place, settings: Settings) -> None:
        """One source for each bucket; what is exported from here is not imported again."""
        for other in self._store.follows.of_bucket(place.bucket, IMPORT):
            if other != place:
                raise InvalidArgument(
                    f"the bucket is an import of {other}; import {place} into another bucket"
                )
        before = self._store.follows.get(place)
        if before is not None and before.owned != settings.owned:
            was = "with" if before.owned else "without"
            raise InvalidArgument(f"{place}: was imported {was} --own, and stays so")
        self._check_apart(place)

    def _check_apart(self, place: Place) -> None:
        for other in self._store.follows.all():
            there = other.kind != place.kind and other.location == place.location
            if there and overlap(other.prefix, place.prefix):
                raise InvalidArgument(f"{place}: overlaps with the {other.kind} at {other}")

    async def export(
        self, bucket: str, location: LocationId, prefix: str, settings: Settings, tell: Tell
    ) -> dict[str, Any]:
        """Export now, and from now on if it follows. Raises Incomplete where some files could not be written."""
        ino = self._store.entries.find(ROOT_INO, os.fsencode(bucket))
        if ino is None:
            raise NotFoundError(f"bucket {bucket!r}: does not exist")
        place = Place(ino, EXPORT, location, prefix)
        self._check_apart(place)
        settings = self._going_on(place, settings)
        self._store.follows.set(place, settings)
        self._store.changed()
        state, report = self._state(place), Report()
        if settings.follows:
            self._attach(place, state)  # before the walk: what changes behind it is not missed
        async with state.lock:
            failed = await self._export_all(place, state if settings.follows else None, report, tell)
        await self._committer.durable()
        state.passed(report)
        state.changes.add(path for path, _cause in failed if settings.follows)
        self._restart(place, settings)
        if failed:
            first = f"{os.fsdecode(failed[0][0])}: {failed[0][1]}"
            raise Incomplete(f"{len(failed)} files were not exported; the first is {first}; run it again")
        return {"bucket": bucket, "place": str(place), "follows": settings.follows, **report.to_json()}

    def _going_on(self, place: Place, settings: Settings) -> Settings:
        """What goes on by itself is not stopped by asking for it once more."""
        before = self._store.follows.get(place)
        return before if before is not None and before.follows and not settings.follows else settings

    async def _export_all(
        self, place: Place, state: State | None, report: Report, tell: Tell
    ) -> list[tuple[bytes, str]]:
        """The whole bucket, telling how far it is; goes on when the asking side goes away."""

        async def progress() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await tell({"objects": report.added + report.changed + report.unchanged})
                    await trio.sleep(PROGRESS_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(progress)
            changes = state.changes if state is not None else None
            failed = await self._exporter(place).bring_up_to_date([b""], report, changes)
            nursery.cancel_scope.cancel()
        return failed

    async def stop(self, bucket: str, kind: str) -> dict[str, Any]:
        """Let imports (or exports) of a bucket not go on; what is there stays. Raises NotFoundError."""
        ino = self._store.entries.find(ROOT_INO, os.fsencode(bucket))
        places = self._store.follows.of_bucket(ino, kind) if ino is not None else []
        if not places:
            raise NotFoundError(f"bucket {bucket!r}: has no {kind}")
        stopped = []
        for place in places:
            settings = self._store.follows.all()[place]
            if settings.follows:
                self._store.follows.set(place, replace(settings, follows=False))
                stopped.append(str(place))
            self._cancel(place)
        self._store.changed()
        await self._committer.durable()
        return {"bucket": bucket, "stopped": stopped}

    # --- going on by itself

    def _state(self, place: Place) -> State:
        return self._states.setdefault(place, State())

    def _restart(self, place: Place, settings: Settings) -> None:
        if settings.follows:
            self._start(place, settings, at_once=False)
        else:
            self._cancel(place)

    def _cancel(self, place: Place) -> None:
        state = self._state(place)
        if state.scope is not None:
            state.scope.cancel()
        state.scope = None
        state.changes.busy.clear()
        follower = self._core.followers.get(place.bucket)
        if isinstance(follower, BucketFollower) and state.changes in follower.exports:
            follower.exports.remove(state.changes)
            if not follower.exports:
                del self._core.followers[place.bucket]

    def _start(self, place: Place, settings: Settings, *, at_once: bool = True) -> None:
        """(Re)start the task; ``at_once``: with a look at everything, for nobody watched until now."""
        state = self._state(place)
        if state.scope is not None:
            state.scope.cancel()
        state.scope = trio.CancelScope()
        if place.kind == EXPORT:
            self._attach(place, state)
            if at_once:
                state.changes.add([b""])
            body = partial(self._follow_export, place, state)
        elif settings.queue_url:
            body = partial(self._follow_queue, place, settings, state)
        else:
            body = partial(self._follow_listing, place, settings, state, at_once=at_once)
        if self._nursery is not None:
            self._nursery.start_soon(self._guarded, state.scope, place, state, body)

    def _attach(self, place: Place, state: State) -> None:
        """From now on, changes of the bucket are noted."""
        follower = self._core.followers.get(place.bucket)
        if not isinstance(follower, BucketFollower):
            known = partial(self._store.exported.paths_of, place.bucket)
            follower = self._core.followers[place.bucket] = BucketFollower(self._store, place.bucket, known)
        if state.changes not in follower.exports:
            follower.exports.append(state.changes)

    async def _guarded(
        self, scope: trio.CancelScope, place: Place, state: State, body: Callable[[], Awaitable[None]]
    ) -> None:
        """Whatever fails is told, and tried again later: nothing of this may end the mount."""
        pause_s = RETRY_FIRST_S
        with scope:
            while self._is_wanted(place):
                began = trio.current_time()
                try:
                    await body()
                except (GsfsError, OSError) as error:
                    state.failed(place, str(error))
                except Exception as error:
                    log.exception("%s %s failed", place.kind, place)
                    state.failed(place, f"{type(error).__name__}: {error}")
                pause_s = RETRY_FIRST_S if trio.current_time() - began > RETRY_MAX_S else pause_s
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)

    def _is_wanted(self, place: Place) -> bool:
        """False once the bucket is gone: then nothing of it is remembered either."""
        if self._store.buckets.get(place.bucket) is not None:
            return True
        self._store.follows.remove(place)
        if place.kind == IMPORT:
            self._store.imported.forget(place.bucket)
        else:
            self._store.exported.forget(place)
        self._store.changed()
        self._cancel(place)
        return False

    def _location(self, place: Place) -> Location:
        location = self._locations.get(place.location)
        if location is None:
            raise NotFoundError(f"{place.location}: no such location any more")
        return location

    async def _follow_listing(self, place: Place, settings: Settings, state: State, *, at_once: bool) -> None:
        importer = Importer(self._core, self._names, place, settings)
        while self._is_wanted(place):
            if at_once:
                async with state.lock:
                    report = await watching.list_all(
                        self._store, importer, self._location(place), place, remove=True
                    )
                state.passed(report)
            at_once = True
            await trio.sleep(settings.interval_s)

    async def _follow_queue(self, place: Place, settings: Settings, state: State) -> None:
        importer = Importer(self._core, self._names, place, settings)
        spec, location = self._specs[place.location], self._location(place)
        await watching.listen(
            spec, settings.queue_url, importer, location, place, self._committer, state.passed
        )

    def _exporter(self, place: Place) -> Exporter:
        return Exporter(
            self._core, self._content, self._reader, self._cache, self._location(place), place,
            scratch=self._scratch, workers=self._workers,
        )  # fmt: skip

    async def _follow_export(self, place: Place, state: State) -> None:
        while self._is_wanted(place):
            await state.changes.more.wait()
            await trio.sleep(SETTLE_S)
            paths = await state.changes.take()
            try:
                async with state.lock:
                    report = Report()
                    failed = await self._exporter(place).bring_up_to_date(paths, report, state.changes)
            except BaseException:
                state.changes.add(paths)
                raise
            if failed:
                state.changes.add(path for path, _cause in failed)
                raise Incomplete(f"{len(failed)} files wait: {os.fsdecode(failed[0][0])}: {failed[0][1]}")
            state.passed(report)
