"""How a location is doing, in words for people. Owns the state that ``status`` shows; decides nothing."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from gsfs.backends.breaker import Circuit, CircuitOpen
from gsfs.backends.request import Handler, Request, T
from gsfs.errors import BackendError, ObjectExists, ObjectNotFound


class HealthState(enum.StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    """The last attempt failed, or the location is being probed again; requests still go there."""
    DOWN = "down"
    """The circuit is open: requests are refused without asking."""


@dataclass(slots=True)
class Health:
    """Times are wall-clock, in seconds since the epoch."""

    state: HealthState = HealthState.OK
    cause: str = ""
    """What went wrong last, on one line; empty while the state is ok."""
    since_s: float = 0.0
    """When the present state began; 0 before the first request."""
    last_success_s: float = 0.0
    """When the location last answered; 0 for never."""


class Watch:
    """Keeps ``health`` true: it sees the outcome of each attempt and each move of the circuit."""

    def __init__(self, inner: Handler, health: Health) -> None:
        self._inner = inner
        self.health = health
        self.on_change: Callable[[Health], None] | None = None

    async def __call__(self, request: Request[T], /) -> T:
        try:
            result = await self._inner(request)
        except CircuitOpen:
            raise
        except (ObjectNotFound, ObjectExists):
            self._answered()
            raise
        except BackendError as error:
            self._failed(str(error))
            raise
        self._answered()
        return result

    def circuit_moved(self, circuit: Circuit, cause: str) -> None:
        """Called by the circuit breaker on each change of state."""
        if circuit is Circuit.OPEN:
            self._become(HealthState.DOWN, cause)
        elif circuit is Circuit.HALF_OPEN:
            self._become(HealthState.DEGRADED, self.health.cause)
        else:
            self._become(HealthState.OK, "")

    def _answered(self) -> None:
        self.health.last_success_s = time.time()
        if self.health.state is not HealthState.DOWN:  # a straggler from before the circuit opened
            self._become(HealthState.OK, "")

    def _failed(self, cause: str) -> None:
        if self.health.state is not HealthState.DOWN:
            self._become(HealthState.DEGRADED, cause)

    def _become(self, state: HealthState, cause: str) -> None:
        changed = state is not self.health.state
        self.health.cause = cause
        if not changed:
            return
        # "Since when" is asked of trouble as a whole: degraded to down keeps the earlier time.
        if HealthState.OK in (state, self.health.state):
            self.health.since_s = time.time()
        self.health.state = state
        if self.on_change is not None:
            self.on_change(self.health)
