"""Claims about the limits on bandwidth and concurrency, on a virtual clock."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gsfs.backends.limit import Bandwidth, Limit
from gsfs.backends.request import Request, RequestKind, T
from gsfs.errors import Unavailable

pytestmark = pytest.mark.trio

MIB = 1 << 20


class Gauge:
    """Takes a while; notes how many were under way at once, and when each began."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.now = self.most = 0
        self.began: dict[str, float] = {}

    async def __call__(self, request: Request[T], /) -> T:
        self.now += 1
        self.most = max(self.most, self.now)
        self.began[request.what] = trio.current_time()
        try:
            await trio.sleep(self.takes_s)
            return request.run()
        finally:
            self.now -= 1


def request_of(what: str, *, up: int = 0, down: int = 0) -> Request[None]:
    kind = RequestKind.PUT if up else RequestKind.GET
    return Request(kind, lambda: None, what, bytes_up=up, bytes_down=down, attempts=1)


async def test_no_more_than_the_limit_are_under_way(autojump_clock: trio.testing.MockClock) -> None:
    gauge = Gauge(1.0)
    limit = Limit(gauge, concurrency=4)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(limit, request_of(str(number)))
    assert gauge.most == 4
    assert trio.current_time() - began == 5.0


async def test_small_requests_find_a_place_while_bulk_waits(autojump_clock: trio.testing.MockClock) -> None:
    gauge = Gauge(10.0)
    limit = Limit(gauge, concurrency=8)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(limit, request_of(f"upload {number}", up=16 * MIB))
        await trio.sleep(1)
        nursery.start_soon(limit, request_of("small", down=4096))
        nursery.start_soon(limit, request_of("bulk download", down=4 * MIB))
    assert gauge.began["small"] - began == 1.0
    assert gauge.began["bulk download"] - began == 1.0  # uploads leave room for reads too


async def test_one_place_is_enough_for_everything(autojump_clock: trio.testing.MockClock) -> None:
    gauge = Gauge(1.0)
    limit = Limit(gauge, concurrency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit, request_of("upload", up=16 * MIB))
        nursery.start_soon(limit, request_of("download", down=16 * MIB))
        nursery.start_soon(limit, request_of("small"))
    assert gauge.most == 1


async def test_bandwidth_holds_on_average(autojump_clock: trio.testing.MockClock) -> None:
    limit = Limit(Gauge(0.0), concurrency=16, up_bytes_per_s=10 * MIB)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(limit, request_of(str(number), up=16 * MIB))
    # 320 MiB at 10 MiB/s, less the second that was saved up.
    assert trio.current_time() - began == pytest.approx(31.0, abs=0.1)


async def test_up_and_down_are_limited_apart(autojump_clock: trio.testing.MockClock) -> None:
    limit = Limit(Gauge(0.0), concurrency=16, up_bytes_per_s=MIB)
    began = trio.current_time()
    for number in range(10):
        await limit(request_of(str(number), down=100 * MIB))
    assert trio.current_time() == began


async def test_a_small_transfer_overtakes_large_ones(autojump_clock: trio.testing.MockClock) -> None:
    gauge = Gauge(0.0)
    limit = Limit(gauge, concurrency=16, up_bytes_per_s=MIB)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(limit, request_of(f"large {number}", up=16 * MIB))
        await trio.sleep(5)
        nursery.start_soon(limit, request_of("small", up=4096))
    assert gauge.began["small"] - began < 6.0
    assert max(gauge.began.values()) - began > 150.0


async def test_repeated_attempts_are_paid_for_by_those_who_come_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit = Limit(Gauge(0.0), concurrency=4, up_bytes_per_s=MIB)
    began = trio.current_time()
    repeated = request_of("repeated", up=MIB)
    repeated.attempts = 4
    await limit(repeated)
    await limit(request_of("next", up=MIB))
    assert trio.current_time() - began == pytest.approx(4.0, abs=0.1)


async def test_waiting_for_a_turn_ends_at_the_callers_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit = Limit(Gauge(100.0), concurrency=1)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit, request_of("first"))
        await trio.sleep(1)
        late = request_of("late")
        late.fail_at = began + 5
        with pytest.raises(Unavailable):
            await limit(late)
        assert trio.current_time() - began == 5.0
        nursery.cancel_scope.cancel()


async def test_a_rate_below_one_slice_still_flows(autojump_clock: trio.testing.MockClock) -> None:
    bandwidth = Bandwidth(1000)
    began = trio.current_time()
    await bandwidth.draw(100_000)
    await bandwidth.draw(1)
    assert trio.current_time() - began == pytest.approx(99.0, abs=1.5)
