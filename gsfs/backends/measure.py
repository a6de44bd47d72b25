"""Counting every attempt at a location. Owns the counters; never changes an outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from gsfs.backends.request import Handler, Request, RequestKind, T
from gsfs.errors import BackendError

OnRequest = Callable[[RequestKind, int, float, BackendError | None], None]
"""``(kind, bytes, seconds, error)`` of one attempt: what a ledger books. Bytes are 0 for a failed attempt."""


@dataclass(slots=True)
class Counters:
    """Totals since the start. Every attempt counts, because every attempt is billed."""

    requests: Counter[RequestKind] = field(default_factory=Counter)
    seconds: Counter[RequestKind] = field(default_factory=Counter)
    """Time spent per kind; a float, the sum over attempts that overlap."""
    errors: Counter[str] = field(default_factory=Counter)
    """By class name, such as ``Throttled``. Counts answers such as ObjectNotFound too."""
    bytes_up: int = 0
    bytes_down: int = 0
    in_flight: int = 0


class Measure:
    """Books each attempt in ``counters`` and tells ``on_request``."""

    def __init__(self, inner: Handler, counters: Counters, on_request: OnRequest | None = None) -> None:
        self._inner = inner
        self.counters = counters
        self.on_request = on_request

    async def __call__(self, request: Request[T], /) -> T:
        began = trio.current_time()
        self.counters.in_flight += 1
        try:
            result = await self._inner(request)
        except BackendError as error:
            self.counters.errors[type(error).__name__] += 1
            self._book(request.kind, 0, began, error)
            raise
        except trio.Cancelled:
            # The caller lost interest, but the request was sent and will be billed.
            self._book(request.kind, 0, began, None)
            raise
        finally:
            self.counters.in_flight -= 1
        down = len(result) if isinstance(result, bytes) else 0
        self.counters.bytes_up += request.bytes_up
        self.counters.bytes_down += down
        self._book(request.kind, request.bytes_up + down, began, None)
        return result

    def _book(self, kind: RequestKind, moved: int, began: float, error: BackendError | None) -> None:
        seconds = trio.current_time() - began
        self.counters.requests[kind] += 1
        self.counters.seconds[kind] += seconds  # type: ignore[assignment]  # Counter is typed for int only
        if self.on_request is not None:
            self.on_request(kind, moved, seconds, error)
