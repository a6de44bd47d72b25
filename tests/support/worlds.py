"""A volume in a world that can end it: kill it, cut its power, fail its location. Owns the volume's thread and clock.

The movers of the volume really run, in a trio run of their own, on a clock that stands still until a test
lets time pass. What a crash leaves behind is a directory, and the objects at the location.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import trio
import trio.testing

from gsfs.backends.base import ObjectInfo, list_all
from gsfs.backends.location import Location
from gsfs.backends.memory import MemoryBackend
from gsfs.backends.options import LocationOptions, RetryPolicy
from gsfs.config import Config, parse
from gsfs.data.cache import ObjectFile
from gsfs.model import LocationId, ReplicaState
from gsfs.namespace.fsck import check
from gsfs.namespace.sqlite import FRAME_HEADER, PAGE_SIZE, WAL_HEADER_BYTES, SqliteDatabase
from gsfs.namespace.store import create, open_database
from gsfs.volume import Volume
from tests.support.flaky import FlakyBackend

HOME = LocationId("memory:home")
STEP_S = 0.05
CALL_S = 60
"""Real seconds after which a call that has not come to an end fails the test."""
T = TypeVar("T")


class LyingBackend(FlakyBackend):
    """Also answers the next ``lies`` reads with bytes that were never stored."""

    lies = 0

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        data = super().get_range(key, offset, length, if_match=if_match)
        if self.lies and data:
            self.lies -= 1
            return bytes([data[0] ^ 0xFF]) + data[1:]
        return data

    def close(self) -> None:
        """The location outlives those who use it."""


def fast_directory() -> str | None:
    """Where flushing costs nothing; None: the usual place for temporary files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def configuration(directory: Path, **changes: dict[str, Any]) -> Config:
    """A small world: segments of 1 MiB, a cache of 6 MiB. ``changes``: {section: {key: value}}."""
    sections: dict[str, Any] = {
        "filesystem": {"name": "world"},
        "namespace": {"url": f"sqlite:///{directory}/cache/namespace.db"},
        "cache": {"path": f"{directory}/cache", "size": "6MiB", "min_free": "0"},
        "transfer": {"segment_size": "1MiB", "full_wait_s": 2.0, "seal_idle_s": 1.0, "seal_age_s": 5.0},
        "mount": {"read_deadline_s": 5.0},
        "bucket_defaults": {"home": str(HOME)},
        "location": [{"id": str(HOME), "kind": "memory"}],
    }
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values}
    return parse(sections, {}, str(directory / "world.toml"))


class Disk:
    """What of the cache directory is on the disk for certain; the rest is what a power cut may take."""

    def __init__(self) -> None:
        self.synced: dict[Path, int] = {}
        self.log_bytes = 0

    def watch(self, volume: Volume) -> None:
        """Follow the flushes of a volume."""
        database = volume.store.database
        if not isinstance(database, SqliteDatabase):
            return
        real = database.sync

        def sync() -> None:
            end = log_end(database.path)
            real()
            self.log_bytes = end

        database.sync = sync  # type: ignore[method-assign]
        self.log_bytes = log_end(database.path)

    def flushing(self) -> mock._patch[Any]:
        """While it holds, object files tell how far they were flushed."""
        real, synced = ObjectFile.sync, self.synced

        def sync(file: ObjectFile) -> None:
            size = file.path.stat().st_size if file.path.exists() else 0
            real(file)
            synced[file.path] = size

        return mock.patch.object(ObjectFile, "sync", sync)

    def cut_power(self, directory: Path, rng: random.Random) -> None:
        """Lose, of each file, a part that was not flushed; of the log, some of its last commits."""
        keep_all_data, keep_all_log = rng.random() < 0.2, rng.random() < 0.4
        for path in sorted(directory.glob("objects/*/*")):
            size = path.stat().st_size
            safe = self.synced.get(path, 0)
            if size > safe and not keep_all_data:
                _tear(path, safe, size, rng)
        log = directory / "namespace.db-wal"
        if log.exists() and not keep_all_log:
            step = FRAME_HEADER.size + PAGE_SIZE
            end = log_end(directory / "namespace.db")
            frames = range(min(self.log_bytes, end), end + 1, step)
            with log.open("r+b") as file:
                file.truncate(rng.choice(frames) if frames else end)
        for shared in directory.glob("*-shm"):
            shared.unlink()


def _tear(path: Path, safe: int, size: int, rng: random.Random) -> None:
    if safe == 0 and rng.random() < 0.3:
        path.unlink()
        return
    with path.open("r+b") as file:
        if rng.random() < 0.5:
            file.truncate(rng.randint(safe, size))
        else:
            start = rng.randint(safe, size)
            file.seek(start)
            file.write(bytes(rng.randint(0, size - start)))


def log_end(path: Path) -> int:
    """Bytes of the log up to its last commit."""
    log = Path(f"{path}-wal")
    if not log.exists():
        return 0
    data = log.read_bytes()
    salt, end, at = data[16:24], 0, WAL_HEADER_BYTES
    step = FRAME_HEADER.size + PAGE_SIZE
    while len(data) >= at + step and data[at + 8 : at + 16] == salt:
        at += step
        if data[at - step + 4 : at - step + 8] != b"\0\0\0\0":
            end = at
    return end


class World:
    """One namespace, one location, and one volume at a time."""

    def __init__(self, directory: Path, **changes: dict[str, Any]) -> None:
        self.directory = directory
        self.config = configuration(directory, **changes)
        self.backend = LyingBackend(MemoryBackend())
        self.disk = Disk()
        self.deaths: list[BaseException] = []
        database = open_database(self.config.namespace.url, create=True)
        try:
            create(database, "world", uid=0, gid=0)
        finally:
            database.close()
        self.on_commit: Callable[[], None] = lambda: None
        self._stack = [self.disk.flushing(), mock.patch("gsfs.volume.open_location", self._location)]
        for patch in self._stack:
            patch.start()

    def _location(self, _spec: object) -> Location:
        retry = RetryPolicy(deadline_s=2.0, base_s=0.05, attempts=4)
        return Location(HOME, self.backend, LocationOptions(retry=retry, in_thread=False, timeout_s=2.0))

    # --- life and death of the volume; all of it in one thread, as SQLite wants it

    def start(self) -> Volume:
        """Open the volume and let its movers run. Raises what opening raises."""
        self._up, self._failure = threading.Event(), None
        self._serving = self._orderly = False
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        assert self._up.wait(CALL_S)
        if self._failure is not None:
            self._thread.join(CALL_S)
            raise self._failure
        return self.volume

    def _live(self) -> None:
        try:
            self.volume = Volume(self.config)
        except BaseException as error:
            self._failure = error
            self._up.set()
            return
        self._watch()
        self._clock = trio.testing.MockClock()
        try:
            trio.run(self._serve, clock=self._clock)
        except BaseException as error:  # the movers died: the volume must be taken as killed
            self.deaths.append(error)
        if self._orderly and not self.deaths:
            trio.run(self.volume.close)
        else:
            self.volume.abandon()

    def _watch(self) -> None:
        self.disk.watch(self.volume)
        database, real = self.volume.store.database, self.volume.store.database.commit

        def commit() -> None:
            real()
            self.on_commit()

        database.commit = commit  # type: ignore[method-assign]

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.volume.run)
                self._serving = True
                self._up.set()
                await self._end.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._serving = False
            self._up.set()

    def _stop_serving(self, *, orderly: bool) -> None:
        self._orderly = orderly
        if self._serving:
            self._token.run_sync_soon(self._end.set)
        self._thread.join(CALL_S)
        assert not self._thread.is_alive()

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run it to its end in the volume's run; time passes only while it would wait for ever."""

        async def act() -> T:
            result: list[T] = []
            errors: list[Exception] = []

            async def run() -> None:
                try:
                    result.append(await work())
                except Exception as error:
                    errors.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                while not result and not errors:
                    await trio.testing.wait_all_tasks_blocked(0.001)
                    if not result and not errors:
                        self._clock.jump(STEP_S)
            if errors:
                raise errors[0]
            return result[0]

        return self._in_run(act)

    def _in_run(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return trio.from_thread.run(work, trio_token=self._token)
        except BaseException:
            if not self._serving:
                self._thread.join(CALL_S)
            if self.deaths:
                raise self.deaths[-1] from None
            raise

    def let_pass(self, seconds: float) -> None:
        """Time for the movers."""

        async def pass_() -> None:
            for _ in range(math.ceil(seconds / STEP_S)):
                await trio.testing.wait_all_tasks_blocked(0.0005)
                self._clock.jump(STEP_S)
            await trio.testing.wait_all_tasks_blocked(0.002)

        self._in_run(pass_)

    def stop(self) -> None:
        """An orderly end."""
        self._stop_serving(orderly=True)

    def kill(self) -> None:
        """The process is gone; the kernel keeps what was written."""
        self._stop_serving(orderly=False)

    def cut_power(self, seed: int) -> None:
        """The machine is gone; the disk keeps what was flushed, and perhaps some of the rest."""
        self.kill()
        self.disk.cut_power(self.directory / "cache", random.Random(seed))

    def end(self) -> None:
        """Give everything back, in whatever state it is."""
        if self._thread.is_alive():
            self.kill()
        for patch in self._stack:
            patch.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- what must hold

    def fsck(self) -> list[str]:
        """Problems of the namespace, everything in memory written out before."""

        async def run() -> list[str]:
            self.volume.store.write_out()
            self.volume.store.dirty = True
            return check(self.volume.store)

        return self.call(run)

    def settle(self) -> None:
        """Upload everything and collect all garbage."""

        async def run() -> None:
            await self.volume.flush()
            for _ in range(10):
                await self.volume.committer.durable()
                self.volume.store.objects.garbage_possible = True
                if not await self.volume.garbage.collect() and not self.volume.store.objects.garbage():
                    return
            raise AssertionError("garbage does not come to an end")

        self.call(run)

    def strays(self) -> list[str]:
        """Objects and files that nothing names, and names of which there is nothing."""
        objects = self.volume.store.objects

        async def run() -> tuple[set[str], set[int], set[int]]:
            rows = {o.id: o for o in objects.all()}
            replicas = [r for r in objects.at(HOME) if r.state is not ReplicaState.INTENT]
            keys = {objects.key_of(rows[r.object], r) for r in replicas}
            unsent = {
                id_
                for id_, row in rows.items()
                if row.live and not any(r.location == HOME for r in objects.replicas(id_))
            }
            return keys, set(rows), unsent

        keys, known, _unsent = self.call(run)
        there = {info.key for info in self.objects() if not info.key.startswith("meta/")}
        files = {int(path.name, 16) for path in (self.directory / "cache").glob("objects/*/*")}
        return [
            *(f"at the location, but not in the namespace: {key}" for key in sorted(there - keys)),
            *(f"in the namespace, but not at the location: {key}" for key in sorted(keys - there)),
            *(f"a file of no object: {id_}" for id_ in sorted(files - known)),
        ]

    def objects(self) -> Sequence[ObjectInfo]:
        """What is at the location, whatever it answers to others."""
        return list(list_all(self.backend._inner, ""))


def read_table(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a namespace nobody has open."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()
