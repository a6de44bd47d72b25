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
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import trio

from gsfs import answers, fuse, loop, mounts, notify
from gsfs.config import Config, parse_size
from gsfs.control import ControlServer
from gsfs.errors import NotFoundError, PermissionRefused
from gsfs.model import KIB, MIB
from gsfs.volume import Volume

log = logging.getLogger(__name__)

PROGRESS_TICK_S = 1.0
CLOSING_S = 30.0
"""What closing the namespace may take after the drain: systemd is asked to wait for so long."""
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The first drains with a deadline, the second stops at once; a terminal that goes away is a reason to stop, too."""


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
    answers.install_xattrs(volume)
    loop.install()
    said = ""
    try:
        with _standard_error() as file:
            try:
                fuse.start(volume, str(request.mountpoint), request.options)
            finally:
                said = _last_line(file)
    except RuntimeError as error:
        trio.run(volume.close)
        raise PermissionRefused(f"{request.mountpoint}: cannot be mounted: {said or error}") from None
    _settle_memory()
    daemon = Daemon(volume, request, ready)
    try:
        trio.run(daemon.main)
    except BaseException:
        volume.abandon()
        raise
    finally:
        if not daemon.finished:
            fuse.finish(unmount=True)
    return daemon.left_bytes


@contextmanager
def _standard_error() -> Iterator[BinaryIO]:
    """What libraries and the programs they start print meanwhile: only there do they say why mounting failed."""
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(own, 2)
            os.close(own)


def _last_line(file: BinaryIO) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").splitlines()
    return lines[-1] if lines else ""


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
        self._patience = trio.CancelScope()
        """Of the drain; a second signal cancels it."""
        self._control = ControlServer(self, fuse.forget_entry)
        volume.core.on_entry_changed = fuse.forget_entry
        volume.core.on_attributes_changed = fuse.forget_attributes

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
                notify.send("STOPPING=1")
                await self._drain_with_progress("unmounted")
            nursery.cancel_scope.cancel()
        self._tell_how_far("Closing")
        self.left_bytes = self.volume.dirty_bytes
        await self.volume.close()
        notify.send("STATUS=Stopped")

    async def _announce(self) -> None:
        """Say that the mount answers, once it does."""
        await trio.to_thread.run_sync(os.stat, self.mountpoint)
        await trio.to_thread.run_sync(self._set_read_ahead)
        await trio.to_thread.run_sync(self._let_many_wait)
        notify.send(f"READY=1\nSTATUS=Mounted at {self.mountpoint}")
        self._ready()

    def _set_read_ahead(self) -> None:
        """Larger buffered reads, which the mount options cannot ask for; root only."""
        try:
            device = mounts.device_of(self.mountpoint)
            path = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
            path.write_text(str(parse_size(self.volume.config.mount.read_ahead) // KIB))
        except (OSError, NotFoundError) as error:
            log.info("read-ahead stays as it is: %s", error)

    def _let_many_wait(self) -> None:
        """The kernel has twelve reads under way at most: so few that wait for a location that hangs would hold up
        the readers of all others. Needs root and the fusectl file system, which systemd mounts."""
        try:
            connection = mounts.device_of(self.mountpoint).partition(":")[2]
            Path(f"/sys/fs/fuse/connections/{connection}/max_background").write_text(str(fuse.TASKS_MAX // 2))
        except (OSError, NotFoundError) as error:
            log.info("reads under way at once stay as few as the kernel lets them: %s", error)

    async def _signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(*STOPS) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if self._stopping or self.finished:
                    log.warning("%s again: stopping without waiting for uploads", name)
                    self._patience.cancel()
                else:
                    self._stopping = True
                    notify.send("STOPPING=1")
                    self._nursery.start_soon(self._stop_after_drain, name)

    async def _stop_after_drain(self, why: str) -> None:
        """The mount serves while it drains, so that nobody's write fails; then the kernel lets go of it."""
        await self._drain_with_progress(why)
        if not self.finished:
            fuse.stop()

    async def _drain_with_progress(self, why: str) -> None:
        """Upload what waits until the deadline; systemd is told how far it is and to be patient."""
        log.info("%s: draining %d bytes", why, self.volume.dirty_bytes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_progress)
            with self._patience:
                await self.volume.drain(self._drain_timeout_s)
            nursery.cancel_scope.cancel()
        if left := self.volume.dirty_bytes:
            log.warning("%d bytes are not uploaded; the next start goes on with them", left)

    async def _tell_progress(self) -> None:
        while True:
            self._tell_how_far("Draining")
            await trio.sleep(PROGRESS_TICK_S)

    def _tell_how_far(self, doing: str) -> None:
        extend_us = int((PROGRESS_TICK_S + CLOSING_S) * 1_000_000)
        left_mib = self.volume.dirty_bytes / MIB
        notify.send(f"STATUS={doing}: {left_mib:.1f} MiB left\nEXTEND_TIMEOUT_USEC={extend_us}")
