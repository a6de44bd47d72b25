"""Asking replicas for bytes: the next one when one fails or is slow, patiently when none answers.

Owns when another location is asked, and what that may cost. Which comes first is the policy's word.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Final

import trio

from gsfs.backends.hedge import first_success
from gsfs.errors import BackendError, Throttled, Unavailable
from gsfs.model import LocationId
from gsfs.namespace.objects import Replica

log = logging.getLogger(__name__)

HEDGE_LEAST_S: Final = 0.25
"""A location is never called slow sooner."""
HEDGE_QUANTILE: Final = 0.95
HEDGE_SAMPLES: Final = 64
HEDGE_SAMPLES_LEAST: Final = 8
"""With fewer reads of a location on record, nobody knows what is slow there."""
FAILOVER_S: Final = 10.0
"""A replica that has not answered for so long is as good as absent: the next is asked, whatever it costs."""
SPARE: Final = 0.95
"""Share of the time left that a location gets, so that it can still say what went wrong."""

Ask = Callable[[Replica, float, bool], Awaitable[bytes]]
"""``(replica, deadline_s, patient)``: one verified read of that replica. Raises BackendError."""


class Sources:
    """One for each mount. Remembers how long each location's reads took lately."""

    def __init__(self, hedges_to: Callable[[LocationId], bool]) -> None:
        self._hedges_to = hedges_to
        self._seconds: dict[LocationId, deque[float]] = defaultdict(lambda: deque(maxlen=HEDGE_SAMPLES))
        self.hedged_reads = 0
        """Reads for which a second location was asked while the first was still silent."""

    async def read(self, ranked: Sequence[Replica], ask: Ask, *, patient: bool) -> bytes:
        """The bytes from the first replica that has them. Raises BackendError, the best replica's.

        ``patient``: while every location is down, go on until the time of the caller's cancel scope is over.
        """
        sole = len(ranked) == 1
        try:
            return await self._race(ranked, ask, self._delays_s(ranked), patient=patient and sole)
        except (Unavailable, Throttled):
            if sole or not patient:
                raise
        # Circuits that are open let one probe pass now and then; waiting for all of them costs nothing more.
        return await self._race(ranked, ask, [0.0] * len(ranked), patient=True)

    async def _race(
        self, ranked: Sequence[Replica], ask: Ask, delays_s: Sequence[float], *, patient: bool
    ) -> bytes:
        attempts = [
            partial(self._timed, number, replica, ask, patient) for number, replica in enumerate(ranked)
        ]
        return await first_success(attempts, delays_s)

    async def _timed(self, number: int, replica: Replica, ask: Ask, patient: bool) -> bytes:
        began = trio.current_time()
        left_s = trio.current_effective_deadline() - began
        try:
            data = await ask(replica, left_s * SPARE if left_s < math.inf else left_s, patient)
        except BackendError as error:
            log.warning("reading from %s: %s", replica.location, error)
            raise
        except trio.Cancelled:  # another was faster, or the time is over: it took at least so long
            self._seconds[replica.location].append(trio.current_time() - began)
            raise
        self._seconds[replica.location].append(trio.current_time() - began)
        self.hedged_reads += number > 0
        return data

    def _delays_s(self, ranked: Sequence[Replica]) -> list[float]:
        """For each replica but the last: how long it may be silent before the next one is asked too."""
        left_s = trio.current_effective_deadline() - trio.current_time()
        share_s = min(FAILOVER_S, left_s / len(ranked))
        return [
            min(share_s, self.slow_s(here.location)) if self._hedges_to(there.location) else share_s
            for here, there in pairwise(ranked)
        ]

    def slow_s(self, location: LocationId) -> float:
        """Seconds that all but a few of the location's recent reads took less than; inf while too few are known."""
        seconds = sorted(self._seconds[location])
        if len(seconds) < HEDGE_SAMPLES_LEAST:
            return math.inf
        return max(HEDGE_LEAST_S, seconds[int(len(seconds) * HEDGE_QUANTILE)])
