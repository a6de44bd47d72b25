"""Claims about a location as a whole: its wrappers in their order, its counters, its health."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

import pytest
import trio
import trio.testing

from gsfs.backends.base import BytesSource, ObjectInfo, Source
from gsfs.backends.checksum import crc32c
from gsfs.backends.health import HealthState
from gsfs.backends.location import Location
from gsfs.backends.memory import MemoryBackend
from gsfs.backends.options import BreakerPolicy, LocationOptions, RetryPolicy
from gsfs.backends.request import RequestKind
from gsfs.backends.verify import expect_blocks, expect_crc32c
from gsfs.errors import (
    BackendCorrupt,
    BackendError,
    BackendPermission,
    ObjectExists,
    ObjectNotFound,
    Throttled,
    Unavailable,
)
from gsfs.model import LocationId
from tests.support.counting import Requests, costs
from tests.support.flaky import FlakyBackend

pytestmark = pytest.mark.trio
Clock = trio.testing.MockClock


def source(data: bytes) -> BytesSource:
    return BytesSource(data, crc32c(data))


def open_flaky(**options: object) -> tuple[Location, FlakyBackend]:
    flaky = FlakyBackend(MemoryBackend())
    given = {"in_thread": False, **options}
    return Location(LocationId("aws:test"), flaky, LocationOptions(**given)), flaky  # type: ignore[arg-type]


async def test_every_operation_reaches_the_backend(autojump_clock: Clock) -> None:
    location, _flaky = open_flaky()
    await location.check()
    put = await location.put("a/1", source(b"some bytes"))
    assert await location.head("a/1") == put
    assert await location.get_range("a/1", 5, 100) == b"bytes"
    await location.copy("a/1", "a/2")
    assert [info.key async for info in location.list("a/")] == ["a/1", "a/2"]
    await location.delete_many(["a/1", "a/2"])
    with pytest.raises(ObjectNotFound):
        await location.head("a/1")


async def test_each_attempt_is_counted_and_told(autojump_clock: Clock) -> None:
    location, flaky = open_flaky()
    told: list[tuple[RequestKind, int, str]] = []
    location.on_request = lambda kind, moved, seconds, error: told.append((kind, moved, type(error).__name__))
    flaky.fail("put", Unavailable("no"), Throttled("no", 1.0))
    await location.put("a", source(b"12345"))
    await location.get_range("a", 0, 3)
    assert told == [
        (RequestKind.PUT, 0, "Unavailable"),
        (RequestKind.PUT, 0, "Throttled"),
        (RequestKind.PUT, 5, "NoneType"),
        (RequestKind.GET, 3, "NoneType"),
    ]
    assert location.counters.requests == {RequestKind.PUT: 3, RequestKind.GET: 1}
    assert (location.counters.bytes_up, location.counters.bytes_down) == (5, 3)
    assert location.counters.errors == {"Unavailable": 1, "Throttled": 1}
    assert location.counters.in_flight == 0


async def test_work_costs_the_requests_that_it_should(autojump_clock: Clock) -> None:
    location, _flaky = open_flaky()
    with costs(location, put=2500):
        for number in range(2500):
            await location.put(f"k/{number:04}", source(b"x"))
    with costs(location, list=3):
        assert len([info async for info in location.list("k/")]) == 2500
    with costs(location, list=1):
        assert len([info async for info in location.list("k/00")]) == 100
    with costs(location, delete=3):
        await location.delete_many([f"k/{number:04}" for number in range(2500)])
    requests = Requests(location)
    await location.check()
    assert requests.by_kind() == {"check": 1}


async def test_the_answer_to_a_put_that_was_lost_is_recovered(autojump_clock: Clock) -> None:
    location, flaky = open_flaky()
    flaky.fail_after("put", Unavailable("the answer was lost"))
    info = await location.put("a", source(b"mine"), if_absent=True)
    assert info.size_bytes == 4


async def test_somebody_elses_object_is_not_taken_for_ours(autojump_clock: Clock) -> None:
    location, flaky = open_flaky()
    await location.put("a", source(b"theirs"))
    with pytest.raises(ObjectExists):
        await location.put("a", source(b"ours"), if_absent=True)
    flaky.fail("put", Unavailable("no"))
    with pytest.raises(ObjectExists):
        await location.put("a", source(b"ours"), if_absent=True)
    assert await location.get_range("a", 0, 10) == b"theirs"


class Credulous(MemoryBackend):
    """Repeats the checksum that came with an upload, whatever bytes arrived."""

    def head(self, key: str) -> ObjectInfo:
        return replace(super().head(key), crc32c=crc32c(b"mine"))


@pytest.mark.parametrize("there", [b"mine", b"else"])
async def test_the_bytes_decide_whose_object_it_is_not_what_is_said_of_them(
    autojump_clock: Clock, there: bytes
) -> None:
    flaky = FlakyBackend(Credulous())
    location = Location(LocationId("x"), flaky, LocationOptions(in_thread=False))
    await location.put("a", source(there))
    flaky.fail("put", Unavailable("no"))
    if there == b"mine":
        assert (await location.put("a", source(b"mine"), if_absent=True)).size_bytes == 4
    else:
        with pytest.raises(ObjectExists):
            await location.put("a", source(b"mine"), if_absent=True)


class Bitrot(MemoryBackend):
    """Answers wrong bytes a few times."""

    wrong_answers = 2

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        data = super().get_range(key, offset, length)
        if self.wrong_answers > 0:
            self.wrong_answers -= 1
            return b"?" + data[1:]
        return data


async def test_wrong_bytes_are_fetched_again(autojump_clock: Clock) -> None:
    location = Location(LocationId("x"), Bitrot(), LocationOptions(in_thread=False))
    await location.put("a", source(b"0123456789"))
    verify = expect_blocks(4, [crc32c(b"0123"), crc32c(b"4567"), crc32c(b"89")])
    assert await location.get_range("a", 0, 10, verify=verify) == b"0123456789"
    assert location.counters.requests[RequestKind.GET] == 3


async def test_lasting_wrong_bytes_are_an_error_and_close_no_circuit(autojump_clock: Clock) -> None:
    location, _flaky = open_flaky()
    await location.put("a", source(b"0123456789"))
    for _ in range(10):
        with pytest.raises(BackendCorrupt):
            await location.get_range("a", 0, 10, verify=expect_crc32c(1))
    assert location.health.state is not HealthState.DOWN


async def test_health_tells_the_cause_since_when_and_the_last_success(autojump_clock: Clock) -> None:
    location, flaky = open_flaky(retry=RetryPolicy(attempts=1), breaker=BreakerPolicy(consecutive_failures=3))
    states: list[HealthState] = []
    location.on_health_change = lambda changed: states.append(changed.health.state)
    await location.put("a", source(b"x"))
    assert location.health.last_success_s == pytest.approx(time.time(), abs=5)
    flaky.down = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await location.head("a")
    assert location.health.state is HealthState.DOWN
    assert "down, as the test asked" in location.health.cause
    assert location.health.since_s == pytest.approx(time.time(), abs=5)
    flaky.down = False
    await location.head("a", patient=True)
    assert location.health.state is HealthState.OK
    assert not location.health.cause
    assert states == [HealthState.DEGRADED, HealthState.DOWN, HealthState.DEGRADED, HealthState.OK]


async def test_a_missing_object_is_a_sign_of_health(autojump_clock: Clock) -> None:
    location, _flaky = open_flaky()
    with pytest.raises(ObjectNotFound):
        await location.head("nothing")
    assert location.health.state is HealthState.OK
    assert location.health.last_success_s > 0


async def test_refused_credentials_show_at_once_but_are_not_an_outage(autojump_clock: Clock) -> None:
    location, flaky = open_flaky()
    flaky.fail("head", *[BackendPermission("403 AccessDenied")] * 20)
    for _ in range(20):
        with pytest.raises(BackendPermission):
            await location.head("a")
    assert location.health.state is HealthState.DEGRADED
    assert "AccessDenied" in location.health.cause


async def test_one_locations_trouble_does_not_slow_another(autojump_clock: Clock) -> None:
    bad, flaky = open_flaky(concurrency=2)
    good, _flaky = open_flaky(concurrency=2)
    flaky.down = True
    await good.put("a", source(b"x"))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(_ignore_errors, bad)
        for _ in range(50):
            await good.head("a")
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()


async def _ignore_errors(location: Location) -> None:
    try:
        await location.head("a", patient=True)
    except BackendError:
        return


async def test_a_deadline_covers_queues_repeats_and_open_circuits(autojump_clock: Clock) -> None:
    location, flaky = open_flaky(concurrency=1)
    flaky.down = True
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(_fails_within, location, 5.0)
    assert trio.current_time() - began <= 5.0


async def _fails_within(location: Location, deadline_s: float) -> None:
    with pytest.raises(Unavailable):
        await location.get_range("a", 0, 10, deadline_s=deadline_s, patient=True)


class Hanging(MemoryBackend):
    """An SDK that never comes back, until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def head(self, key: str) -> ObjectInfo:
        self.released.wait(30)
        return super().head(key)

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        return super().put(key, source, if_absent=if_absent)


async def test_a_call_that_hangs_hangs_nobody() -> None:
    backend = Hanging()
    options = LocationOptions(concurrency=4, timeout_s=0.1, retry=RetryPolicy(attempts=1))
    location = Location(LocationId("x"), backend, options)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within"):
        await location.head("a")
    with trio.move_on_after(0.1) as scope:  # nor is a caller that loses patience kept
        await location.head("a", deadline_s=10)
    assert scope.cancelled_caught or time.monotonic() - began < 1
    await location.put("b", source(b"x"))  # and others go on
    assert time.monotonic() - began < 2
    backend.released.set()


SIGNED_URL = "https://host/container/key?sig=c2Vj" + "cmV0"  # in two, as a traceback shows its source


class Buggy(MemoryBackend):
    def head(self, key: str) -> ObjectInfo:
        raise RuntimeError(SIGNED_URL)


async def test_a_bug_in_an_sdk_is_logged_without_what_it_says(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    location = Location(LocationId("x"), Buggy(), LocationOptions(in_thread=False))
    with caplog.at_level(logging.DEBUG), pytest.raises(BackendError) as caught:
        await location.head("a")
    assert "RuntimeError" in str(caught.value)
    assert "RuntimeError" in caplog.text
    assert "c2VjcmV0" not in str(caught.value) + caplog.text
    assert not caught.value.retryable


async def test_a_failed_batch_of_deletes_is_told_after_the_others_were_tried(autojump_clock: Clock) -> None:
    location, flaky = open_flaky()
    keys = [f"{number:04}" for number in range(2500)]
    for key in keys:
        await location.put(key, source(b"x"))
    flaky.fail("delete", BackendPermission("no"))
    with pytest.raises(BackendPermission):
        await location.delete_many(keys)
    left = [info async for info in location.list("")]
    assert len(left) in (500, 1000)  # one batch, whichever came first


async def test_closing_takes_no_longer_than_one_timeout() -> None:
    class SlowToClose(MemoryBackend):
        def close(self) -> None:
            threading.Event().wait(2)

    location = Location(LocationId("x"), SlowToClose(), LocationOptions(timeout_s=0.1))
    began = time.monotonic()
    await location.aclose()
    assert time.monotonic() - began < 1
