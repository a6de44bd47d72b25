"""The ledger of a mount: counts every request where it is made, and every byte for as long as it is kept.

Who pays is said by whoever causes a request (``pays``); retries pay like first tries, for they are billed.
What is deleted before its location's minimum age is billed for the rest of it. Nothing is priced here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import trio

from gsfs.backends.location import Location
from gsfs.backends.request import RequestKind
from gsfs.errors import BackendError
from gsfs.model import LocationId
from gsfs.namespace.objects import PhysicalObject, Replica
from gsfs.namespace.policies import LedgerRow
from gsfs.namespace.store import Store
from gsfs.policy.expiry import early_delete_ms
from gsfs.policy.ledger import Kind, Ledger

_payer: ContextVar[str] = ContextVar("payer", default="")

STORAGE_TICK_S = 60.0
BILLED_AS = {
    RequestKind.PUT: Kind.PUT,
    RequestKind.COPY: Kind.PUT,
    RequestKind.GET: Kind.GET,
    RequestKind.HEAD: Kind.HEAD,
    RequestKind.CHECK: Kind.HEAD,
    RequestKind.LIST: Kind.LIST,
    RequestKind.DELETE: Kind.DELETE,
}


@contextmanager
def pays(bucket: int) -> Iterator[None]:
    """Requests made within are this bucket's."""
    token = _payer.set(str(bucket))
    try:
        yield
    finally:
        _payer.reset(token)


class Accounts:
    """One for each mount. ``region`` is where the mount runs; empty: outside of all of them."""

    def __init__(
        self,
        store: Store,
        locations: dict[LocationId, Location],
        region: str,
        clock: Callable[[], float] = time.time,
        min_age_s: Callable[[str], int] = lambda _location: 0,
    ) -> None:
        """``min_age_s``: for how long a location bills an object at least, by the price table."""
        self._clock = clock
        self._min_age_s = min_age_s
        self._store = store
        self._region = region
        self._ledger = Ledger()
        self._counted_to_ms = store.stored_ms or round(clock() * 1000)
        store.record_stored(self._counted_to_ms)
        for location in locations.values():
            self.watch(location)
        store.objects.before_kept_changes = self.count_storage
        store.objects.on_let_go = self._let_go
        store.before_commit.append(self.write)

    def watch(self, location: Location) -> None:
        """Count what is asked of it from now on."""
        location.on_request = partial(self._request, location.id)

    def _request(
        self, location: str, kind: RequestKind, size_bytes: int, _seconds: float, _error: BackendError | None
    ) -> None:
        now_s, payer, billed = self._clock(), _payer.get(), BILLED_AS[kind]
        self._ledger.request(now_s, payer, location, billed, size_bytes=size_bytes, reader=self._region)
        if billed is Kind.PUT and self._region:
            self._ledger.egress(now_s, payer, self._region, location, size_bytes)
        self._store.booked()

    def _let_go(self, object_: PhysicalObject, replica: Replica) -> None:
        now_s = self._clock()
        left_ms = early_delete_ms(replica.since_ns / 1e9, now_s, self._min_age_s(replica.location))
        self._ledger.early_delete(now_s, str(object_.bucket), replica.location, object_.size, left_ms)
        self._store.booked()

    async def run(self) -> None:
        """Count what is stored, until cancelled."""
        while True:
            await trio.sleep(STORAGE_TICK_S)
            self.count_storage()

    def count_storage(self) -> None:
        """Byte-time since the last call, of what is stored now; of the time between two mounts as well."""
        now_ms = round(self._clock() * 1000)
        if now_ms <= self._counted_to_ms:
            return
        since_ms, self._counted_to_ms = self._counted_to_ms, now_ms
        self._store.record_stored(now_ms)
        for bucket, location, size_bytes in self._store.objects.stored():
            self._ledger.stored(str(bucket), location, size_bytes, since_ms, now_ms)
            self._store.booked()

    def bring_up_to_date(self) -> None:
        """Everything counted until now is in the tables (and in the next commit) when this returns."""
        self.count_storage()
        self.write()

    def write(self) -> None:
        """Add what was counted to the namespace; part of each commit."""
        if self._ledger.lines:
            lines, self._ledger = self._ledger, Ledger()
            self._store.policies.add_lines(
                LedgerRow(k.hour, k.bucket, k.region, k.kind.value, k.dst, c.requests, c.amount)
                for k, c in lines
            )
