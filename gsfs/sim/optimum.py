"""The clairvoyant optimum, as it would have been. Owns the yardstick; no policy can see it.

For one object and region, the optimum over any sequence of reads has two ends after each read: with a replica kept or
without. The cheapest cost of either is known from the cheapest costs before that read, so the optimum of the past
needs no look into the future and two numbers per object and region. Where a PUT is free it is the rule of SkyStore
(arXiv 2502.20818): keep exactly when the next read comes before T_even.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Clairvoyant:
    """The cheapest cost so far, in USD, of one object's reads in one region without a permanent replica."""

    last_read_s: float
    with_replica_usd: float
    without_usd: float

    @classmethod
    def first(cls, now_s: float, fetch_usd: float, put_usd: float) -> Clairvoyant:
        """After the first read, which everybody pays for."""
        return cls(now_s, fetch_usd + put_usd, fetch_usd)

    def read(self, now_s: float, fetch_usd: float, put_usd: float, hold_usd_per_s: float) -> None:
        """Another read: either the replica was held for the gap, or the object is fetched again."""
        held = self.with_replica_usd + (now_s - self.last_read_s) * hold_usd_per_s
        fetched = self.without_usd + fetch_usd
        self.with_replica_usd = min(held, fetched + put_usd)
        self.without_usd = min(held, fetched)
        self.last_read_s = now_s

    def least_usd(self) -> float:
        """The optimum of everything read so far: whatever comes, nothing need be held any longer."""
        return self.without_usd
