"""A lean worker loop for pyfuse3. Owns the stand-in for `pyfuse3.trio`; never looks at a request.

pyfuse3 takes its event library from the module attribute `pyfuse3.trio` (the hook that its own asyncio mode
uses). Its workers do, for each request: take a lock, wait until the FUSE descriptor is readable, give the
lock back, read and answer the request. With trio itself behind the hook that is two passes through the
scheduler and five system calls; the stand-in makes the common case one `poll` and no pass at all:

* the lock does not checkpoint when it is free, and giving it back wakes nobody. Who waits for it is woken
  only once a task really suspends while the lock is free (seen through a trio instrument);
* `wait_readable` polls the descriptor first, and while no other task can run it sleeps in a second `poll` for
  a moment, watching trio's own epoll descriptor beside it, so that a thread's answer or a signal ends it;
* when `BUDGET_S` has passed without a pass through the scheduler, a real checkpoint is made: background tasks
  run, deadlines expire and cancellation arrives, whatever the load.

A timer of a background task may thus be late by BUDGET_S + NAP_MS. Everything else of trio is passed through.
"""

from __future__ import annotations

import contextlib
import logging
import select
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

import pyfuse3
import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

log = logging.getLogger(__name__)

BUDGET_S = 0.002
"""Longest run of requests without a real checkpoint."""
NAP_MS = 2
"""Longest sleep in our own poll before trio's scheduler is entered (whole milliseconds, as poll takes them)."""
SPIN_S = 0.0001
"""Longest busy wait before that sleep. Measured with client and daemon on two CPUs: 17 us a request, not 70."""
PREEMPTED_S = 0.00002
"""A look that took longer was interrupted by another process on this CPU: it takes 1 us by itself."""
SWITCH_INTERVAL_S = 0.0005
"""CPython's default of 5 ms lets a busy thread delay each request by as much; at this it is a tenth."""

_clock = time.monotonic


class _Schedule(trio.abc.Instrument):
    """Knows which tasks can run, and lets the next worker in when one suspends with the gate open."""

    def __init__(self) -> None:
        self.runnable: set[Task] = set()
        self.gate_held = False
        self.parked: deque[Task] = deque()
        """Workers that wait for the gate, longest first. Whoever is taken out is rescheduled at once."""
        self.checkpoint_due = 0.0
        self.napping = _NapPoll()

    def task_scheduled(self, task: Task) -> None:
        self.runnable.add(task)

    def before_task_step(self, task: Task) -> None:
        self.runnable.discard(task)

    def after_task_step(self, task: Task) -> None:
        # Must not raise: trio would drop the instrument and the parked workers would sleep for ever.
        if self.parked and not self.gate_held:
            trio.lowlevel.reschedule(self.parked.popleft())

    def renew_budget(self) -> None:
        self.checkpoint_due = _clock() + BUDGET_S

    def spend_budget(self) -> None:
        self.checkpoint_due = 0.0


class _NapPoll:
    """`poll` on the FUSE descriptor, and on trio's epoll beside it. Never sleeps when that is out of reach."""

    def __init__(self) -> None:
        self._fuse_fd = -1
        self._look = select.poll()
        self._both = select.poll()
        self._can_nap = False
        self._failed_spins = 0
        self._naps_until_spin = 0

    def look(self, fuse_fd: int) -> bool:
        """Whether a request (or the end of the session) waits. Under load it nearly always does."""
        if fuse_fd != self._fuse_fd:
            self._watch(fuse_fd)
        return bool(self._look.poll(0))

    def nap(self) -> bool:
        """Wait NAP_MS at most until a request or an event of trio's arrives; whether it was a request."""
        if not self._can_nap:
            return False
        events = self._spin() or self._both.poll(NAP_MS)
        return any(fd == self._fuse_fd for fd, _flags in events)

    def _spin(self) -> list[tuple[int, int]]:
        """Look again for SPIN_S before sleeping: a client on another CPU is back sooner than a sleep ends.

        A spin that saw nothing, or was preempted (the client shares this CPU, and was held up by it), is
        followed by 1, 3, 7 … 63 naps without one: an idle mount or a busy machine pays next to nothing.
        """
        if self._naps_until_spin:
            self._naps_until_spin -= 1
            return []
        looked = _clock()
        end = looked + SPIN_S
        events: list[tuple[int, int]] = []
        while looked < end and not events:
            events = self._both.poll(0)
            before, looked = looked, _clock()
        if events and looked - before < PREEMPTED_S:
            self._failed_spins = 0
        else:
            self._failed_spins = min(self._failed_spins + 1, 6)
            self._naps_until_spin = 2**self._failed_spins - 1
        return events

    def _watch(self, fuse_fd: int) -> None:
        self._look = select.poll()
        self._look.register(fuse_fd, select.POLLIN)
        trio_fd = _trio_epoll_fd()
        self._can_nap = trio_fd is not None
        if trio_fd is not None:
            self._both = select.poll()
            self._both.register(fuse_fd, select.POLLIN)
            self._both.register(trio_fd, select.POLLIN)
        self._fuse_fd = fuse_fd


def _trio_epoll_fd() -> int | None:
    """The descriptor on which trio waits: an epoll descriptor can itself be polled. None where trio moved it.

    trio has no public name for it. Without it the loop is as correct, and merely enters the scheduler once
    per request when requests come one at a time.
    """
    try:
        from trio._core._run import GLOBAL_RUN_CONTEXT

        fd: int = GLOBAL_RUN_CONTEXT.runner.io_manager._epoll.fileno()  # type: ignore[union-attr,unused-ignore]  # a private name of trio
    except (ImportError, AttributeError):
        log.debug("trio keeps its epoll descriptor elsewhere: requests are polled for without sleeping")
        return None
    return fd


class _Gate:
    """pyfuse3's read lock: free, it costs nothing; held, the worker parks until `_Schedule` wakes it."""

    def __init__(self, schedule: _Schedule) -> None:
        self._schedule = schedule

    async def __aenter__(self) -> None:
        schedule = self._schedule
        while schedule.gate_held:
            await self._park()
        schedule.gate_held = True

    async def __aexit__(self, *exc_info: object) -> None:
        self._schedule.gate_held = False

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        parked = self._schedule.parked
        parked.append(task)

        def abort(_raise_cancel: RaiseCancelT) -> Abort:
            parked.remove(task)
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class _Nursery:
    """pyfuse3's nursery of workers. Owns the instrument: it lives exactly as long as the workers do."""

    def __init__(self, schedule: _Schedule) -> None:
        self._schedule = schedule
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        self._nursery = await self._manager.__aenter__()
        trio.lowlevel.add_instrument(self._schedule)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        try:
            return await self._manager.__aexit__(exc_type, exc, traceback)
        finally:
            with contextlib.suppress(KeyError):  # trio has dropped an instrument that failed
                trio.lowlevel.remove_instrument(self._schedule)

    def start_soon(self, worker: Any, *args: Any, name: object = None) -> None:
        # A new worker counts as idle only once it has run: until then pyfuse3 would start another one at
        # each request. Hence the checkpoint before the next.
        self._schedule.spend_budget()
        assert self._nursery is not None
        self._nursery.start_soon(worker, *args, name=name)


class _Lowlevel:
    """`trio.lowlevel` with a `wait_readable` that looks before it sleeps."""

    def __init__(self, schedule: _Schedule) -> None:
        self._schedule = schedule

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        schedule = self._schedule
        if _clock() >= schedule.checkpoint_due:
            await trio.lowlevel.checkpoint()
            schedule.renew_budget()
        if schedule.napping.look(fd):
            return
        if not schedule.runnable and schedule.napping.nap():
            return
        await trio.lowlevel.wait_readable(fd)
        schedule.renew_budget()


class _LeanTrio:
    """What pyfuse3 sees as `trio`. One per `pyfuse3.main`: `open_nursery` begins it anew."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._schedule = _Schedule()
        self.lowlevel = _Lowlevel(self._schedule)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)

    def Lock(self) -> _Gate:  # noqa: N802  # the name that pyfuse3 asks for
        return _Gate(self._schedule)

    def open_nursery(self) -> _Nursery:
        self._begin()
        return _Nursery(self._schedule)


def install() -> bool:
    """Put the lean loop behind pyfuse3's hook. False where the hook is absent: the stock loop goes on.

    Call it before `pyfuse3.main`. It also shortens the interpreter's thread switch interval, because a
    thread that computes would otherwise hold up every request.
    """
    if getattr(pyfuse3, "trio", None) is not trio:
        log.warning(
            "pyfuse3 %s has no event library hook: using its own, slower loop",
            pyfuse3.__version__,
        )
        return False
    pyfuse3.trio = _LeanTrio()  # type: ignore[attr-defined]  # the hook that its asyncio mode uses
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return True


def uninstall() -> None:
    """Give pyfuse3 trio itself back. For after `pyfuse3.main` has returned; harmless when not installed."""
    if isinstance(getattr(pyfuse3, "trio", None), _LeanTrio):
        pyfuse3.trio = trio  # type: ignore[attr-defined]  # likewise
