"""A stand-in for systemd's notification socket. Owns what was received, in order."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Notified:
    """Messages of sd_notify(3), each a list of its lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.lines: list[str] = []

    def until(self, text: str, deadline_s: float = 60.0) -> None:
        """Receive until a line starts so. Fails when none came in time."""
        end = time.monotonic() + deadline_s
        while not any(line.startswith(text) for line in self.lines):
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                self.lines += self._socket.recv(65536).decode().splitlines()
            except TimeoutError:
                raise AssertionError(f"no {text} came; there were {self.lines}") from None

    def drain(self) -> None:
        """Receive all that has been sent."""
        self._socket.setblocking(False)
        try:
            while True:
                self.lines += self._socket.recv(65536).decode().splitlines()
        except BlockingIOError:
            return

    def index(self, text: str) -> int:
        """Place of the first line that starts so."""
        return next(at for at, line in enumerate(self.lines) if line.startswith(text))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def notification_socket() -> Iterator[Notified]:
    """In a short path: the address of a socket has room for 107 bytes."""
    path = Path(f"/tmp/gsfs-notify-{os.getpid()}-{time.monotonic_ns()}")
    notified = Notified(path)
    try:
        yield notified
    finally:
        notified.close()
        path.unlink()
