"""Claims about the circuit breaker, on a virtual clock, and its table against a rule-based machine."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gsfs.backends.breaker import TRANSITIONS, Circuit, CircuitBreaker, CircuitOpen, Event
from gsfs.backends.options import BreakerPolicy
from gsfs.backends.request import Request, RequestKind, T
from gsfs.errors import BackendCorrupt, BackendError, ObjectNotFound, Unavailable

POLICY = BreakerPolicy(consecutive_failures=3, first_pause_s=2.0, longest_pause_s=8.0)


class Switch:
    """Fails with ``error`` while there is one."""

    def __init__(self) -> None:
        self.error: BackendError | None = None
        self.asked = 0
        self.takes_s = 0.0

    async def __call__(self, request: Request[T], /) -> T:
        self.asked += 1
        await trio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return request.run()


def ask() -> Request[str]:
    return Request(RequestKind.HEAD, lambda: "answer", "test")


async def ask_and_ignore(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        try:
            await breaker(ask())
        except BackendError:
            continue


@pytest.mark.trio
async def test_failures_in_a_row_open_the_circuit_and_spare_the_location(
    autojump_clock: trio.testing.MockClock,
) -> None:
    switch, moves = Switch(), []
    breaker = CircuitBreaker(switch, POLICY, lambda state, cause: moves.append((state, cause)))
    switch.error = Unavailable("it is down")
    await ask_and_ignore(breaker, 10)
    assert switch.asked == 3
    assert moves == [(Circuit.OPEN, "it is down")]
    with pytest.raises(CircuitOpen) as caught:
        await breaker(ask())
    assert caught.value.retry_after_s == 2.0
    assert not caught.value.retryable


@pytest.mark.trio
@pytest.mark.parametrize("error", [ObjectNotFound("no"), BackendCorrupt("bad bytes")])
async def test_unwelcome_answers_do_not_open_it(
    autojump_clock: trio.testing.MockClock, error: BackendError
) -> None:
    switch = Switch()
    breaker = CircuitBreaker(switch, POLICY)
    switch.error = error
    await ask_and_ignore(breaker, 50)
    assert breaker.state is Circuit.CLOSED


@pytest.mark.trio
async def test_a_high_failure_rate_opens_it_without_a_row(autojump_clock: trio.testing.MockClock) -> None:
    switch = Switch()
    policy = BreakerPolicy(consecutive_failures=100, failure_rate=0.5, minimum_attempts=20, window_s=30)
    breaker = CircuitBreaker(switch, policy)
    for number in range(20):
        switch.error = Unavailable("no") if number % 2 else None
        await ask_and_ignore(breaker)
    assert breaker.state is Circuit.OPEN


@pytest.mark.trio
async def test_old_failures_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    switch = Switch()
    breaker = CircuitBreaker(switch, BreakerPolicy(consecutive_failures=100, window_s=30))
    for number in range(100):
        switch.error = Unavailable("no") if number % 2 else None
        await ask_and_ignore(breaker)
        await trio.sleep(2)  # never 20 attempts within the window
    assert breaker.state is Circuit.CLOSED


@pytest.mark.trio
async def test_one_probe_at_a_time_passes_after_the_pause(autojump_clock: trio.testing.MockClock) -> None:
    switch = Switch()
    breaker = CircuitBreaker(switch, POLICY)
    switch.error = Unavailable("no")
    await ask_and_ignore(breaker, 3)
    switch.error, switch.takes_s = None, 1.0
    await trio.sleep(2.0)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask_and_ignore, breaker)
    assert switch.asked == 4
    assert breaker.state is Circuit.CLOSED


@pytest.mark.trio
async def test_a_probe_that_fails_doubles_the_pause_up_to_a_bound(
    autojump_clock: trio.testing.MockClock,
) -> None:
    switch = Switch()
    breaker = CircuitBreaker(switch, POLICY)
    switch.error = Unavailable("no")
    await ask_and_ignore(breaker, 3)
    pauses = []
    for _ in range(4):
        pause_s = breaker.pause_left_s()
        assert pause_s is not None
        pauses.append(pause_s)
        await trio.sleep(pause_s)
        await ask_and_ignore(breaker)
    assert pauses == [2.0, 4.0, 8.0, 8.0]


@pytest.mark.trio
async def test_a_cancelled_probe_lets_the_next_one_pass(autojump_clock: trio.testing.MockClock) -> None:
    switch = Switch()
    breaker = CircuitBreaker(switch, POLICY)
    switch.error = Unavailable("no")
    await ask_and_ignore(breaker, 3)
    switch.error, switch.takes_s = None, 100.0
    await trio.sleep(2.0)
    with trio.move_on_after(1):
        await breaker(ask())
    assert breaker.state is Circuit.HALF_OPEN
    switch.takes_s = 0.0
    assert await breaker(ask()) == "answer"
    assert breaker.state is Circuit.CLOSED


@pytest.mark.trio
async def test_a_straggler_from_before_decides_nothing(autojump_clock: trio.testing.MockClock) -> None:
    switch = Switch()
    breaker = CircuitBreaker(switch, POLICY)
    async with trio.open_nursery() as nursery:
        switch.takes_s = 5.0
        nursery.start_soon(ask_and_ignore, breaker)
        await trio.sleep(1.0)
        switch.takes_s, switch.error = 0.0, Unavailable("no")
        await ask_and_ignore(breaker, 3)
        assert breaker.state is Circuit.OPEN
        switch.error = None  # the straggler will succeed, after the circuit opened
    assert breaker.state is Circuit.OPEN


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "missing"]), st.floats(0, 10)), max_size=60))
def test_whatever_happens_only_moves_of_the_table_are_made(steps: list[tuple[str, float]]) -> None:
    moves: list[Circuit] = [Circuit.CLOSED]

    async def live() -> None:
        switch = Switch()
        breaker = CircuitBreaker(switch, POLICY, lambda state, cause: moves.append(state))
        outcome = {"ok": None, "fail": Unavailable("no"), "missing": ObjectNotFound("no")}
        for step, wait_s in steps:
            switch.error = outcome[step]
            await ask_and_ignore(breaker)
            await trio.sleep(wait_s)

    trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
    allowed = {(before, after) for (before, _event), after in TRANSITIONS.items() if before is not after}
    assert set(itertools.pairwise(moves)) <= allowed


def test_every_state_has_a_way_back_to_closed() -> None:
    assert TRANSITIONS[Circuit.OPEN, Event.COOLED] is Circuit.HALF_OPEN
    assert TRANSITIONS[Circuit.HALF_OPEN, Event.SUCCESS] is Circuit.CLOSED
