"""What the policies remembered and need no longer: trails, memories of removed buckets, fine lines of the ledger.

Owns the pace and the ages; whether a trail still means anything is ``policy.ttl``'s word.
"""

from __future__ import annotations

import json
import logging

import trio
import trio.lowlevel

from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.store import Store
from gsfs.policy.ttl import Trail, forgettable
from gsfs.transfer.steward import Steward

log = logging.getLogger(__name__)

INTERVAL_S = 3600.0
PAGE = 500
HOURS_UNTIL_DAYS = 35 * 24
"""The ledger keeps hours for so long, then days: longer than a month's budget or a forecast looks back."""
HOURS_KEPT = 400 * 24
"""The ledger ends here: thirteen months, so that a month can be compared with that of a year ago."""


class Forgetting:
    """One for each mount."""

    def __init__(self, store: Store, steward: Steward) -> None:
        self._store = store
        self._steward = steward

    async def run(self) -> None:
        """Forget now and then, until cancelled."""
        while True:
            await self.forget()
            await trio.sleep(INTERVAL_S)

    async def forget(self) -> int:
        """One pass over everything; rows that went. Other requests run between two pieces."""
        gone = self.forget_buckets() + await self._forget_trails()
        hour = int(self._steward.clock() // 3600)
        days_from = (hour - HOURS_UNTIL_DAYS) // 24 * 24
        while folded := self._store.policies.fold(days_from, PAGE):
            gone += folded
            self._store.changed()
            await trio.lowlevel.checkpoint()
        if dropped := self._store.policies.drop_lines((hour - HOURS_KEPT) // 24 * 24):
            gone += dropped
            self._store.changed()
        return gone

    def forget_buckets(self) -> int:
        """Memories of buckets that were removed."""
        gone = [b for b in self._store.policies.memory_buckets() if self._store.buckets.get(b) is None]
        for bucket in gone:
            self._steward.forget_bucket(bucket)
            self._store.policies.drop_memories(bucket)
            self._store.changed()
        return len(gone)

    async def _forget_trails(self) -> int:
        """Trails of this mount's region; those of others are theirs to judge."""
        if self._steward.prices is None or not self._steward.region:
            return 0
        after, gone = 0, 0
        while page := self._store.policies.trails(self._steward.region, after, PAGE):
            after = page[-1][0]
            for id_, state in page:
                if self._means_nothing(self._store.objects.get(id_), Trail(**json.loads(state))):
                    self._store.policies.drop_trail(id_, self._steward.region)
                    self._store.changed()
                    gone += 1
            await trio.lowlevel.checkpoint()
        return gone

    def _means_nothing(self, object_: PhysicalObject | None, trail: Trail) -> bool:
        if object_ is None or self._store.buckets.get(object_.bucket) is None:
            return True
        t_even_s = self._steward.longest_t_even_s(object_.size)
        return forgettable(self._steward.memory(object_.bucket), trail, t_even_s, self._steward.clock())
