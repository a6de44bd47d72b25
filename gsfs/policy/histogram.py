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

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from math import log2
from operator import mul

BINS_PER_OCTAVE = 4
BINS = 33 * BINS_PER_OCTAVE
"""Bins are geometric from one second to 2**33 s (272 years); bin i ends at 2**((i+1)/4) seconds."""
BIN_END_S = tuple(2.0 ** ((i + 1) / BINS_PER_OCTAVE) for i in range(BINS))
BIN_MID_S = tuple(2.0 ** ((i + 0.5) / BINS_PER_OCTAVE) for i in range(BINS))
BIN_TAIL_S = tuple(end_s - mid_s for end_s, mid_s in zip(BIN_END_S, BIN_MID_S, strict=True))
BIN_STEP_S = (*(after_s - mid_s for after_s, mid_s in zip(BIN_MID_S[1:], BIN_MID_S, strict=False)), 0.0)
"""From the middle of a bin to its end, and to the middle of the next."""

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

BIN_BEGIN_SHAPED = (0.0, *(end_s**PRIOR_SHAPE for end_s in BIN_END_S[:-1]))
BIN_WIDTH_SHAPED = tuple(end_s**PRIOR_SHAPE - x for end_s, x in zip(BIN_END_S, BIN_BEGIN_SHAPED, strict=True))
"""Bins in the measure in which the prior is even."""

LARGEST_UNIT = 2.0**100


def bin_of(gap_s: float) -> int:
    """Index of the bin that holds ``gap_s``."""
    if gap_s <= 1.0:
        return 0
    index = int(log2(gap_s) * BINS_PER_OCTAVE)
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
    """What share of intervals is still open after each bin, and expected costs read off it."""

    after: list[float]
    """after[i]: probability that the next read comes later than BIN_END_S[i]; the last bin is that of T_even."""

    def expected_s(self, ttl_s: float, t_even_s: float) -> float:
        """Expected cost of any TTL up to T_even, in seconds of storage (``GapHistogram.best_ttl_s`` has the formula)."""
        beyond, held, before = self.after[-1], 0.0, 1.0
        for i, now in enumerate(self.after):
            if BIN_END_S[i] > ttl_s and ttl_s < t_even_s:
                break
            held += (before - now) * min(BIN_MID_S[i], t_even_s)
            before = now
        return held + before * ttl_s + (before - beyond) * t_even_s


@dataclass(slots=True)
class Evidence:
    """The masses of a histogram at one moment, prepared for survival estimates context by context, as they are asked."""

    gaps: list[list[float]]
    ends: list[list[float]]
    """Like ``gaps``, with open intervals in the last bin that they have outlived, and one more bin: what has lapsed."""
    blend: float
    """BLEND intervals, in the unit of the masses."""
    blended: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)
    """By context, two numbers for each bin. First the share of intervals that outlive it, were it not for the prior;
    then the weight of the prior, times the bin's width in its measure."""
    wide: tuple[list[float], list[float]] | None = None
    """Over all contexts, for each bin: the mass that ends in it, and the weight of the prior, per BLEND of mass."""

    def of(self, context: int) -> tuple[list[float], list[float]]:
        found = self.blended.get(context)
        if found is None:
            found = self.blended[context] = self._blend(context)
        return found

    def _blend(self, context: int) -> tuple[list[float], list[float]]:
        if self.wide is None:
            self.wide = self._blend_contexts()
        shares = [1.0 / (mass + self.blend) for mass in _at_risk(self.ends[context])]
        own = zip(shares, self.gaps[context], self.wide[0], strict=True)
        prior = zip(shares, self.wide[1], BIN_WIDTH_SHAPED, strict=True)
        return [1.0 - share * (gaps + wide) for share, gaps, wide in own], [s * w * x for s, w, x in prior]

    def _blend_contexts(self) -> tuple[list[float], list[float]]:
        gaps = map(sum, zip(*self.gaps, strict=True))
        risk = _at_risk(map(sum, zip(*self.ends, strict=True)))
        shares = [self.blend / (mass + self.blend) for mass in risk]
        return list(map(mul, shares, gaps)), [share * self.blend for share in shares]


def _at_risk(ends: Iterable[float]) -> list[float]:
    """For each bin, the mass of intervals known to have lasted to its beginning."""
    return list(accumulate(reversed(list(ends))))[:0:-1]


@dataclass(slots=True)
class GapHistogram:
    """Masses of closed and open intervals between reads of one object in one region. Times are seconds."""

    slot_s: float
    """Width of a cohort slot: the region's reference T_even / SLOTS_PER_T_EVEN."""
    slot: int = 0
    """The current slot: floor(clock / slot_s) as of the last ``advance``."""
    unit: float = 1.0
    """What one interval adds to ``gaps`` and ``lapsed`` now. That the past halves is had by new evidence that doubles:
    no bin has to be touched when a slot passes."""
    gaps: list[list[float]] = field(default_factory=lambda: [[0.0] * BINS for _ in range(CONTEXTS)])
    """Mass of intervals that ended in a read, by context and bin; in ``unit``."""
    lapsed: list[float] = field(default_factory=lambda: [0.0] * CONTEXTS)
    """Mass of intervals that outlived the horizon without a read; in ``unit``."""
    cohorts: list[dict[int, float]] = field(default_factory=lambda: [{} for _ in range(CONTEXTS)])
    """Mass of open intervals by the slot in which they began, oldest first; a plain count."""
    known: Evidence | None = None
    """What TTLs are computed from, until it is ``outdated``; derived, never stored."""
    learned: int = 0
    """Intervals opened so far."""
    known_learned: int = 0
    known_slot: int = 0
    """``learned`` and ``slot`` as of when the evidence was found outdated."""
    age_bins: tuple[int, ...] = field(init=False)
    """The bin of an age in slots, up to the horizon."""

    def __post_init__(self) -> None:
        self.age_bins = tuple(bin_of(age * self.slot_s) for age in range(HORIZON_SLOTS + 1))

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
        self.gaps[context][bin_of(gap_s)] += self.unit

    def outdated(self) -> bool:
        """Whether so much was learned, or so much time passed, since the evidence that TTLs are worth computing anew."""
        more = self.learned - self.known_learned
        if more * LEARN_SHARE < self.learned and self.slot - self.known_slot < LEARN_SLOTS:
            return False
        self.known = None
        self.known_learned, self.known_slot = self.learned, self.slot
        return True

    def advance(self, now_s: float) -> bool:
        """Bring the cohorts up to the clock; true when a slot has passed."""
        slot = int(now_s / self.slot_s)
        passed = slot - self.slot
        if passed <= 0:
            return False
        self.slot = slot
        self.unit /= DECAY_PER_SLOT ** min(passed, 100 * SLOTS_PER_T_EVEN)
        oldest = slot - HORIZON_SLOTS
        for context, cohort in enumerate(self.cohorts):
            while cohort and (began := next(iter(cohort))) < oldest:
                self.lapsed[context] += cohort.pop(began) * self.unit
        if self.unit > LARGEST_UNIT:
            self._measure_anew()
        return True

    def _measure_anew(self) -> None:
        """Make the unit 1 again, long before masses become infinite."""
        self.gaps = [[mass / self.unit for mass in row] for row in self.gaps]
        self.lapsed = [mass / self.unit for mass in self.lapsed]
        self.unit = 1.0

    def evidence(self) -> float:
        """Mass of intervals whose end is known."""
        return (sum(self.lapsed) + sum(map(sum, self.gaps))) / self.unit

    def survival(self, context: int, t_even_s: float) -> Survival:
        """The blended Kaplan-Meier estimate for one context, up to the bin that holds T_even.

        The prior says 1 - x of an interval at the beginning of a bin, and 1 - y at its end, so of those that began it
        (y - x) / (1 - x) end in it; here with numerator and denominator over PRIOR_SHARE / T_even^PRIOR_SHAPE.
        """
        lasting, pulled, whole = self._blended(context, t_even_s)
        columns = zip(lasting, pulled, BIN_BEGIN_SHAPED, strict=False)
        return Survival(
            list(accumulate((last - pull / (whole - begin) for last, pull, begin in columns), mul))
        )

    def best_ttl_s(self, context: int, t_even_s: float) -> float:
        """The TTL in [0, T_even] of least expected cost.

        The cost of TTL T (SkyStore, section on expected cost, divided by sigma), up to a constant:
        sum over gaps g <= T of p(g) g  +  sum over T < g <= T_even of p(g) (T + T_even)  +  P(g > T_even) T.
        With S(T) of the intervals still open at T it is, up to P(g > T_even) T_even, the integral of S up to T
        plus S(T) T_even: one pass, in which ``left`` is what ``survival`` calls ``after``.
        """
        lasting, pulled, whole = self._blended(context, t_even_s)
        best_s, least = 0.0, t_even_s
        left, held = 1.0, BIN_MID_S[0]
        for last, pull, begin, tail_s, step_s, ttl_s in zip(
            lasting, pulled, BIN_BEGIN_SHAPED, BIN_TAIL_S, BIN_STEP_S, BIN_END_S, strict=False
        ):
            left *= last - pull / (whole - begin)
            cost = held + left * (tail_s + t_even_s)
            if cost < least:
                best_s, least = ttl_s, cost
            held += left * step_s
        return best_s if best_s < t_even_s else t_even_s

    def _blended(self, context: int, t_even_s: float) -> tuple[list[float], list[float], float]:
        """The numbers of ``Evidence`` up to the bin that holds T_even, and the measure of the prior."""
        if self.known is None:
            self.known = self._evidence()
        lasting, pulled = self.known.of(context)
        return lasting[: bin_of(t_even_s) + 1], pulled, t_even_s**PRIOR_SHAPE / PRIOR_SHARE

    def _evidence(self) -> Evidence:
        """A copy: what is learned from now on is in none of the numbers, or a bin could lose more than was at risk."""
        gaps = [list(row) for row in self.gaps]
        ends = [[*row, mass] for row, mass in zip(gaps, self.lapsed, strict=True)]
        for row, cohort in zip(ends, self.cohorts, strict=True):
            for slot, mass in cohort.items():
                age_bin = self.age_bins[self.slot - slot]
                if age_bin:
                    row[age_bin - 1] += mass * self.unit
        return Evidence(gaps, ends, BLEND * self.unit)

    def to_state(self) -> dict[str, object]:
        """A JSON-ready value; empty bins are left out."""
        self._measure_anew()
        return {
            "slot_s": self.slot_s,
            "slot": self.slot,
            "gaps": [{str(i): mass for i, mass in enumerate(row) if mass > 1e-9} for row in self.gaps],
            "lapsed": self.lapsed,
            "learned": self.learned,
            "cohorts": [{str(slot): mass for slot, mass in row.items()} for row in self.cohorts],
        }
