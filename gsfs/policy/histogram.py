"""Re-read gaps of one region. Owns what the past says about when a replica is wanted again; decides nothing.

SkyStore (arXiv 2502.20818) keeps, per region, a histogram of re-read gaps and of times since the last read. This one
differs in three ways, all explained in docs/policies.md:

* intervals are told apart by *context*: whether there was a read before, and how long before, in units of T_even;
* an interval still open is neither a re-read nor a last read: it is censored, and weighted as such (Kaplan and Meier);
* evidence is blended: a context's with that of the region, and this with a prior, so that little evidence argues
  for little and there is always an answer.

The state is bounded: ``CONTEXTS`` times ``BINS`` masses and ``HORIZON_SLOTS`` open cohorts, whatever is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

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
LEARN_SHARE, LEARN_SLOTS = 8, 8
"""TTLs are computed anew after an eighth more intervals, or a quarter of T_even; looked at once per slot."""
BLEND = 16.0
"""How many intervals the wider experience (all contexts, or the prior) weighs against a context's own."""
PRIOR_SHARE, PRIOR_SHAPE = 0.7, 0.3
"""Before anything is known: P(gap <= x T_even) = 0.7 x**0.3 for x <= 1. Most re-reads come early; measured, not
derived (docs/policies.md), and the bound does not depend on it."""

BIN_END_SHAPED = tuple(end_s**PRIOR_SHAPE for end_s in BIN_END_S)


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


def _column_sums(rows: Iterable[list[float]]) -> list[float]:
    return [sum(column) for column in zip(*rows, strict=True)]


@dataclass(slots=True)
class Survival:
    """What share of intervals is still open after each bin, and the smallest expected cost read off it."""

    after: list[float]
    """after[i]: probability that the next read comes later than BIN_END_S[i]; the last bin is that of T_even."""

    def best_ttl_s(self, t_even_s: float) -> tuple[float, float]:
        """The TTL in [0, T_even] of least expected cost, and that cost in seconds of storage.

        The cost of TTL T (SkyStore, section on expected cost, divided by sigma), up to a constant:
        sum over gaps g <= T of p(g) g  +  sum over T < g <= T_even of p(g) (T + T_even)  +  P(g > T_even) T.
        """
        beyond = self.after[-1]
        best_s, least = 0.0, (1.0 - beyond) * t_even_s
        held, before = 0.0, 1.0
        for now, mid_s, ttl_s in zip(self.after, BIN_MID_S, BIN_END_S, strict=False):
            held += (before - now) * mid_s
            cost = held + now * ttl_s + (now - beyond) * t_even_s
            if cost < least:
                best_s, least = ttl_s, cost
            before = now
        return min(best_s, t_even_s), least

    def expected_s(self, ttl_s: float, t_even_s: float) -> float:
        """Expected cost of any TTL up to T_even, in seconds of storage, by the same formula."""
        beyond, held, before = self.after[-1], 0.0, 1.0
        for i, now in enumerate(self.after):
            if BIN_END_S[i] > ttl_s:
                break
            held += (before - now) * min(BIN_MID_S[i], t_even_s)
            before = now
        return held + before * ttl_s + (before - beyond) * t_even_s


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
    tables: list[tuple[list[float], list[float]]] = field(default_factory=list)
    """Gaps and masses at risk, by context and (last) over all; derived, never stored."""
    learned: int = 0
    """Intervals opened so far."""
    tables_learned: int = 0
    tables_slot: int = 0
    """``learned`` and ``slot`` as of when the tables were derived."""

    def opened(self, context: int) -> int:
        """A read began an interval. Returns its cohort: the current slot."""
        cohort, slot = self.cohorts[context], self.slot
        cohort[slot] = cohort.get(slot, 0.0) + 1.0
        self.learned += 1
        return slot

    def closed(self, context: int, slot: int, gap_s: float) -> None:
        """An interval of cohort ``slot`` ended in a read. Past the horizon it has been counted already."""
        cohort = self.cohorts[context]
        mass = cohort.get(slot)
        if mass is None:
            return
        if mass > 1.0:
            cohort[slot] = mass - 1.0
        else:
            del cohort[slot]
        self.gaps[context][bin_of(gap_s)] += 1.0

    def outdated(self) -> bool:
        """Whether so much was learned, or so much time passed, since the tables that TTLs are worth computing anew."""
        more = self.learned - self.tables_learned
        if more * LEARN_SHARE < self.learned and self.slot - self.tables_slot < LEARN_SLOTS:
            return False
        self.tables.clear()
        self.tables_learned, self.tables_slot = self.learned, self.slot
        return True

    def advance(self, now_s: float) -> bool:
        """Bring the cohorts up to the clock; true when a slot has passed."""
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
        """The blended Kaplan-Meier estimate for one context, up to the bin that holds T_even."""
        if not self.tables:
            self.tables = [(self.gaps[c], self._at_risk(c)) for c in range(CONTEXTS)]
            self.tables.append(
                (_column_sums(g for g, _ in self.tables), _column_sums(r for _, r in self.tables))
            )
        own_gaps, own_risk = self.tables[context]
        wide_gaps, wide_risk = self.tables[CONTEXTS]
        left, after, prior_left = 1.0, [], 1.0
        scale = PRIOR_SHARE / t_even_s**PRIOR_SHAPE
        for i in range(bin_of(t_even_s) + 1):
            prior_after = 1.0 - scale * BIN_END_SHAPED[i]
            prior = 1.0 - prior_after / prior_left
            prior_left = prior_after
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
        ends.append(self.lapsed[context])
        return list(accumulate(reversed(ends)))[:0:-1]

    def to_state(self) -> dict[str, object]:
        """A JSON-ready value; empty bins are left out."""
        return {
            "slot_s": self.slot_s,
            "slot": self.slot,
            "gaps": [{str(i): mass for i, mass in enumerate(row) if mass > 1e-9} for row in self.gaps],
            "lapsed": self.lapsed,
            "learned": self.learned,
            "cohorts": [{str(slot): mass for slot, mass in row.items()} for row in self.cohorts],
        }
