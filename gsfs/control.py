"""The answering side of the control socket (``asking`` has the protocol). Owns what each command does."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from gsfs import admin
from gsfs.asking import NAME, address
from gsfs.commands import COMMANDS
from gsfs.errors import ExitCode, GsfsError, Incomplete, NotAnswering
from gsfs.filesystem.core import Caller
from gsfs.model import ROOT_INO, Ino
from gsfs.namespace.fsck import check
from gsfs.transfer.sweep import AGE_MIN_S, sweep
from gsfs.volume import Volume

log = logging.getLogger(__name__)

LINE_MAX = 1 << 20
PROGRESS_S = 0.2
Tell = Callable[[dict[str, Any]], Awaitable[None]]


class Served(Protocol):
    """What the control socket needs of the daemon."""

    volume: Volume
    mountpoint: Path
    drain_on_stop: bool


class ControlServer:
    """Answers of one daemon."""

    def __init__(
        self, daemon: Served, forget_entry: Callable[[int, bytes], None] = lambda _p, _n: None
    ) -> None:
        self._daemon = daemon
        self._forget_entry = forget_entry
        self._commands: dict[str, Callable[[dict[str, Any], Tell], Awaitable[Any]]] = {
            "status": self._status,
            "flush": self._flush,
            "prepare_stop": self._prepare_stop,
            "bucket_list": self._bucket_list,
            "bucket_show": self._bucket_show,
            "bucket_create": self._bucket_create,
            "bucket_set": self._bucket_set,
            "bucket_rm": self._bucket_rm,
            "fsck": self._fsck,
            "gc": self._gc,
            **{name: partial(command, daemon.volume) for name, command in COMMANDS.items()},
        }

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        name, directory = address(self._daemon.volume.config.cache_dir)
        path = self._daemon.volume.config.cache_dir / NAME
        path.unlink(missing_ok=True)
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await sock.bind(name)
            os.chmod(path, 0o600)
            sock.listen(16)
            task_status.started()
            await trio.serve_listeners(self._talk, [trio.SocketListener(sock)])
        finally:
            sock.close()
            os.close(directory)
            path.unlink(missing_ok=True)

    async def _talk(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await self._answer(stream, await _read_line(stream))
            except* (trio.BrokenResourceError, trio.ClosedResourceError, ValueError) as gone:
                log.debug("control: the asking side went away: %r", gone.exceptions)

    async def _answer(self, stream: trio.SocketStream, line: bytes) -> None:
        """The error door: whatever a command raises becomes an answer, and the daemon lives."""

        async def tell(progress: dict[str, Any]) -> None:
            await _send(stream, {"progress": progress})

        request: Any = None
        try:
            request = json.loads(line)
            command = self._commands.get(request["command"])
            if command is None:
                raise NotAnswering(
                    f"the daemon does not know {request['command']!r}; it is of another version"
                )
            answer = _encoded({"result": await command(request.get("arguments", {}), tell)})
        except GsfsError as error:
            answer = _encoded({"error": str(error), "exit_code": int(error.exit_code)})
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as error:
            log.exception("control: %r failed", request)
            text = f"{type(error).__name__}: {error}; see the daemon's log"
            answer = _encoded({"error": text, "exit_code": int(ExitCode.INTERNAL)})
        await stream.send_all(answer)

    # --- commands

    async def _status(self, _arguments: dict[str, Any], _tell: Tell) -> Any:
        return admin.status(self._daemon.volume, str(self._daemon.mountpoint))

    async def _flush(self, arguments: dict[str, Any], tell: Tell) -> Any:
        """Upload what waits: everything, a bucket, or the objects of one file."""
        volume = self._daemon.volume
        ino = arguments.get("ino", ROOT_INO)
        bucket: Ino | None = None
        wanted = None
        if ino != ROOT_INO:
            inode = volume.store.inodes.get(ino)
            bucket = inode.bucket
            if inode.is_regular:
                wanted = {run.object for run in volume.store.extents.runs(inode, 0, inode.size)}
        with trio.move_on_after(arguments.get("timeout_s") or float("inf")) as limit:
            await self._with_progress(tell, lambda: volume.flush(bucket, wanted))
        if limit.cancelled_caught:
            raise Incomplete(
                f"{volume.dirty_bytes} bytes are not uploaded yet{self._why()}; they stay on the local disk and are retried"
            )
        return {"dirty_bytes": volume.dirty_bytes}

    async def _with_progress(self, tell: Tell, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, telling how far it is. Ends when it is done, or when the asking side went away."""
        failed: list[Exception] = []

        async def report() -> None:
            try:
                await self._progress(tell)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                failed.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(report)
            try:
                await work()
            except Exception as error:  # goes on outside: a nursery would wrap it
                failed.append(error)
            nursery.cancel_scope.cancel()
        if failed:
            raise failed[0]

    async def _progress(self, tell: Tell) -> None:
        volume = self._daemon.volume
        while True:
            await tell({"left_bytes": volume.dirty_bytes, "waiting": self._why()})
            await trio.sleep(PROGRESS_S)

    def _why(self) -> str:
        """Locations that do not answer, and what they said last."""
        health = ((id_, location.health) for id_, location in self._daemon.volume.locations.items())
        down = [f"{id_} is {h.state}: {h.cause}" for id_, h in health if h.state != "ok"]
        return f" ({'; '.join(down)})" if down else ""

    async def _prepare_stop(self, arguments: dict[str, Any], _tell: Tell) -> Any:
        """The next unmount ends the daemon with or without waiting for uploads."""
        self._daemon.drain_on_stop = bool(arguments.get("drain", True))
        return {"pid": os.getpid()}

    async def _bucket_list(self, _arguments: dict[str, Any], _tell: Tell) -> Any:
        return admin.list_buckets(self._daemon.volume.store)

    async def _bucket_show(self, arguments: dict[str, Any], _tell: Tell) -> Any:
        return admin.show_bucket(self._daemon.volume, arguments["name"])

    async def _bucket_create(self, arguments: dict[str, Any], _tell: Tell) -> Any:
        volume, name = self._daemon.volume, arguments["name"]
        caller = Caller(arguments.get("uid", 0), arguments.get("gid", 0))
        answer = admin.create_bucket(
            volume.store,
            volume.names,
            name,
            arguments["settings"],
            list(map(str, volume.locations)),
            caller,
            volume.steward.region,
        )
        self._forget_entry(ROOT_INO, os.fsencode(name))
        return answer

    async def _bucket_set(self, arguments: dict[str, Any], _tell: Tell) -> Any:
        volume, name = self._daemon.volume, arguments["name"]
        bucket = admin.find_bucket(volume.store, name)
        checked = admin.check_settings(
            arguments["settings"], list(map(str, volume.locations)), volume.steward.region
        )
        return admin.apply_settings(volume.store, bucket, name, checked)

    async def _bucket_rm(self, arguments: dict[str, Any], _tell: Tell) -> Any:
        volume, name = self._daemon.volume, arguments["name"]
        admin.remove_bucket(volume.store, volume.names, name)
        self._forget_entry(ROOT_INO, os.fsencode(name))
        return {"removed": name}

    async def _fsck(self, _arguments: dict[str, Any], _tell: Tell) -> Any:
        store = self._daemon.volume.store
        store.write_out()
        return {"problems": check(store)}

    async def _gc(self, arguments: dict[str, Any], _tell: Tell) -> Any:
        """Collect everything that is garbage now; with ``sweep``, look for strays at every location as well."""
        volume, removed = self._daemon.volume, 0
        while count := await volume.garbage.collect():
            removed += count
        answer: dict[str, Any] = {"removed_objects": removed}
        if arguments.get("sweep"):
            age_s = arguments.get("age_min_s", AGE_MIN_S)
            answer["swept"] = {
                id_: asdict(await sweep(volume.store, at, age_s)) for id_, at in volume.locations.items()
            }
        return answer


async def _read_line(stream: trio.SocketStream) -> bytes:
    data = b""
    while b"\n" not in data:
        part = await stream.receive_some(65536)
        if not part or len(data) > LINE_MAX:
            raise ValueError("control: no whole line came")
        data += part
    return data


async def _send(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    await stream.send_all(_encoded(message))


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
