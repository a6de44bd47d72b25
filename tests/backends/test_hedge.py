"""Claims about racing two replicas, on a virtual clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from gsfs.backends.hedge import first_success
from gsfs.errors import BackendCorrupt, BackendError, Unavailable

pytestmark = pytest.mark.trio

Attempt = Callable[[], Awaitable[str]]


class Runner:
    """Answers, or fails, after a while; notes whether it began and whether it was cancelled."""

    def __init__(self, name: str, takes_s: float, error: Exception | None = None) -> None:
        self.name, self.takes_s, self.error = name, takes_s, error
        self.began_at: float | None = None
        self.cancelled = False

    async def __call__(self) -> str:
        self.began_at = trio.current_time()
        try:
            await trio.sleep(self.takes_s)
        except trio.Cancelled:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return self.name


async def test_a_quick_answer_costs_one_request(autojump_clock: trio.testing.MockClock) -> None:
    near, far = Runner("near", 0.05), Runner("far", 0.01)
    assert await first_success([near, far], 0.1) == "near"
    assert far.began_at is None


async def test_a_slow_first_is_overtaken_and_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    near, far = Runner("near", 60), Runner("far", 0.2)
    began = trio.current_time()
    assert await first_success([near, far], 0.1) == "far"
    assert trio.current_time() - began == pytest.approx(0.3)
    assert near.cancelled


async def test_a_failure_starts_the_next_at_once(autojump_clock: trio.testing.MockClock) -> None:
    near, far = Runner("near", 0.01, Unavailable("no")), Runner("far", 0.2)
    began = trio.current_time()
    assert await first_success([near, far], 10) == "far"
    assert trio.current_time() - began == pytest.approx(0.21)


async def test_when_all_fail_the_first_choices_error_is_raised(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = Runner("near", 1.0, Unavailable("near")), Runner("far", 0.1, BackendCorrupt("far"))
    with pytest.raises(Unavailable, match="near"):
        await first_success([near, far], 0.1)


async def test_a_late_first_may_still_win(autojump_clock: trio.testing.MockClock) -> None:
    near, far = Runner("near", 0.5), Runner("far", 0.1, Unavailable("no"))
    assert await first_success([near, far], 0.1) == "near"


async def test_a_bug_is_raised_as_it_is_and_never_in_a_group(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(ZeroDivisionError):
        await first_success([Runner("near", 0.1, ZeroDivisionError()), Runner("far", 60)], 0.01)


async def test_one_attempt_is_just_that(autojump_clock: trio.testing.MockClock) -> None:
    assert await first_success([Runner("only", 100)], 0.1) == "only"
    with pytest.raises(BackendError):
        await first_success([Runner("only", 1, Unavailable("no"))], 0.1)


async def test_cancelling_the_race_cancels_the_runners(autojump_clock: trio.testing.MockClock) -> None:
    near, far = Runner("near", 60), Runner("far", 60)
    with trio.move_on_after(1) as scope:
        await first_success([near, far], 0.1)
    assert scope.cancelled_caught
    assert near.cancelled
    assert far.cancelled
