"""The asynchronous face of a location: what everything above uses. Owns the order of the wrappers.

From the outside in: limit (bandwidth and places) · retry (back-off, deadline) · watch (health) · breaker ·
measure (every attempt counts) · call (thread, time-out) · backend. It never touches the namespace and
never chooses between locations.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final

import trio

from gsfs.backends.base import Backend, Capabilities, ObjectInfo, Source
from gsfs.backends.breaker import CircuitBreaker
from gsfs.backends.call import CallInThread
from gsfs.backends.checksum import crc32c
from gsfs.backends.health import Health, HealthState, Watch
from gsfs.backends.limit import Limit
from gsfs.backends.measure import Counters, Measure, OnRequest
from gsfs.backends.options import LocationOptions
from gsfs.backends.request import Request, RequestKind, T
from gsfs.backends.retry import Retry
from gsfs.errors import BackendError, ObjectChanged, ObjectExists
from gsfs.model import LocationId

log = logging.getLogger(__name__)

DELETES_AT_ONCE: Final = 8
"""Requests to delete that one call has under way."""

Verify = Callable[[bytes], None]
"""Looks at the bytes of a range and raises BackendCorrupt when they are wrong (see ``verify``)."""


class Location:
    """One location, safe to use from any number of tasks of one trio run.

    Every method raises only BackendError. Common arguments: ``deadline_s``, seconds from now until the call
    fails with Unavailable whatever happens (None: the option's, counted from when its turn comes, longer for
    large payloads); ``patient``, wait for a location whose circuit is open (up to the deadline) instead of
    failing at once with CircuitOpen.
    """

    def __init__(self, id: LocationId, backend: Backend, options: LocationOptions | None = None) -> None:
        options = options or LocationOptions()
        self.id = id
        self.options = options
        self.health = Health()
        self.counters = Counters()
        self.on_health_change: Callable[[Location], None] | None = None
        self._backend = backend
        call = CallInThread(
            concurrency=options.concurrency, timeout_s=options.timeout_s, in_thread=options.in_thread
        )
        self._measure = Measure(call, self.counters)
        self.breaker = CircuitBreaker(self._measure, options.breaker)
        watch = Watch(self.breaker, self.health)
        self.breaker.on_state_change = watch.circuit_moved
        watch.on_change = self._health_changed
        self._pipeline = Limit(
            Retry(watch, options.retry),
            concurrency=options.concurrency,
            up_bytes_per_s=options.bandwidth_up_bytes_per_s,
            down_bytes_per_s=options.bandwidth_down_bytes_per_s,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._backend.capabilities

    @property
    def on_request(self) -> OnRequest | None:
        """Told of each attempt, ``(kind, bytes, seconds, error)``, on the event loop: for the ledger."""
        return self._measure.on_request

    @on_request.setter
    def on_request(self, hook: OnRequest | None) -> None:
        self._measure.on_request = hook

    async def put(
        self,
        key: str,
        source: Source,
        *,
        if_absent: bool = False,
        deadline_s: float | None = None,
        patient: bool = False,
    ) -> ObjectInfo:
        """Store the whole object; durable and verified when this returns. Raises ObjectExists."""
        run = partial(self._backend.put, key, source, if_absent=if_absent)
        request = self._request(RequestKind.PUT, run, key, deadline_s, patient)
        request.bytes_up = source.size_bytes
        try:
            return await self._carry_out(request)
        except ObjectExists:
            if request.attempts == 1:
                raise
            # An earlier attempt may have stored it and lost only the answer.
            return await self._landed_before(key, source, deadline_s)

    async def get_range(
        self,
        key: str,
        offset: int,
        length: int,
        *,
        deadline_s: float | None = None,
        patient: bool = False,
        verify: Verify | None = None,
        if_match: str = "",
    ) -> bytes:
        """Bytes ``[offset, offset+length)``, shorter only at the object's end. Raises ObjectNotFound.

        With ``verify``, bytes that it rejects are fetched again, and BackendCorrupt ends the attempts. With
        ``if_match``, an object with another etag raises ObjectChanged.
        """
        run = partial(_get_verified, self._backend, key, offset, length, verify, if_match)
        request = self._request(RequestKind.GET, run, key, deadline_s, patient)
        request.bytes_down = length
        return await self._carry_out(request)

    async def head(self, key: str, *, deadline_s: float | None = None, patient: bool = False) -> ObjectInfo:
        """Facts without the bytes. Raises ObjectNotFound."""
        run = partial(self._backend.head, key)
        return await self._carry_out(self._request(RequestKind.HEAD, run, key, deadline_s, patient))

    async def delete_many(
        self, keys: Sequence[str], *, deadline_s: float | None = None, patient: bool = False
    ) -> None:
        """Remove objects, one request for each ``capabilities.delete_batch`` keys; absent ones are fine.

        Raises the error of the first batch that fails; those that were under way with it are carried out.
        """
        step = self.capabilities.delete_batch
        batches = [tuple(keys[first : first + step]) for first in range(0, len(keys), step)]
        errors: list[BackendError] = []

        async def delete(batch: tuple[str, ...]) -> None:
            run = partial(self._backend.delete_many, batch)
            what = batch[0] if len(batch) == 1 else f"{batch[0]} and {len(batch) - 1} more"
            try:
                await self._carry_out(self._request(RequestKind.DELETE, run, what, deadline_s, patient))
            except BackendError as error:
                errors.append(error)

        for first in range(0, len(batches), DELETES_AT_ONCE):
            async with trio.open_nursery() as nursery:
                for batch in batches[first : first + DELETES_AT_ONCE]:
                    nursery.start_soon(delete, batch)
            if errors:
                raise errors[0]

    async def list(
        self,
        prefix: str,
        *,
        start_after: str = "",
        page_size: int = 1000,
        deadline_s: float | None = None,
    ) -> AsyncIterator[ObjectInfo]:
        """Every object under ``prefix`` in the provider's order: one request for each ``page_size``."""
        last = start_after
        while True:
            run = partial(self._backend.list_page, prefix, last, page_size)
            page = await self._carry_out(self._request(RequestKind.LIST, run, prefix, deadline_s))
            for info in page:
                yield info
            if len(page) < page_size:
                return
            last = page[-1].key

    async def copy(
        self, source_key: str, key: str, *, deadline_s: float | None = None, patient: bool = False
    ) -> ObjectInfo:
        """Copy within the location, without moving bytes through this machine. Raises ObjectNotFound."""
        run = partial(self._backend.copy, source_key, key)
        return await self._carry_out(self._request(RequestKind.COPY, run, key, deadline_s, patient))

    async def check(self, *, deadline_s: float | None = None) -> None:
        """Prove that the bucket exists and answers to these credentials."""
        request = self._request(RequestKind.CHECK, self._backend.check, "", deadline_s)
        await self._carry_out(request)

    async def aclose(self) -> None:
        """Give back connections. Waits for no hung call."""
        with trio.move_on_after(self.options.timeout_s, shield=True):
            await trio.to_thread.run_sync(self._backend.close, abandon_on_cancel=True)

    def _request(
        self,
        kind: RequestKind,
        run: Callable[[], T],
        target: str,
        deadline_s: float | None,
        patient: bool = False,
    ) -> Request[T]:
        fail_at = math.inf if deadline_s is None else trio.current_time() + deadline_s
        what = f"{self.id}: {kind} {target}".rstrip()
        return Request(kind, run, what, fail_at=fail_at, patient=patient)

    async def _carry_out(self, request: Request[T]) -> T:
        if not request.patient:
            # Before any queue: a location that is down must not make its callers wait for a turn.
            self.breaker.refuse_if_open(request.what)
        return await self._pipeline(request)

    async def _landed_before(self, key: str, source: Source, deadline_s: float | None) -> ObjectInfo:
        """What is under the key after a put whose answers were lost: ours, by its bytes, or somebody else's."""
        info = await self.head(key, deadline_s=deadline_s)
        ours = info.size_bytes == source.size_bytes
        if ours and info.size_bytes > 0:
            # A checksum in the metadata says what was sent, not what arrived: the bytes decide.
            data = await self.get_range(key, 0, info.size_bytes, deadline_s=deadline_s)
            ours = crc32c(data) == source.crc32c
        if not ours:
            raise ObjectExists(f"{self.id}: put {key}: another object has that key")
        return info

    def _health_changed(self, health: Health) -> None:
        if health.state is HealthState.DOWN:
            log.warning("location %s is down: %s", self.id, health.cause)
        elif health.state is HealthState.OK and self.counters.requests.total() > 0:
            log.info("location %s answers", self.id)
        if self.on_health_change is not None:
            self.on_health_change(self)


def _get_verified(
    backend: Backend, key: str, offset: int, length: int, verify: Verify | None, if_match: str
) -> bytes:
    try:
        # Only what other tools put there is asked for by its etag; our own keys are never used twice.
        same = {"if_match": if_match} if if_match else {}
        data = backend.get_range(key, offset, length, **same)
    except ObjectExists:
        raise ObjectChanged(f"get {key}: is another object now") from None
    if verify is not None:
        verify(data)
    return data
