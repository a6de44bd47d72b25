"""A real daemon on a real mount, to be killed. Owns its process and what must hold after each death."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gsfs import mounts
from gsfs.config import load
from gsfs.model import ROOT_INO, ReplicaState
from gsfs.namespace.fsck import check
from gsfs.namespace.store import open_store
from tests.support.load import Load
from tests.support.mounting import Mount

REPOSITORY = Path(__file__).parents[2]
HASTY = (sys.executable, "-m", "tests.support.hasty")
WAIT_S = 60.0
KNOBS: dict[str, dict[str, Any]] = {
    "cache": {"size": "4MiB", "min_free": "0"},
    "transfer": {"segment_size": "1MiB", "seal_idle_s": 0.2, "seal_age_s": 1.0, "full_wait_s": 20.0},
}


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = WAIT_S) -> None:
    """Return when it holds. Fails the test when it does not come to that."""
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"did not happen within {deadline_s:g} s: {what}"
        select.select([], [], [], 0.01)


class Victim:
    """One namespace, mounted by one daemon after the other."""

    def __init__(self, home: Path, knobs: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.mount = Mount(home)
        self.mount.create({**KNOBS, **(knobs or {})})
        self.kills = 0
        self._daemon: subprocess.Popen[bytes] | None = None

    # --- the daemon

    def start(self, failpoint: str = "") -> None:
        """Mount; return when it answers, or when the failpoint has struck already."""
        self.end()  # of a test that failed before
        environment = {**os.environ, "GSFS_FAILPOINT": failpoint}
        if not failpoint:
            del environment["GSFS_FAILPOINT"]
        command = [*HASTY, "mount", "-f", str(self.mount.config), str(self.mount.root)]
        with (self.mount.home / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log)
        wait_for(lambda: self.dead or self._answers(), "the mount answers")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):  # of a daemon that died while it was asked
            return mounts.at(self.mount.root) is not None and os.stat(self.mount.root).st_ino == ROOT_INO
        return False

    @property
    def dead(self) -> bool:
        assert self._daemon is not None
        return self._daemon.poll() is not None

    @property
    def status(self) -> int:
        assert self._daemon is not None
        return self._daemon.wait(WAIT_S)

    def kill(self) -> None:
        """As ``kill -9`` does."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGKILL)

    def buried(self) -> None:
        """The daemon is dead, by SIGKILL and nothing else: free the mount point."""
        assert self.status == -signal.SIGKILL, f"the daemon ended by itself: {self.status}\n{self.log_tail()}"
        self.kills += 1
        self._free()

    def _free(self) -> None:
        if mounts.at(self.mount.root) is not None:
            mounts.unmount(self.mount.root, lazy=True)

    def log_tail(self) -> str:
        text = (self.mount.home / "daemon.log").read_text(errors="replace")
        return text[-3000:]

    def stop(self) -> None:
        """An orderly unmount: everything is uploaded."""
        self.mount.unmount()
        assert self.status == 0, self.log_tail()

    def end(self) -> None:
        """Leave nothing mounted and nobody running."""
        if self._daemon is not None and not self.dead:
            self.kill()
            self._daemon.wait(WAIT_S)
        self._free()

    # --- what must hold

    def problems(self) -> list[str]:
        """Of the unmounted namespace: inconsistencies, and objects and files nobody names."""
        config = load(self.mount.config, os.environ)
        store = open_store(config.namespace.url)
        try:
            objects = store.objects
            rows = {row.id: row for row in objects.all()}
            replicas = objects.at(config.bucket_defaults.home)  # type: ignore[arg-type]
            named = {objects.key_of(rows[r.object], r): r for r in replicas}
            found = list(check(store))
        finally:
            store.close()
        base = self.mount.home / "store"
        there = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
        there = {key for key in there if not key.startswith(("meta/", "."))}
        files = {int(path.name, 16) for path in (self.mount.home / "cache").glob("objects/*/*")}
        missing = {key for key, r in named.items() if r.state is ReplicaState.AVAILABLE} - there
        found += [f"at the location, but not in the namespace: {key}" for key in sorted(there - named.keys())]
        found += [f"in the namespace, but not at the location: {key}" for key in sorted(missing)]
        found += [f"a file of no object: {number}" for number in sorted(files - rows.keys())]
        return found


def die_under(victim: Victim, load_: Load, *, after: Callable[[], bool]) -> None:
    """Load until ``after`` holds or the daemon is dead."""
    load_.run(lambda: victim.dead or after(), 2 * WAIT_S)
