"""Clocks, CPU accounts and cold caches. Owns how a figure is taken; knows no workload and no file system."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_STATX_FORCE_SYNC = 0x2000
STATX_BASIC_STATS = 0x7FF
SETTLED_S = 0.05
"""A daemon that used less CPU than a tenth of this, in this time, has nothing left over from before."""

QUIET_S = 0.2
"""A disk without a request for so long is idle."""
QUIET_CHECKS = 20
"""After as many, somebody else is using the disk: no use in waiting for them."""


def wall_s(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run(*command: str | Path, stdout: int = subprocess.DEVNULL) -> None:
    """Run a tool to its end; its standard error is ours. Raises CalledProcessError."""
    subprocess.run([str(part) for part in command], check=True, stdout=stdout)


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of the processes, all their threads, ended ones too. To the nanosecond, unlike /proc's ticks."""
    # clock_getcpuclockid(3): the complement of the pid above three bits that say "process, scheduler clock"
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def settle(pids: Sequence[int]) -> None:
    """Return once the daemon is idle: what an earlier step left behind is not this one's cost."""
    for _ in range(100):
        before = cpu_s(pids)
        time.sleep(SETTLED_S)
        if cpu_s(pids) - before < SETTLED_S / 10:
            return


def drop_kernel_caches() -> None:
    """Write everything back, then forget pages, entries and inodes. Raises PermissionError unless root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def quiesce(directory: Path) -> None:
    """Write everything back, and let the disk below `directory` finish what a deletion left it to discard."""
    os.sync()
    device = directory.stat().st_dev
    counters = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    before = ""
    for _ in range(QUIET_CHECKS):
        now = counters.read_text() if counters.exists() else before
        if now == before:
            return
        before = now
        time.sleep(QUIET_S)


def touch_free_memory(size_bytes: int) -> None:
    """Have the machine's free memory backed: in a virtual machine the first touch of a page can cost ten times
    the copying of it, and would be paid by whoever happens to write into fresh pages.
    """
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        pass


@contextlib.contextmanager
def on_one_cpu(pids: Sequence[int]) -> Iterator[None]:
    """Pin this process and every thread of the daemons to one CPU, so that CPU per request can be compared.

    On two, each request pays for waking an idle CPU, which depends on the machine's other guests.
    """
    allowed = os.sched_getaffinity(0)
    threads = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    chosen = {min(allowed)}
    try:
        for thread in [0, *threads]:
            os.sched_setaffinity(thread, chosen)
        yield
    finally:
        for thread in [0, *threads]:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, allowed)


class FreshStat:
    """statx that makes the kernel ask the file system, whatever it has cached."""

    def __init__(self, path: Path) -> None:
        self._path = os.fsencode(path)
        self._answer = ctypes.create_string_buffer(256)

    def __call__(self) -> None:
        if LIBC.statx(AT_FDCWD, self._path, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, self._answer):
            raise OSError(ctypes.get_errno(), "statx", os.fsdecode(self._path))


def daemons_of(mountpoint: Path, known_before: set[int]) -> list[int]:
    """The processes that serve a FUSE mount.

    Kernels that tell which connection a /dev/fuse descriptor belongs to are asked; on others it is whoever
    holds one now and did not before.
    """
    connection = os.minor(os.stat(mountpoint).st_dev)
    holders = fuse_holders()
    told = {pid for pid, connections in holders.items() if connection in connections}
    return sorted(told or set(holders) - known_before)


def fuse_holders() -> dict[int, set[int]]:
    """Processes with /dev/fuse open, each with the connections the kernel names for it (perhaps none)."""
    holders: dict[int, set[int]] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                if os.readlink(link) == "/dev/fuse":
                    fdinfo = (process / "fdinfo" / link.name).read_text()
                    holders.setdefault(int(process.name), set()).update(_connections(fdinfo))
    return holders


def _connections(fdinfo: str) -> set[int]:
    return {int(line.split()[1]) for line in fdinfo.splitlines() if line.startswith("fuse_connection:")}
