"""The innermost wrapper: a blocking call in a thread. Owns the time-out of one attempt; never retries."""

from __future__ import annotations

import logging
import traceback
from typing import Final

import trio

from gsfs.backends.request import Request, T
from gsfs.errors import BackendError, Unavailable

log = logging.getLogger(__name__)

SLOWEST_BYTES_PER_S: Final = 32 * 1024
"""A transfer slower than this counts as hung: each attempt gets its payload at this rate on top of the
time-out, so that large objects on thin lines are not cut off."""


def allowance_s(payload_bytes: int) -> float:
    """Extra seconds that a payload of so many bytes is granted."""
    return payload_bytes / SLOWEST_BYTES_PER_S


class CallInThread:
    """Runs a request's blocking call in a thread and leaves it behind when it does not come back.

    An abandoned thread ends by the SDK's own socket time-out. Until then it holds one of ``2 * concurrency``
    threads, so that hung calls cannot pile up without bound and some can hang without harm to the others.
    """

    def __init__(self, *, concurrency: int, timeout_s: float, in_thread: bool = True) -> None:
        self._threads = trio.CapacityLimiter(2 * concurrency)
        self._timeout_s = timeout_s
        self._in_thread = in_thread

    async def __call__(self, request: Request[T], /) -> T:
        began = trio.current_time()
        until = min(request.give_up_at, began + self._timeout_s + allowance_s(request.payload_bytes))
        with trio.move_on_at(until):
            if not self._in_thread:
                await trio.lowlevel.checkpoint()
                return _guarded(request)
            return await trio.to_thread.run_sync(
                _guarded, request, abandon_on_cancel=True, limiter=self._threads
            )
        raise Unavailable(f"{request.what}: no answer within {max(0.0, until - began):.3g} s")


def _guarded(request: Request[T]) -> T:
    """Only BackendError may leave a backend. Anything else is a bug: logged once, without its message.

    The message stays out because SDK exceptions quote URLs, and URLs can carry signatures.
    """
    try:
        return request.run()
    except BackendError:
        raise
    except Exception as error:
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s: unforeseen %s\n%s", request.what, type(error).__name__, frames)
        raise BackendError(f"{request.what}: unforeseen {type(error).__name__}") from None
