"""Trying again. Owns the back-off and the overall deadline of a request; never decides what is retryable.

Delays follow "decorrelated jitter" (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
2015): each is uniform between the base and three times the previous one, so that clients spread out.
"""

from __future__ import annotations

import math
import random

import trio

from gsfs.backends.breaker import CircuitOpen
from gsfs.backends.call import allowance_s
from gsfs.backends.options import RetryPolicy
from gsfs.backends.request import Handler, Request, T
from gsfs.errors import BackendCorrupt, BackendError, Throttled, Unavailable


class Retry:
    """Repeats a request while it fails in a way that may pass, until its deadline."""

    def __init__(self, inner: Handler, policy: RetryPolicy, rng: random.Random | None = None) -> None:
        self._inner = inner
        self._policy = policy
        self._rng = rng or random.Random()

    async def __call__(self, request: Request[T], /) -> T:
        request.give_up_at = self._give_up_at(request)
        delay_s = self._policy.base_s
        while True:
            request.attempts += 1
            try:
                return await self._inner(request)
            except BackendError as error:
                delay_s = self._next_delay_s(delay_s)
                pause_s = max(delay_s, _asked_s(error))
                if not self._worth_another(request, error, pause_s):
                    raise
            await trio.sleep(pause_s)

    def _give_up_at(self, request: Request[T]) -> float:
        """The caller's deadline as it is; else the policy's, longer by what the payload needs."""
        if request.fail_at < math.inf:
            return request.fail_at
        return trio.current_time() + self._policy.deadline_s + allowance_s(request.payload_bytes)

    def _worth_another(self, request: Request[T], error: BackendError, pause_s: float) -> bool:
        if isinstance(error, CircuitOpen):
            request.attempts -= 1  # it was never asked
            return request.patient and trio.current_time() + pause_s < request.give_up_at
        most = self._policy.corrupt_attempts if isinstance(error, BackendCorrupt) else self._policy.attempts
        in_time = trio.current_time() + pause_s < request.give_up_at
        return error.retryable and request.attempts < most and in_time

    def _next_delay_s(self, previous_s: float) -> float:
        return min(self._policy.longest_s, self._rng.uniform(self._policy.base_s, 3 * previous_s))


def _asked_s(error: BackendError) -> float:
    """What the location asked to wait (Retry-After), or 0."""
    if isinstance(error, Throttled | Unavailable) and error.retry_after_s is not None:
        return error.retry_after_s
    return 0.0
