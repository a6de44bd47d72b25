"""Limits on concurrency and bandwidth of one location. Owns the queues; never looks at an outcome."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from gsfs.backends.request import Handler, Request, T
from gsfs.errors import Unavailable

BULK_BYTES: Final = 1 << 20
"""Transfers of at least so many bytes are bulk; the others must not wait behind them."""
SLICE_BYTES: Final = 64 * 1024
"""Bandwidth is handed out in slices, in turn, so that a small transfer overtakes a large one."""


class Bandwidth:
    """A token bucket shared in turn: tokens are bytes, one second's worth can be saved up.

    A transfer starts once it has drawn all its tokens. It then runs at the speed of the line: the limit
    holds on average over seconds, not within one transfer.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._slice = max(SLICE_BYTES, int(bytes_per_s / 100))
        # First come, first served; a large transfer queues anew for each slice.
        self._turn = trio.StrictFIFOLock()
        self._tokens = bytes_per_s
        self._filled_at = 0.0

    async def draw(self, size_bytes: int) -> None:
        """Wait until ``size_bytes`` may be sent."""
        left = size_bytes
        while left > 0:
            part = min(left, self._slice)
            async with self._turn:
                await self._draw_slice(part)
            left -= part

    def charge(self, size_bytes: int) -> None:
        """Book bytes that were moved without asking (repeated attempts): those who come later wait."""
        self._refill()
        self._tokens -= size_bytes

    async def _draw_slice(self, size_bytes: int) -> None:
        self._refill()
        if self._tokens < size_bytes and self._tokens < self._rate:
            missing = min(size_bytes, self._rate) - self._tokens
            await trio.sleep(missing / self._rate)
            self._refill()
        self._tokens -= size_bytes

    def _refill(self) -> None:
        now = trio.current_time()
        self._tokens = min(self._rate, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now


class Slots:
    """Places for requests under way. Some are kept for small requests, and some bulk ones for downloads.

    Lock order: uploads, then bulk, then all.
    """

    def __init__(self, concurrency: int) -> None:
        reserve = concurrency // 4
        self._all = trio.Semaphore(concurrency)
        self._bulk = trio.Semaphore(max(1, concurrency - reserve))
        self._uploads = trio.Semaphore(max(1, concurrency - 2 * reserve))

    @asynccontextmanager
    async def place(self, request: Request[T]) -> AsyncIterator[None]:
        bulk = request.payload_bytes >= BULK_BYTES
        async with AsyncExitStack() as held:
            if bulk and request.bytes_up:
                await held.enter_async_context(self._uploads)
            if bulk:
                await held.enter_async_context(self._bulk)
            await held.enter_async_context(self._all)
            yield


class Limit:
    """Makes a request wait for bandwidth, then for a place; waiting ends at the caller's own deadline."""

    def __init__(
        self, inner: Handler, *, concurrency: int, up_bytes_per_s: float = 0, down_bytes_per_s: float = 0
    ) -> None:
        self._inner = inner
        self._slots = Slots(concurrency)
        self._up = Bandwidth(up_bytes_per_s) if up_bytes_per_s else None
        self._down = Bandwidth(down_bytes_per_s) if down_bytes_per_s else None

    async def __call__(self, request: Request[T], /) -> T:
        async with AsyncExitStack() as held:
            with trio.move_on_at(request.fail_at) as waiting:
                await self._draw(request)
                await held.enter_async_context(self._slots.place(request))
            if waiting.cancelled_caught:
                raise Unavailable(f"{request.what}: the deadline passed while waiting for a turn")
            try:
                return await self._inner(request)
            finally:
                self._charge_repeats(request)

    async def _draw(self, request: Request[T]) -> None:
        if self._up and request.bytes_up:
            await self._up.draw(request.bytes_up)
        if self._down and request.bytes_down:
            await self._down.draw(request.bytes_down)

    def _charge_repeats(self, request: Request[T]) -> None:
        repeats = max(0, request.attempts - 1)
        if self._up and repeats:
            self._up.charge(repeats * request.bytes_up)
        if self._down and repeats:
            self._down.charge(repeats * request.bytes_down)
