"""Asking a second replica when the first is slow. Owns the race; knows nothing of locations."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from gsfs.errors import GsfsError

T = TypeVar("T")


async def first_success(
    attempts: Sequence[Callable[[], Awaitable[T]]], delay_s: float | Sequence[float]
) -> T:
    """The result of the first attempt to succeed; the others are cancelled.

    The next attempt starts when the newest has not answered for ``delay_s`` seconds (one figure, or one for
    each attempt that has a next), or as soon as one has failed. When all fail, the error of the first is raised: it was the caller's first choice. Errors other
    than GsfsError end the race at once. Never raises an ExceptionGroup.
    """
    if not attempts:
        raise ValueError("first_success needs at least one attempt")
    race: _Race[T] = _Race(len(attempts))
    async with trio.open_nursery() as nursery:
        for number, attempt in enumerate(attempts):
            nursery.start_soon(race.run, number, attempt)
            last = number == len(attempts) - 1
            wait_s = delay_s if isinstance(delay_s, float | int) else math.inf if last else delay_s[number]
            if await race.settled_or_next(number, wait_s):
                break
        nursery.cancel_scope.cancel()
    return race.result()


class _Race(Generic[T]):
    def __init__(self, runners: int) -> None:
        self._runners = runners
        self._results: list[T] = []
        self._errors: dict[int, GsfsError] = {}
        self._bug: Exception | None = None
        self._changed = trio.Event()

    async def run(self, number: int, attempt: Callable[[], Awaitable[T]]) -> None:
        try:
            self._results.append(await attempt())
        except GsfsError as error:
            self._errors[number] = error
        except Exception as error:  # kept and raised by result(), so that no ExceptionGroup forms
            self._bug = error
        self._changed.set()
        self._changed = trio.Event()

    async def settled_or_next(self, number: int, delay_s: float) -> bool:
        """Wait for an outcome. True: the race is over. False: start the next attempt."""
        last = number == self._runners - 1
        failed_before = len(self._errors)
        with trio.move_on_after(float("inf") if last else delay_s):
            while not self._over():
                if not last and len(self._errors) > failed_before:
                    return False
                await self._changed.wait()
        return self._over()

    def _over(self) -> bool:
        return bool(self._results) or self._bug is not None or len(self._errors) == self._runners

    def result(self) -> T:
        if self._bug is not None:
            raise self._bug
        if self._results:
            return self._results[0]
        raise self._errors[min(self._errors)]
