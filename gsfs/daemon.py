"""The daemon: composition root of a mounted file system. Owns start, signals, drain and stop.

The kernel's connection, the control socket and the background movers live in one trio run.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from gsfs import fuse, loop, mounts, notify
from gsfs.config import Config, parse_size
from gsfs.control import ControlServer
from gsfs.errors import PermissionRefused
from gsfs.model import KIB
from gsfs.volume import Volume

log = logging.getLogger(__name__)

PROGRESS_TICK_S = 1.0
CLOSING_S = 10.0


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What ``gsfs mount`` asks for."""

    config: Config
    mountpoint: Path
    options: Sequence[str] = ()
    allow_missing: bool = False


def run(request: MountRequest, ready: Callable[[], None]) -> int:
    """Mount and serve until unmounted; bytes that were not uploaded when it returned."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    volume = Volume(request.config, allow_missing=request.allow_missing)
    if volume.recovered.rewound_bytes or volume.recovered.sealed:
        log.info("recovered after an unclean stop: %s", volume.recovered)
    loop.install()
    try:
        fuse.start(volume, str(request.mountpoint), request.options)
    except RuntimeError as error:
        trio.run(volume.close)
        raise PermissionRefused(f"{request.mountpoint}: the kernel refused to mount: {error}") from None
    _settle_memory()
    daemon = Daemon(volume, request, ready)
    try:
        trio.run(daemon.main)
    finally:
        if not daemon.finished:
            fuse.finish(unmount=True)
    return daemon.left_bytes


def _settle_memory() -> None:
    """Collections of a large heap pause every request: collect less often, and not what is here for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    sys.setswitchinterval(0.0005)


class Daemon:
    """One mounted file system and its ways to end."""

    def __init__(self, volume: Volume, request: MountRequest, ready: Callable[[], None]) -> None:
        self.volume = volume
        self.mountpoint = request.mountpoint
        self.finished = False
        self.left_bytes = 0
        self.drain_on_stop = True
        self._ready = ready
        self._drain_timeout_s = request.config.mount.drain_timeout_s
        self._stopping = False
        self._control = ControlServer(self)

    async def main(self) -> None:
        """Serve; when the kernel lets go, drain what is left and close."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.volume.run)
            await nursery.start(self._control.serve)
            await nursery.start(self._signals)
            nursery.start_soon(self._announce)
            await fuse.serve()
            fuse.finish(unmount=self._stopping)
            self.finished = True
            if not self._stopping and self.drain_on_stop:
                await self._drain_with_progress("unmounted")
            with trio.CancelScope(shield=True):
                nursery.cancel_scope.cancel()
        self.left_bytes = self.volume.dirty_bytes
        await self.volume.close()
        notify.send("STOPPING=1\nSTATUS=Stopped")

    async def _announce(self) -> None:
        """Say that the mount answers, once it does."""
        await trio.to_thread.run_sync(os.stat, self.mountpoint)
        await trio.to_thread.run_sync(self._set_read_ahead)
        notify.send(f"READY=1\nSTATUS=Mounted at {self.mountpoint}")
        self._ready()

    def _set_read_ahead(self) -> None:
        """Larger buffered reads, which the mount options cannot ask for; root only."""
        device = mounts.device_of(self.mountpoint)
        path = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
        try:
            path.write_text(str(parse_size(self.volume.config.mount.read_ahead) // KIB))
        except OSError as error:
            log.info("read-ahead stays as it is: %s", error)

    async def _signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if self._stopping:
                    log.warning("%s again: stopping without waiting for uploads", name)
                    fuse.stop()
                    continue
                self._stopping = True
                notify.send("STOPPING=1")
                self._nursery.start_soon(self._stop_after_drain, name)

    async def _stop_after_drain(self, why: str) -> None:
        try:
            await self._drain_with_progress(why)
        finally:
            fuse.stop()

    async def _drain_with_progress(self, why: str) -> None:
        """Upload what waits until the deadline; systemd is told how far it is and to be patient."""
        volume = self.volume
        total = volume.dirty_bytes
        log.info("%s: draining %d bytes", why, total)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_progress)
            left = await volume.drain(self._drain_timeout_s)
            nursery.cancel_scope.cancel()
        if left:
            log.warning("%d bytes were not uploaded in time; the next start goes on with them", left)

    async def _tell_progress(self) -> None:
        while True:
            left = self.volume.dirty_bytes
            extend_us = int((PROGRESS_TICK_S + CLOSING_S) * 1_000_000)
            notify.send(f"STATUS=Draining: {left / 2**20:.1f} MiB left\nEXTEND_TIMEOUT_USEC={extend_us}")
            await trio.sleep(PROGRESS_TICK_S)
