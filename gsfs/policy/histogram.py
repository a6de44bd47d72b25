"""Re-read gaps of one region. Owns what the past says about when a replica is wanted again; decides nothing.

SkyStore (arXiv 2502.20818) keeps, per region, a histogram of re-read gaps and of times since the last read. This one
differs in three ways, all explained in docs/policies.md:

* intervals are told apart by *context*: whether there was a read before, and how long before, in units of T_even;
* an interval still open is neither a re-read nor a last read: it is censored, and weighted as such (Kaplan and Meier);
* evidence is blended with a prior (a hazard of 1/T_even: the distribution for which every TTL is equally good), so
  that little evidence argues for little.

The state is bounded: ``CONTEXTS`` times ``BINS`` masses and ``HORIZON_SLOTS`` open cohorts, whatever is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BINS_PER_OCTAVE = 4
BINS = 33 * BINS_PER_OCTAVE
"""Bins are geometric from one second to 2**33 s (272 years); bin i ends at 2**((i+1)/4) seconds."""
BIN_END_S = tuple(2.0 ** ((i + 1) / BINS_PER_OCTAVE) for i in range(BINS))
BIN_MID_S = tuple(2.0 ** ((i + 0.5) / BINS_PER_OCTAVE) for i in range(BINS))

CONTEXTS = 6
FIRST_READ = 0
"""Context of an interval that follows the first read of an object in the region."""

SLOTS_PER_T_EVEN = 32
HORIZON_SLOTS = 2 * SLOTS_PER_T_EVEN
"""After two (reference) T_even an open interval counts as never read again."""
DECAY_PER_SLOT = 0.5 ** (1 / (4 * SLOTS_PER_T_EVEN))
"""Evidence halves every four T_even: habits change."""
BLEND = 12.0
"""How many intervals the wider experience (all contexts, or the prior) weighs against a context's own."""


def bin_of(gap_s: float) -> int:
    """Index of the bin that holds ``gap_s``."""
    if gap_s <= 1.0:
        return 0
    index = int(math.log2(gap_s) * BINS_PER_OCTAVE)
    return index if index < BINS else BINS - 1


def context_of(gap_s: float, t_even_s: float) -> int:
    """Context of the interval that follows a read ``gap_s`` after the one before: 1 (at once) to 5 (past T_even)."""
    if gap_s > t_even_s:
        return 5
    share = gap_s / t_even_s
    if share > 0.25:
        return 4
    if share > 0.0625:
        return 3
    return 2 if share > 0.015625 else 1


@dataclass(slots=True)
class Survival:
    """What share of intervals is still open after each bin, and the smallest expected cost read off it."""

    after: list[float]
    """after[i]: probability that the next read comes later than BIN_END_S[i]."""

    def best_ttl_s(self, t_even_s: float) -> tuple[float, float]:
        """The TTL in [0, T_even] of least expected cost, and that cost in seconds of storage.

        The cost of TTL T (SkyStore, section on expected cost, divided by sigma), up to a constant:
        sum over gaps g <= T of p(g) g  +  sum over T < g <= T_even of p(g) (T + T_even)  +  P(g > T_even) T.
        """
        last = bin_of(t_even_s)
        beyond = self.after[last]
        best_s, least = 0.0, (1.0 - beyond) * t_even_s
        held, before = 0.0, 1.0
        for i in range(last + 1):
            now = self.after[i]
            held += (before - now) * min(BIN_MID_S[i], t_even_s)
            ttl_s = min(BIN_END_S[i], t_even_s)
            cost = held + now * ttl_s + (now - beyond) * t_even_s
            if cost < least:
                best_s, least = ttl_s, cost
            before = now
        return best_s, least


@dataclass(slots=True)
class GapHistogram:
    """Masses of closed and open intervals between reads of one object in one region. Times are seconds."""

    slot_s: float
    """Width of a cohort slot: the region's reference T_even / SLOTS_PER_T_EVEN."""
    slot: int = 0
    """The current slot: floor(clock / slot_s) as of the last ``advance``."""
    gaps: list[list[float]] = field(default_factory=lambda: [[0.0] * BINS for _ in range(CONTEXTS)])
    """Mass of intervals that ended in a read, by context and bin."""
    lapsed: list[float] = field(default_factory=lambda: [0.0] * CONTEXTS)
    """Mass of intervals that outlived the horizon without a read."""
    cohorts: list[dict[int, float]] = field(default_factory=lambda: [{} for _ in range(CONTEXTS)])
    """Mass of open intervals by the slot in which they began."""

    def opened(self, context: int, now_s: float) -> None:
        """A read began an interval."""
        cohort = self.cohorts[context]
        slot = int(now_s / self.slot_s)
        cohort[slot] = cohort.get(slot, 0.0) + 1.0

    def closed(self, context: int, began_s: float, gap_s: float) -> None:
        """The interval that began at ``began_s`` ended in a read. Past the horizon it has been counted already."""
        cohort = self.cohorts[context]
        slot = int(began_s / self.slot_s)
        mass = cohort.get(slot)
        if mass is None:
            return
        if mass > 1.0:
            cohort[slot] = mass - 1.0
        else:
            del cohort[slot]
        self.gaps[context][bin_of(gap_s)] += 1.0

    def advance(self, now_s: float) -> bool:
        """Bring the cohorts up to the clock; true when a slot has passed (and TTLs are worth computing anew)."""
        slot = int(now_s / self.slot_s)
        passed = slot - self.slot
        if passed <= 0:
            return False
        self.slot = slot
        decay = DECAY_PER_SLOT ** min(passed, 100 * SLOTS_PER_T_EVEN)
        oldest = slot - HORIZON_SLOTS
        for context in range(CONTEXTS):
            self.gaps[context] = [mass * decay for mass in self.gaps[context]]
            cohort = self.cohorts[context]
            gone = [s for s in cohort if s < oldest]
            self.lapsed[context] = self.lapsed[context] * decay + sum(cohort.pop(s) for s in gone)
        return True

    def evidence(self) -> float:
        """Mass of intervals whose end is known."""
        return sum(self.lapsed) + sum(map(sum, self.gaps))

    def survival(self, context: int, t_even_s: float) -> Survival:
        """The blended Kaplan-Meier estimate for one context, prior hazard 1/T_even."""
        wide_gaps = [sum(column) for column in zip(*self.gaps, strict=True)]
        wide_risk = [sum(column) for column in zip(*map(self._at_risk, range(CONTEXTS)), strict=True)]
        own_gaps, own_risk = self.gaps[context], self._at_risk(context)
        left, after, begin_s = 1.0, [], 0.0
        for i in range(BINS):
            prior = -math.expm1((begin_s - BIN_END_S[i]) / t_even_s)
            begin_s = BIN_END_S[i]
            wide = (wide_gaps[i] + BLEND * prior) / (wide_risk[i] + BLEND)
            left *= 1.0 - (own_gaps[i] + BLEND * wide) / (own_risk[i] + BLEND)
            after.append(left)
        return Survival(after)

    def _at_risk(self, context: int) -> list[float]:
        """For each bin, the mass of intervals known to have lasted to its beginning."""
        ends = list(self.gaps[context])
        for slot, mass in self.cohorts[context].items():
            age_bin = bin_of((self.slot - slot) * self.slot_s)
            if age_bin:
                ends[age_bin - 1] += mass
        risk, total = [0.0] * BINS, self.lapsed[context]
        for i in range(BINS - 1, -1, -1):
            total += ends[i]
            risk[i] = total
        return risk

    def to_state(self) -> dict[str, object]:
        """A JSON-ready value; empty bins are left out."""
        return {
            "slot_s": self.slot_s,
            "slot": self.slot,
            "gaps": [{str(i): mass for i, mass in enumerate(row) if mass > 1e-9} for row in self.gaps],
            "lapsed": self.lapsed,
            "cohorts": [{str(slot): mass for slot, mass in row.items()} for row in self.cohorts],
        }
