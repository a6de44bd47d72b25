"""The lean worker loop on a real mount: what it must not lose against pyfuse3's own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Self

import pyfuse3
import pytest
import trio
import trio.testing

from gsfs import loop

SERVICE_WAIT_S = 20
NULLFS = Path(__file__).parents[2] / "scripts" / "benchmarks" / "nullfs.py"

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK),
    reason="needs /dev/fuse, readable and writable",
)


class Probe(pyfuse3.Operations):
    """A root directory whose attribute `user.slow` is answered only once `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.waiting = 0
        self.all_waiting = trio.Event()
        self.expected_waiters = 0
        self.release = trio.Event()

    def _attributes(self, ino: int) -> pyfuse3.EntryAttributes:
        attr = pyfuse3.EntryAttributes()
        attr.st_ino = ino
        attr.st_mode = 0o040755
        attr.st_nlink = 2
        attr.attr_timeout = attr.entry_timeout = 0
        return attr

    async def getattr(self, ino: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        self.requests += 1
        return self._attributes(ino)

    async def getxattr(self, ino: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        # Attributes rather than names: the kernel sends one lookup at a time for a directory
        self.requests += 1
        if name == b"user.thread":
            await trio.to_thread.run_sync(os.getpid)
        elif name == b"user.slow":
            self.waiting += 1
            if self.waiting == self.expected_waiters:
                self.all_waiting.set()
            await self.release.wait()
        return b"answered"

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return pyfuse3.StatvfsData()


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mount"
    path.mkdir()
    yield path
    if os.path.ismount(path):
        subprocess.run(["fusermount3", "-u", "-z", str(path)], check=True)


@contextlib.asynccontextmanager
async def served(probe: Probe, mountpoint: Path) -> AsyncIterator[trio.CancelScope]:
    """Mount the probe with the lean loop; on the way out terminate the loop and unmount."""
    assert loop.install()
    pyfuse3.init(probe, str(mountpoint), {"fsname=probe"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            yield nursery.cancel_scope
            pyfuse3.terminate()
    finally:
        pyfuse3.close()
        loop.uninstall()


async def in_thread(work: Callable[..., object], *args: object) -> object:
    """Run a client of the mount in a thread; abandoned on cancellation so that a broken loop fails, not hangs."""
    with trio.fail_after(SERVICE_WAIT_S):
        return await trio.to_thread.run_sync(
            work, *args, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )


def ask(mountpoint: Path, attribute: str) -> None:
    assert os.getxattr(mountpoint, attribute) == b"answered"


class Hammer:
    """Threads that send getattr requests without a pause, as several clients would, until stopped."""

    def __init__(self, mountpoint: Path, clients: int) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(mountpoint,)) for _ in range(clients)]

    def _run(self, mountpoint: Path) -> None:
        while not self._stop.is_set():
            os.stat(mountpoint)

    async def __aenter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stop.set()
        with trio.CancelScope(shield=True):
            for thread in self._threads:
                await trio.to_thread.run_sync(thread.join)


def test_the_hook_of_the_pinned_pyfuse3_is_there_and_is_given_back() -> None:
    assert loop.install()
    assert pyfuse3.trio is not trio
    assert not loop.install(), "a second install must not wrap the first"
    loop.uninstall()
    assert pyfuse3.trio is trio


def test_without_the_hook_the_stock_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(pyfuse3, "trio")
    assert not loop.install()
    loop.uninstall()
    assert not hasattr(pyfuse3, "trio")


def test_trio_still_shows_the_descriptor_it_waits_on() -> None:
    async def main() -> int | None:
        return loop._trio_epoll_fd()

    assert isinstance(trio.run(main), int), "without it every lone request costs a pass through the scheduler"


def test_background_tasks_advance_while_requests_never_pause(mountpoint: Path) -> None:
    probe = Probe()

    async def main() -> None:
        async with served(probe, mountpoint), Hammer(mountpoint, clients=2):
            with trio.fail_after(SERVICE_WAIT_S):
                while probe.requests < 100:
                    await trio.lowlevel.checkpoint()
                for _ in range(50):
                    seen = probe.requests
                    while probe.requests == seen:  # both advance: the task and the requests
                        await trio.lowlevel.checkpoint()

    trio.run(main)


def test_a_timer_fires_while_requests_never_pause(mountpoint: Path) -> None:
    probe = Probe()

    async def main() -> float:
        async with served(probe, mountpoint), Hammer(mountpoint, clients=2):
            began = trio.current_time()
            with trio.move_on_after(0.05) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            return trio.current_time() - began

    assert trio.run(main) < SERVICE_WAIT_S / 2


def test_many_slow_requests_wait_side_by_side_and_others_pass_them(
    mountpoint: Path,
) -> None:
    probe = Probe()
    probe.expected_waiters = 40

    async def main() -> None:
        async with served(probe, mountpoint), trio.open_nursery() as clients:
            for _ in range(probe.expected_waiters):
                clients.start_soon(in_thread, ask, mountpoint, "user.slow")
            with trio.fail_after(SERVICE_WAIT_S):
                await probe.all_waiting.wait()
            for _ in range(20):
                await in_thread(os.stat, mountpoint)
            await in_thread(ask, mountpoint, "user.thread")
            probe.release.set()

    trio.run(main)
    assert probe.waiting == probe.expected_waiters


def test_handlers_that_hop_through_threads_all_finish(mountpoint: Path) -> None:
    probe = Probe()

    def client() -> None:
        for _ in range(25):
            ask(mountpoint, "user.thread")

    async def main() -> None:
        async with served(probe, mountpoint), trio.open_nursery() as clients:
            for _ in range(8):
                clients.start_soon(in_thread, client)

    trio.run(main)
    assert probe.requests >= 200


def test_terminate_ends_the_loop_under_load_and_when_idle(mountpoint: Path) -> None:
    async def main(clients: int) -> None:
        probe = Probe()
        loop.install()
        pyfuse3.init(probe, str(mountpoint), {"fsname=probe"})
        try:
            with trio.fail_after(SERVICE_WAIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pyfuse3.main)
                    async with Hammer(mountpoint, clients):
                        while clients and probe.requests < 50:
                            await trio.lowlevel.checkpoint()
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    pyfuse3.terminate()
        finally:
            pyfuse3.close()
            loop.uninstall()

    for clients in (0, 3):
        trio.run(main, clients)


def test_unmounting_from_outside_ends_the_loop(mountpoint: Path) -> None:
    async def main() -> None:
        loop.install()
        pyfuse3.init(Probe(), str(mountpoint), {"fsname=probe"})
        try:
            with trio.fail_after(SERVICE_WAIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pyfuse3.main)
                    await in_thread(os.stat, mountpoint)
                    await trio.run_process(["fusermount3", "-u", str(mountpoint)])
        finally:
            pyfuse3.close(unmount=False)
            loop.uninstall()

    trio.run(main)


def test_cancellation_ends_the_loop_and_its_suspended_handlers(
    mountpoint: Path,
) -> None:
    probe = Probe()
    probe.expected_waiters = 3

    def ask_in_vain() -> None:
        with contextlib.suppress(OSError):
            ask(mountpoint, "user.slow")

    async def main() -> None:
        threads = [threading.Thread(target=ask_in_vain) for _ in range(probe.expected_waiters)]
        async with served(probe, mountpoint) as scope:
            for thread in threads:
                thread.start()
            with trio.fail_after(SERVICE_WAIT_S):
                await probe.all_waiting.wait()
            scope.cancel()
        for thread in threads:
            await trio.to_thread.run_sync(thread.join, SERVICE_WAIT_S)
            assert not thread.is_alive()

    trio.run(main)


def test_a_second_mount_in_the_same_process_starts_afresh(mountpoint: Path) -> None:
    async def main() -> None:
        async with served(Probe(), mountpoint):
            await in_thread(os.stat, mountpoint)

    for _ in range(2):
        trio.run(main)


def test_an_idle_mount_sleeps(tmp_path: Path, mountpoint: Path) -> None:
    daemon = subprocess.Popen([sys.executable, str(NULLFS), str(mountpoint), str(tmp_path / "data")])
    try:
        wait_for_mount(daemon, mountpoint)
        before = cpu_s(daemon.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.wait(0.5)
        assert cpu_s(daemon.pid) - before < 0.1
    finally:
        subprocess.run(["fusermount3", "-u", str(mountpoint)], check=True)
        assert daemon.wait(SERVICE_WAIT_S) == 0


def wait_for_mount(daemon: subprocess.Popen[bytes], mountpoint: Path) -> None:
    deadline = time.monotonic() + SERVICE_WAIT_S
    while not os.path.ismount(mountpoint):
        assert daemon.poll() is None, "the daemon died before it mounted"
        assert time.monotonic() < deadline
        os.sched_yield()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
