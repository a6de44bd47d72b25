"""The file systems that are compared. Owns mounting and unmounting them; leaves no mount and no process behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import measure

MOUNT_WAIT_S = 30
STOP_WAIT_S = 60
GSFS = [sys.executable, "-c", "from gsfs.cli.main import main; main()"]
NULLFS = Path(__file__).with_name("nullfs.py")
CONFIG = """
[filesystem]
name = "bench"
[namespace]
url = "sqlite:///{root}/namespace.db"
[cache]
path = "{root}/cache"
size = "20GiB"
[[location]]
id = "local:disk"
kind = "local"
path = "{root}/store"
[bucket_defaults]
home = "local:disk"
[transfer]
upload = "held"
"""
"""The log on the disk that ext4 is measured on, and no cloud in the way: nothing uploads until asked."""


class Target:
    """A directory to work in, and the daemons whose CPU time it costs. The base class is a plain directory."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.work = root / "work"
        self.pids: list[int] = []

    def start(self) -> None:
        self.work.mkdir(parents=True)

    def stop(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


class Null(Target):
    """The floor: a pyfuse3 file system without a database."""

    def __init__(self, name: str, root: Path, stock_loop: bool = False) -> None:
        super().__init__(name, root)
        self._arguments = ["--stock"] if stock_loop else []
        self._mountpoint = root / "mount"
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._mountpoint.mkdir(parents=True)
        command = [sys.executable, str(NULLFS), str(self._mountpoint), str(self.root / "data")]
        self._daemon = subprocess.Popen([*command, *self._arguments])
        deadline = time.monotonic() + MOUNT_WAIT_S
        while not os.path.ismount(self._mountpoint):
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not mount; see its message above")
            time.sleep(0.02)
        self.pids = [self._daemon.pid]
        self.work = self._mountpoint / "work"
        self.work.mkdir()

    def stop(self) -> None:
        _unmount(self._mountpoint)
        if self._daemon is not None:
            try:
                self._daemon.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        super().stop()


class Gsfs(Target):
    """gsfs as a user mounts it, with its uploads held."""

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name, root)
        self._config = root / "gsfs.toml"
        self._mountpoint = root / "mount"

    def start(self) -> None:
        for directory in (self._mountpoint, self.root / "store", self.root / "cache"):
            directory.mkdir(parents=True)
        self._config.write_text(CONFIG.format(root=self.root))
        subprocess.run([*GSFS, "init", str(self._config)], check=True, stdout=subprocess.DEVNULL)
        before = set(measure.fuse_holders())
        mount = [*GSFS, "mount", str(self._config), str(self._mountpoint)]
        subprocess.run(mount, check=True, stdout=subprocess.DEVNULL)
        self.pids = measure.daemons_of(self._mountpoint, before)
        self.work = self._mountpoint / "bench"
        self.work.mkdir()

    def stop(self) -> None:
        # Without the drain: what was held would be uploaded now, for nobody
        unmounted = subprocess.run(
            [*GSFS, "umount", "--no-drain", str(self._mountpoint)], check=False, stdout=subprocess.DEVNULL
        )
        if unmounted.returncode:
            _unmount(self._mountpoint)
        _end(self.pids)
        super().stop()


class Peer(Target):
    """A file system that somebody else has mounted: a directory is made in it, and removed."""

    def __init__(self, name: str, mounted: Path) -> None:
        super().__init__(name, mounted / f"gsfs-bench-{os.getpid()}")
        self.work = self.root
        self._mounted = mounted

    def start(self) -> None:
        super().start()
        with contextlib.suppress(OSError):
            self.pids = measure.daemons_of(self._mounted, set(measure.fuse_holders()))


def _unmount(mountpoint: Path) -> None:
    """Unmount if mounted; lazily when something still holds on to it."""
    if not os.path.ismount(mountpoint):
        return
    for flags in (["-u"], ["-u", "-z"]):
        if subprocess.run(["fusermount3", *flags, str(mountpoint)], check=False).returncode == 0:
            return


def _end(pids: list[int]) -> None:
    """Wait until the daemons are gone; after STOP_WAIT_S end them, each by its id."""
    deadline = time.monotonic() + STOP_WAIT_S
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
