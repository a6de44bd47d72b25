"""A circuit breaker for one location. Owns the decision to stop asking; never retries and never waits."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from gsfs.backends.options import BreakerPolicy
from gsfs.backends.request import Handler, Request, T
from gsfs.errors import BackendCorrupt, BackendError, Unavailable


class CircuitOpen(Unavailable):
    """Not even asked: the location failed lately. ``retry_after_s`` says when it will be probed again."""

    retryable = False


class Circuit(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(enum.Enum):
    SUCCESS = "success"
    FAILURE = "failure"
    TRIPPED = "tripped"
    """A failure that is one too many."""
    COOLED = "cooled"
    """The pause is over: one probe may pass."""


TRANSITIONS: Final[dict[tuple[Circuit, Event], Circuit]] = {
    (Circuit.CLOSED, Event.SUCCESS): Circuit.CLOSED,
    (Circuit.CLOSED, Event.FAILURE): Circuit.CLOSED,
    (Circuit.CLOSED, Event.TRIPPED): Circuit.OPEN,
    (Circuit.OPEN, Event.COOLED): Circuit.HALF_OPEN,
    (Circuit.HALF_OPEN, Event.SUCCESS): Circuit.CLOSED,
    (Circuit.HALF_OPEN, Event.FAILURE): Circuit.OPEN,
}
"""All there is. An attempt that was under way when the circuit opened is not an event: only the probe is."""


class CircuitBreaker:
    """Passes requests while closed, refuses them while open, lets a single probe pass when half open."""

    def __init__(
        self,
        inner: Handler,
        policy: BreakerPolicy,
        on_state_change: Callable[[Circuit, str], None] | None = None,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self.on_state_change = on_state_change
        self.state = Circuit.CLOSED
        self._consecutive = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=1000)
        self._pause_s = policy.first_pause_s
        self._probe_at = 0.0
        self._probing = False

    async def __call__(self, request: Request[T], /) -> T:
        probe = self._admit(request.what)
        try:
            result = await self._inner(request)
        except BackendError as error:
            self._saw(probe, failed=_is_failure(error), cause=str(error))
            raise
        else:
            self._saw(probe, failed=False, cause="")
            return result
        finally:
            if probe:  # also when it was cancelled: the next request probes again
                self._probing = False

    def refuse_if_open(self, what: str) -> None:
        """Raise CircuitOpen when a request would not be let through now. Changes nothing."""
        wait_s = self.pause_left_s()
        if wait_s is not None:
            raise CircuitOpen(f"{what}: not asked, the location failed lately", wait_s)

    def pause_left_s(self) -> float | None:
        """Seconds until a request could pass; None when one may pass now."""
        if self.state is Circuit.CLOSED:
            return None
        if self._probing:
            return min(self._pause_s, 1.0)
        left = self._probe_at - trio.current_time()
        return left if left > 0 else None

    def _admit(self, what: str) -> bool:
        """Let a request pass or raise CircuitOpen; True for the probe."""
        self.refuse_if_open(what)
        if self.state is Circuit.CLOSED:
            return False
        if self.state is Circuit.OPEN:
            self._move(Event.COOLED, "")
        self._probing = True
        return True

    def _saw(self, probe: bool, *, failed: bool, cause: str) -> None:
        if probe:
            self._move(Event.FAILURE if failed else Event.SUCCESS, cause)
        elif self.state is Circuit.CLOSED:
            self._count(failed)
            event = Event.TRIPPED if failed and self._too_many() else None
            self._move(event or (Event.FAILURE if failed else Event.SUCCESS), cause)

    def _count(self, failed: bool) -> None:
        self._consecutive = self._consecutive + 1 if failed else 0
        now = trio.current_time()
        self._recent.append((now, failed))
        while self._recent[0][0] < now - self._policy.window_s:
            self._recent.popleft()

    def _too_many(self) -> bool:
        if self._consecutive >= self._policy.consecutive_failures:
            return True
        failures = sum(failed for _when, failed in self._recent)
        attempts = len(self._recent)
        return attempts >= self._policy.minimum_attempts and failures >= self._policy.failure_rate * attempts

    def _move(self, event: Event, cause: str) -> None:
        before = self.state
        self.state = TRANSITIONS[before, event]
        if self.state is before:
            return
        if self.state is Circuit.OPEN:
            longer = min(2 * self._pause_s, self._policy.longest_pause_s)
            self._pause_s = longer if before is Circuit.HALF_OPEN else self._policy.first_pause_s
            self._probe_at = trio.current_time() + self._pause_s
        if self.state is Circuit.CLOSED:
            self._consecutive = 0
            self._recent.clear()
        if self.on_state_change is not None:
            self.on_state_change(self.state, cause)


def _is_failure(error: BackendError) -> bool:
    """Whether the location failed, as opposed to answering something unwelcome.

    Corrupt bytes are no failure of the location: one damaged object must not close the door to the others.
    """
    return error.retryable and not isinstance(error, BackendCorrupt)
