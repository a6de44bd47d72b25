"""Recording what is asked of a mount as a trace that ``gsfs simulate`` replays. Owns the file and what counts.

A request is the first read of an opened file, its close after it was written to, and its removal, each for the whole
file. Nothing of a name is kept: keys are keyed hashes of inode numbers, under a secret that is forgotten at the end.
The file is written by a thread; when it cannot keep up, requests are left out and counted, and nobody waits.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gsfs.namespace.inodes import Inode
from gsfs.sim.formats import hashed_key, recorded_head, recorded_line, sampled
from gsfs.sim.requests import DELETE, GET, PUT, Request

log = logging.getLogger(__name__)

LINES_AT_ONCE = 512
CHUNKS_MAX = 256
"""Chunks that may wait for the disk: with full ones about 10 MiB."""


class Recorder:
    """One recording, from ``gsfs trace start`` to ``stop``. Raises OSError where the file cannot be made."""

    def __init__(
        self, path: Path, region: str, share: float = 1.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.share = share
        self.requests = 0
        self.dropped = 0
        self.failure = ""
        self._region = region
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._lines: list[str] = [recorded_head()]
        self._chunks: queue.Queue[list[str]] = queue.Queue(CHUNKS_MAX)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._thread = threading.Thread(target=self._write, name="gsfs-trace", daemon=True)
        self._thread.start()

    # --- what is told

    def read(self, inode: Inode) -> None:
        """An opened file is read for the first time."""
        self._note(GET, inode)

    def written(self, inode: Inode) -> None:
        """A file that was written to is closed."""
        self._note(PUT, inode)

    def deleted(self, inode: Inode) -> None:
        """The last name of a file is gone."""
        self._note(DELETE, inode)

    def _note(self, op: int, inode: Inode) -> None:
        key = hashed_key(b"%d" % inode.ino, self._secret)
        if self.share < 1.0 and not sampled(key, self.share):
            return
        size = 0 if op == DELETE else inode.size
        request = Request(int(self._clock() * 1000), op, key, size, size, self._region)
        self._lines.append(recorded_line(request, str(inode.bucket)))
        self.requests += 1
        if len(self._lines) >= LINES_AT_ONCE:
            self.hand_over()

    # --- writing

    def hand_over(self) -> None:
        """Let the thread write what was recorded so far."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._chunks.put_nowait(lines)
        except queue.Full:
            self.requests -= len(lines)
            self.dropped += len(lines)

    def _write(self) -> None:
        """In the thread: until an empty chunk comes."""
        while lines := self._chunks.get():
            try:
                data = "".join(lines).encode()
                while data and not self.failure:
                    data = data[os.write(self._fd, data) :]
            except OSError as error:
                self.failure = f"{self.path}: {error.strerror}"
                log.error("trace: %s; nothing more is recorded", self.failure)

    def stop(self) -> None:
        """Write the rest. Waits for the disk: not to be called where requests are answered."""
        lines, self._lines = self._lines, []
        if lines:
            self._chunks.put(lines)
        self._chunks.put([])
        self._thread.join()
        os.close(self._fd)

    def to_json(self) -> dict[str, object]:
        """For ``status`` and ``trace stop``."""
        return {
            "file": str(self.path),
            "sample": self.share,
            "requests": self.requests,
            "dropped_requests": self.dropped,
            "failure": self.failure or None,
        }
