"""Claims about trying again, on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from gsfs.backends.breaker import CircuitOpen
from gsfs.backends.options import RetryPolicy
from gsfs.backends.request import Request, RequestKind, T
from gsfs.backends.retry import Retry
from gsfs.errors import BackendCorrupt, BackendError, ObjectNotFound, Throttled, Unavailable

pytestmark = pytest.mark.trio


class Script:
    """Raises the errors in turn, then succeeds; notes when it was asked."""

    def __init__(self, errors: Sequence[BackendError], takes_s: float = 0.0) -> None:
        self.errors = list(errors)
        self.takes_s = takes_s
        self.asked_at: list[float] = []

    async def __call__(self, request: Request[T], /) -> T:
        self.asked_at.append(trio.current_time())
        await trio.sleep(self.takes_s)
        if self.errors:
            raise self.errors.pop(0)
        return request.run()


def request_of(**options: object) -> Request[str]:
    return Request(RequestKind.GET, lambda: "answer", "test", **options)  # type: ignore[arg-type]


def retry(script: Script, **policy: float) -> Retry:
    return Retry(script, RetryPolicy(**policy), random.Random(1))  # type: ignore[arg-type]


async def test_a_passing_failure_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([Unavailable("no"), Unavailable("no")])
    request = request_of()
    assert await retry(script)(request) == "answer"
    assert request.attempts == 3


@pytest.mark.parametrize("error", [ObjectNotFound("no"), BackendError("no")])
async def test_an_answer_is_not_tried_again(
    autojump_clock: trio.testing.MockClock, error: BackendError
) -> None:
    script = Script([error])
    with pytest.raises(type(error)):
        await retry(script)(request_of())
    assert len(script.asked_at) == 1


async def test_delays_grow_differ_and_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([Unavailable("no")] * 30)
    await retry(script, base_s=0.1, longest_s=5.0, deadline_s=1000, attempts=100)(request_of())
    delays = [later - earlier for earlier, later in zip(script.asked_at, script.asked_at[1:], strict=False)]
    assert min(delays) >= 0.1
    assert max(delays) <= 5.0 + 1e-9
    assert delays[0] <= 0.3 + 1e-9
    assert len(set(delays)) > 10


async def test_it_waits_as_long_as_the_location_asks(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([Throttled("slow down", 7.0), Unavailable("back soon", 11.0)])
    began = trio.current_time()
    await retry(script)(request_of())
    assert [round(at - began) for at in script.asked_at] == [0, 7, 18]


async def test_it_gives_up_at_once_when_asked_to_wait_past_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began = trio.current_time()
    with pytest.raises(Throttled):
        await retry(Script([Throttled("slow down", 100.0)]), deadline_s=60)(request_of())
    assert trio.current_time() == began


async def test_it_gives_up_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(Unavailable):
        await retry(Script([Unavailable("no")] * 1000, 1.0), deadline_s=30, attempts=1000)(request_of())
    assert 15 <= trio.current_time() - began <= 31


async def test_the_callers_deadline_counts_not_the_policys(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    request = request_of(fail_at=began + 3)
    with pytest.raises(Unavailable):
        await retry(Script([Unavailable("no")] * 1000, 0.5), deadline_s=1000)(request)
    assert request.give_up_at == began + 3
    assert trio.current_time() - began <= 3.5


async def test_a_large_payload_gets_more_time(autojump_clock: trio.testing.MockClock) -> None:
    small, large = request_of(), request_of(bytes_up=16 << 20)
    await retry(Script([]))(small)
    await retry(Script([]))(large)
    assert large.give_up_at - small.give_up_at == 512.0  # 16 MiB at 32 KiB/s


async def test_damaged_bytes_are_fetched_a_few_times_only(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([BackendCorrupt("bad")] * 100)
    with pytest.raises(BackendCorrupt):
        await retry(script, corrupt_attempts=3)(request_of())
    assert len(script.asked_at) == 3


async def test_an_open_circuit_is_waited_for_only_by_the_patient(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(CircuitOpen):
        await retry(Script([CircuitOpen("open", 2.0)]))(request_of())
    began = trio.current_time()
    request = request_of(patient=True)
    assert await retry(Script([CircuitOpen("open", 2.0)]))(request) == "answer"
    assert trio.current_time() - began == 2.0
    assert request.attempts == 1  # what was never asked is no attempt
