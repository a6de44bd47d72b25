"""The TTL rule of the SkyStore paper (arXiv 2502.20818), for comparison with ``adaptive``. Bounds nothing.

One histogram of re-read gaps per region. With H[i] the mass re-read with a gap in bin i, and L the mass not re-read
so far, the expected cost of TTL T over sigma is
sum over i <= T of H[i] mid[i]  +  sum over i > T of H[i] (T + T_even)  +  L T.
"""

from __future__ import annotations

from dataclasses import dataclass

from gsfs.policy.histogram import BIN_END_S, BIN_MID_S, BINS, FIRST_READ, GapHistogram, bin_of
from gsfs.policy.prices import break_even_s
from gsfs.policy.ttl import RegionMemory, Trail

ENOUGH = 100.0
"""Ended intervals before the histogram is believed; T_even / 2 until then."""


def least_cost_ttl_s(histogram: GapHistogram, t_even_s: float) -> float:
    """The TTL in [0, T_even] of least expected cost by the paper's formula."""
    gaps = histogram.gaps[FIRST_READ]
    last_reads = histogram.lapsed[FIRST_READ] + sum(histogram.cohorts[FIRST_READ].values()) * histogram.unit
    later = sum(gaps)
    best_s, least, held = 0.0, later * t_even_s, 0.0
    for i in range(min(BINS, bin_of(t_even_s) + 1)):
        held += gaps[i] * BIN_MID_S[i]
        later -= gaps[i]
        ttl_s = min(BIN_END_S[i], t_even_s)
        cost = held + later * (ttl_s + t_even_s) + last_reads * ttl_s
        if cost < least:
            best_s, least = ttl_s, cost
    return best_s


@dataclass(frozen=True, slots=True)
class SkyStoreTtl:
    """``skystore``: argmin of expected cost, recomputed once per slot; no contexts, no bound."""

    name: str = "skystore"

    def after_read(
        self,
        memory: RegionMemory,
        trail: Trail,
        now_s: float,
        miss_usd: float,
        hold_usd_per_s: float,
        put_usd: float = 0.0,
    ) -> float:
        if now_s >= memory.next_slot_s:
            memory.advance(now_s)
        t_even_s = break_even_s(miss_usd, hold_usd_per_s)
        if trail.last_read_s >= 0:
            memory.histogram.closed(FIRST_READ, trail.cohort, now_s - trail.last_read_s)
        trail.cohort = memory.histogram.opened(FIRST_READ)
        key = (FIRST_READ, bin_of(t_even_s))
        ttl_s = memory.ttls.get(key)
        if ttl_s is None:
            ttl_s = t_even_s / 2
            if memory.histogram.evidence() >= ENOUGH:
                ttl_s = least_cost_ttl_s(memory.histogram, t_even_s)
            memory.ttls[key] = ttl_s
        trail.last_read_s, trail.ttl_s = now_s, min(ttl_s, t_even_s)
        return trail.ttl_s
