"""Each fault at each operation, through real SDKs: the outcome is right or an error in time, never wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import pytest
import trio

from gsfs.backends.base import Backend, BytesSource
from gsfs.backends.checksum import crc32c
from gsfs.backends.location import Location
from gsfs.backends.options import BreakerPolicy, LocationOptions, RetryPolicy
from gsfs.backends.registry import open_backend
from gsfs.backends.verify import expect_crc32c
from gsfs.errors import BackendError, BackendPermission, ObjectNotFound
from gsfs.model import LocationId
from tests.backends.joined import JOINED, make_bucket
from tests.support.faultproxy import Exchange, Fault, FaultProxy

BACKENDS: Final = ("moto", "seaweedfs", "azurite", "fakegcs")
DEADLINE_S: Final = 0.8
SLACK_S: Final = 1.0
"""For two busy cores; a hang would be far longer."""
TIMEOUT_S: Final = 0.4

DATA: Final = random.Random(7).randbytes(300_000)
SOURCE: Final = BytesSource(DATA, crc32c(DATA))

TRANSIENT: Final = [fault for fault in Fault if fault is not Fault.ERROR_403]


async def put(location: Location) -> None:
    info = await location.put("new", SOURCE, deadline_s=10)
    assert info.size_bytes == len(DATA)


async def put_if_absent(location: Location) -> None:
    info = await location.put("new", SOURCE, if_absent=True, deadline_s=10)
    assert info.crc32c == SOURCE.crc32c


async def get(location: Location) -> None:
    verify = expect_crc32c(crc32c(DATA[1000:201_000]))
    assert await location.get_range("old", 1000, 200_000, deadline_s=10, verify=verify) == DATA[1000:201_000]


async def get_whole(location: Location) -> None:
    assert await location.get_range("old", 0, len(DATA), deadline_s=10) == DATA


async def head(location: Location) -> None:
    info = await location.head("old", deadline_s=10)
    assert (info.size_bytes, info.crc32c) == (len(DATA), SOURCE.crc32c)


async def delete(location: Location) -> None:
    await location.delete_many(["old", "older"], deadline_s=10)


async def listing(location: Location) -> None:
    assert {info.key async for info in location.list("", deadline_s=10)} == {"old", "older"}


async def copy(location: Location) -> None:
    assert (await location.copy("old", "new", deadline_s=10)).size_bytes == len(DATA)


Operation = Callable[[Location], Awaitable[None]]
OPERATIONS: Final[dict[str, Operation]] = {
    "put": put,
    "put-if-absent": put_if_absent,
    "get": get,
    "get-whole": get_whole,
    "head": head,
    "delete": delete,
    "list": listing,
    "copy": copy,
}

# A changed or shortened byte in anything but an object's bytes is what TLS is for: no provider puts a
# checksum on its listings.
UNPROTECTED: Final = {
    (Fault.CORRUPT_ANSWER, "head"),
    (Fault.CORRUPT_ANSWER, "list"),
    (Fault.CORRUPT_ANSWER, "delete"),
    (Fault.CORRUPT_ANSWER, "copy"),
    (Fault.CORRUPT_ANSWER, "put"),
    (Fault.CORRUPT_ANSWER, "put-if-absent"),
    (Fault.CORRUPT_UPLOAD, "delete"),
    (Fault.CORRUPT_UPLOAD, "copy"),
    (Fault.CORRUPT_UPLOAD, "list"),
}


@pytest.fixture(scope="session")
def proxies() -> Iterator[dict[str, tuple[FaultProxy, Backend, Backend]]]:
    """For each backend: a proxy, the backend through it, and the backend past it."""
    made: dict[str, tuple[FaultProxy, Backend, Backend]] = {}
    yield made
    for proxy, through, past in made.values():
        through.close()
        past.close()
        proxy.__exit__()


@pytest.fixture(params=BACKENDS)
def rig(
    request: pytest.FixtureRequest,
    proxies: dict[str, tuple[FaultProxy, Backend, Backend]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[FaultProxy, Backend, Backend]]:
    name: str = request.param
    if name not in proxies:
        folder = tmp_path_factory.mktemp(name)
        bucket = f"gsfs-faults-{name}"
        spec = JOINED[name].spec(request.getfixturevalue, folder, bucket=bucket)
        make_bucket(spec)
        proxy = FaultProxy(spec.endpoint)
        proxy.__enter__()
        hasty = JOINED[name].spec(
            request.getfixturevalue, folder, bucket=bucket, endpoint=proxy.url, timeout_s=TIMEOUT_S
        )
        proxies[name] = (proxy, open_backend(hasty), open_backend(spec))
    proxy, _through, past = proxies[name]
    past.delete_many([info.key for info in past.list_page("")])
    for key in ("old", "older"):
        past.put(key, SOURCE)
    yield proxies[name]
    proxy.calm()
    proxy.break_connections()


def location_of(backend: Backend, **breaker: float) -> Location:
    """Hasty, so that tests are short, and without a breaker unless asked for."""
    return Location(
        LocationId("test"),
        backend,
        LocationOptions(
            concurrency=4,
            timeout_s=TIMEOUT_S + 0.5,
            retry=RetryPolicy(base_s=0.01, longest_s=0.1, attempts=1000, corrupt_attempts=4),
            breaker=BreakerPolicy(**{"consecutive_failures": 10**6, "minimum_attempts": 10**6, **breaker}),  # type: ignore[arg-type]
        ),
    )


def check_stored(past: Backend, name: str) -> None:
    """What is at the location afterwards, seen past the proxy."""
    if name in ("put", "put-if-absent", "copy"):
        assert past.get_range("new", 0, len(DATA) + 1) == DATA
        assert past.head("new").crc32c == SOURCE.crc32c
    if name == "delete":
        assert list(past.list_page("")) == []
    else:
        assert past.get_range("old", 0, len(DATA) + 1) == DATA


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: fault.name)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_fault_that_passes_is_not_seen_by_the_caller(
    rig: tuple[FaultProxy, Backend, Backend], name: str, fault: Fault
) -> None:
    if (fault, name) in UNPROTECTED:
        pytest.skip("protected by TLS alone")
    proxy, through, past = rig
    proxy.inject(fault)
    trio.run(OPERATIONS[name], location_of(through))
    assert proxy.injected[fault] > 0
    check_stored(past, name)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refusal_is_told_at_once(rig: tuple[FaultProxy, Backend, Backend], name: str) -> None:
    proxy, through, _past = rig
    before = proxy.injected[Fault.ERROR_403]
    proxy.inject(Fault.ERROR_403, times=1000)
    with pytest.raises(BackendPermission):
        trio.run(OPERATIONS[name], location_of(through))
    assert proxy.injected[Fault.ERROR_403] - before <= 2  # one for each key deleted at most


LASTING: Final = [
    Fault.ERROR_500,
    Fault.ERROR_503,
    Fault.ERROR_429,
    Fault.STALL,
    Fault.STALL_BODY,
    Fault.RESET,
    Fault.RESET_BODY,
    Fault.LANDED_500,
    Fault.LANDED_RESET,
]


@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: fault.name)
@pytest.mark.parametrize("name", ["put", "get"])
def test_a_fault_that_lasts_is_an_error_within_the_deadline(
    rig: tuple[FaultProxy, Backend, Backend], name: str, fault: Fault
) -> None:
    proxy, through, past = rig
    proxy.inject(fault, times=100_000)
    location = location_of(through)

    async def ask() -> None:
        if name == "put":
            await location.put("new", SOURCE, deadline_s=DEADLINE_S)
        else:
            await location.get_range("old", 0, len(DATA), deadline_s=DEADLINE_S)

    began = time.monotonic()
    try:
        trio.run(ask)
    except BackendError as error:
        assert error.retryable
    else:
        # The answer to a put has no body that could stall or break.
        assert (name, fault) in {("put", Fault.STALL_BODY), ("put", Fault.RESET_BODY)}
        check_stored(past, name)
    assert time.monotonic() - began < DEADLINE_S + SLACK_S


@pytest.mark.parametrize("fault", [Fault.CORRUPT_ANSWER, Fault.SHORTEN, Fault.TRUNCATE], ids=lambda f: f.name)
def test_damaged_bytes_are_never_returned(rig: tuple[FaultProxy, Backend, Backend], fault: Fault) -> None:
    proxy, through, _past = rig
    proxy.inject(fault, times=100_000)
    with pytest.raises(BackendError):
        trio.run(lambda: location_of(through).get_range("old", 0, len(DATA), deadline_s=DEADLINE_S))
    verify = expect_crc32c(crc32c(DATA[1000:201_000]))
    with pytest.raises(BackendError):
        trio.run(
            lambda: location_of(through).get_range("old", 1000, 200_000, deadline_s=DEADLINE_S, verify=verify)
        )


def test_damaged_uploads_are_never_stored(rig: tuple[FaultProxy, Backend, Backend]) -> None:
    proxy, through, past = rig
    proxy.inject(Fault.CORRUPT_UPLOAD, times=100_000, applies=lambda exchange: len(exchange.body) > 1000)
    with pytest.raises(BackendError):
        trio.run(lambda: location_of(through).put("new", SOURCE, if_absent=True, deadline_s=DEADLINE_S))
    proxy.calm()
    with pytest.raises(ObjectNotFound):
        past.head("new")


def test_an_upload_whose_answer_is_lost_is_not_taken_for_somebody_elses(
    rig: tuple[FaultProxy, Backend, Backend],
) -> None:
    proxy, through, past = rig
    proxy.inject(Fault.LANDED_RESET, applies=_uploads)
    info = trio.run(lambda: location_of(through).put("new", SOURCE, if_absent=True, deadline_s=10))
    assert info.size_bytes == len(DATA)
    assert past.get_range("new", 0, len(DATA)) == DATA


def _uploads(exchange: Exchange) -> bool:
    return exchange.method in ("PUT", "POST") and len(exchange.body) > 1000


def test_a_location_that_is_down_fails_fast_and_comes_back_by_itself(
    rig: tuple[FaultProxy, Backend, Backend],
) -> None:
    proxy, through, _past = rig

    async def story() -> None:
        location = location_of(
            through, consecutive_failures=3, first_pause_s=0.2, longest_pause_s=0.2, minimum_attempts=1000
        )
        proxy.down = True
        proxy.break_connections()
        with pytest.raises(BackendError):
            await location.head("old", deadline_s=2)
        assert location.health.state == "down"
        assert location.health.cause
        asked = location.counters.requests.total()
        with pytest.raises(BackendError):
            await location.head("old")
        assert location.counters.requests.total() == asked  # refused without asking
        proxy.down = False
        assert (await location.head("old", patient=True, deadline_s=10)).size_bytes == len(DATA)
        assert location.health.state == "ok"

    try:
        trio.run(story)
    finally:
        proxy.down = False


@pytest.mark.parametrize("seed", [1, 2])
def test_random_operations_under_random_faults_lose_and_invent_no_byte(
    rig: tuple[FaultProxy, Backend, Backend], seed: int
) -> None:
    proxy, through, past = rig
    harmless_to_metadata = tuple(
        fault
        for fault in TRANSIENT
        if fault not in (Fault.CORRUPT_ANSWER, Fault.SHORTEN, Fault.STALL, Fault.STALL_BODY)
    )
    proxy.chaos(seed, 0.3, harmless_to_metadata)
    model: dict[str, bytes] = {"old": DATA, "older": DATA}
    trio.run(_random_operations, location_of(through), model, random.Random(seed))
    proxy.calm()
    assert {info.key for info in past.list_page("")} == set(model)
    for key, data in model.items():
        assert past.get_range(key, 0, len(DATA) + 1) == data


async def _random_operations(location: Location, model: dict[str, bytes], rng: random.Random) -> None:
    """Sequential, so that the model knows what must be there; keys are never reused, as in gsfs."""
    for number in range(40):
        choice = rng.random()
        if choice < 0.4 or not model:
            data = rng.randbytes(rng.randrange(200_000))
            await location.put(f"key/{number}", BytesSource(data, crc32c(data)), deadline_s=30)
            model[f"key/{number}"] = data
        elif choice < 0.8:
            key = rng.choice(sorted(model))
            offset, length = rng.randrange(250_000), rng.randrange(1, 100_000)
            answer = await location.get_range(key, offset, length, deadline_s=30)
            assert answer == model[key][offset : offset + length]
        else:
            doomed = rng.sample(sorted(model), min(2, len(model)))
            await location.delete_many(doomed, deadline_s=30)
            for key in doomed:
                del model[key]
