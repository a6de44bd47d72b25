"""The bound of the adaptive policy. Owns one region's account against the clairvoyant optimum; knows no histogram.

The clairvoyant optimum of an interval is known when the interval ends: min(gap * sigma, N). So the account can tell,
at every moment, how much the TTLs chosen from the histogram have cost more than the safe rule would have, and how
much more those still open can cost at worst. A TTL is *admitted* only while the two together stay within
``SPARE`` of the optimum so far. Otherwise the safe rule chooses: T_even * x with x of density e^x/(e-1) on [0, 1]
(Karlin, Manasse, McGeoch, Owicki 1994), whose expected cost is e/(e-1) of the optimum for *every* sequence of reads.
Together: expected cost <= (e/(e-1) + SPARE) * optimum = 2 * optimum. The argument is written out in docs/policies.md.

An object so large that its loss alone exceeds the spare can never be admitted. If the histogram asks for a short TTL,
the *lean* rule draws: T_even * x with x of density e^x on [0, ln 2]. Its expected cost is at most twice the optimum of
the interval, and 1.386 instead of 1.582 when the object is not read again. It uses up the spare of its own interval,
so that interval's optimum does not fund anybody else.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

SAFE_RATIO = math.e / (math.e - 1)
"""1.582: expected cost of the safe rule over the optimum."""
SET_ASIDE = SAFE_RATIO - 1
"""What the transfer that opens an interval sets aside for the hold, in transfers."""
BOUND = 2.0
SPARE = BOUND - SAFE_RATIO

MAX_SLOTS = 4096
"""An interval whose T_even ends later than so many slots from now is settled early (as lapsed)."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, are spread more evenly than random numbers: averages settle sooner."""


class Choice(enum.IntEnum):
    """Who chose the TTL of an interval."""

    SAFE = 0
    """The safe rule: needs no reserve."""
    ADMITTED = 1
    """The histogram, within the spare; or T_even, whose loss is bounded by the spare of its own optimum."""
    LEAN = 2
    """The lean rule."""


SAFE, ADMITTED, LEAN = Choice
LEAN_BELOW = 0.4
"""The lean rule serves for histogram TTLs up to this share of T_even: for longer ones it would drop too early."""


def loss_at_worst(miss_usd: float, hold_usd: float) -> float:
    """The most that one interval can cost above SAFE_RATIO times its optimum, when held for ``hold_usd``.

    Either the next read comes just after the TTL (optimum: the hold; cost: the hold and a transfer), or it does
    not come before T_even (the transfer that opened the interval has set aside (SAFE_RATIO - 1) N for the hold).
    """
    just_after = miss_usd + hold_usd - SAFE_RATIO * hold_usd
    never = hold_usd - SET_ASIDE * miss_usd
    return just_after if just_after > never else never


@dataclass(slots=True)
class Slot:
    """Sums over open intervals whose T_even ends in the same slot."""

    spent_usd: float = 0.0
    """Storage that they will have cost if they lapse. This one is of all intervals, the rest of admitted ones."""
    worst_usd: float = 0.0
    """``loss_at_worst``: what they lose if the next reads come just after their TTLs."""
    lapse_usd: float = 0.0
    """What they will have cost above the safe ratio if they lapse."""
    usd_per_s: float = 0.0
    reserved_usd: float = 0.0
    """Its part of the account's reserve, as of when it was last reckoned; derived, never stored."""

    def reserve_usd(self, left_s: float) -> float:
        """The most they can still lose with ``left_s`` until they lapse.

        A replica that was dropped loses the less, the later it is missed: the optimum, too, would have had to hold
        it until then. For a read ``left_s`` before T_even the loss is what a lapse loses plus SAFE_RATIO * left *
        sigma. (Both bounds hold for the sums because they hold for each interval.)
        """
        later = self.lapse_usd + SAFE_RATIO * left_s * self.usd_per_s
        most = later if later < self.worst_usd else self.worst_usd
        return most if most > 0.0 else 0.0


@dataclass(slots=True)
class CreditAccount:
    """Sums in USD since the region was first read; bounded: at most MAX_SLOTS slots."""

    slot_s: float
    slot: int = 0
    optimum_usd: float = 0.0
    funds_usd: float = 0.0
    """The part of the optimum of which SPARE may be lost: all but that of re-reads in lean intervals."""
    spent_usd: float = 0.0
    """Transfers and storage of intervals that have ended. Beyond BOUND times the optimum, TTLs are T_even."""
    loss_usd: float = 0.0
    """Ended admitted intervals: cost above SAFE_RATIO times their optimum; negative is a gain."""
    reserved_usd: float = 0.0
    """Open admitted intervals: the sum of ``Slot.reserved_usd``. A slot's reserve only shrinks as the clock passes, so
    this is never less than what they can lose, and only a refusal has to know it exactly (``admits``)."""
    reserved_slot: int = 0
    """``slot`` as of when every slot's reserve was last reckoned."""
    draws: int = 0
    """How often the safe rule chose; the seed of its next draw."""
    slots: dict[int, Slot] = field(default_factory=dict)

    def admits(self, loss_usd: float) -> bool:
        """Whether one more interval that may lose ``loss_usd`` keeps the bound."""
        if self.loss_usd + self.reserved_usd + loss_usd <= SPARE * self.funds_usd:
            return True
        if self.reserved_slot == self.slot:
            return False
        self.reserve_anew()
        return self.loss_usd + self.reserved_usd + loss_usd <= SPARE * self.funds_usd

    def towers(self, loss_usd: float) -> bool:
        """Whether the interval could not be admitted even if nothing else were at stake."""
        return loss_usd > SPARE * self.funds_usd

    def draw(self) -> float:
        """The next threshold of the safe rule, as a share of T_even."""
        self.draws += 1
        return math.log1p((self.draws * GOLDEN % 1.0) * (math.e - 1))

    def draw_lean(self) -> float:
        """The next threshold of the lean rule, as a share of T_even."""
        self.draws += 1
        return math.log1p(self.draws * GOLDEN % 1.0)

    def fetched(self, miss_usd: float) -> None:
        """A transfer that the optimum pays as well: a first read, or one past T_even."""
        self.optimum_usd += miss_usd
        self.funds_usd += miss_usd
        self.spent_usd += miss_usd

    def opened(self, lapses_s: float, miss_usd: float, hold_usd: float, usd_per_s: float, choice: int) -> int:
        """An interval began that lapses at ``lapses_s`` (T_even later). Returns its slot, to close it with.

        ``hold_usd`` is what its TTL costs, ``usd_per_s`` the price of holding, ``choice`` a ``Choice``.
        """
        index, earliest = int(lapses_s / self.slot_s) + 1, self.slot + 1
        if index < earliest:
            index = earliest
        elif index >= earliest + MAX_SLOTS:
            index = self.slot + MAX_SLOTS
        slot = self.slots.get(index)
        if slot is None:
            slot = self.slots[index] = Slot()
        slot.spent_usd += hold_usd
        if choice == ADMITTED:
            self._stake(index, slot, 1.0, miss_usd, hold_usd, usd_per_s)
        return index

    def closed(
        self, index: int, miss_usd: float, hold_usd: float, usd_per_s: float, choice: int, gap_s: float
    ) -> None:
        """The interval ended in a read after ``gap_s``. If it had lapsed before, only the new transfer counts."""
        slot = self.slots.get(index)
        if slot is None:
            self.fetched(miss_usd)
            return
        wanted = gap_s * usd_per_s
        optimum = wanted if wanted < miss_usd else miss_usd
        spent = wanted if wanted <= hold_usd else hold_usd + miss_usd
        self.optimum_usd += optimum
        if choice != LEAN or wanted >= miss_usd:
            self.funds_usd += optimum
        self.spent_usd += spent
        slot.spent_usd -= hold_usd
        if choice == ADMITTED:
            self._stake(index, slot, -1.0, miss_usd, hold_usd, usd_per_s)
            self.loss_usd += spent - SAFE_RATIO * optimum

    def _stake(
        self, index: int, slot: Slot, sign: float, miss_usd: float, hold_usd: float, usd_per_s: float
    ) -> None:
        """Put an admitted interval into its slot (sign 1) or take it out (-1).

        Twice for each read: ``loss_at_worst`` and ``Slot.reserve_usd`` are written out, for the sake of speed.
        """
        just_after = miss_usd + hold_usd - SAFE_RATIO * hold_usd
        never = hold_usd - SET_ASIDE * miss_usd
        slot.worst_usd = worst = slot.worst_usd + sign * (just_after if just_after > never else never)
        slot.lapse_usd = lapse = slot.lapse_usd + sign * never
        slot.usd_per_s = usd_per_s = slot.usd_per_s + sign * usd_per_s
        later = lapse + SAFE_RATIO * ((index - self.slot) * self.slot_s) * usd_per_s
        most = later if later < worst else worst
        reserve = most if most > 0.0 else 0.0
        self.reserved_usd += reserve - slot.reserved_usd
        slot.reserved_usd = reserve

    def advance(self, now_s: float) -> None:
        """Settle the slots that the clock has passed: their intervals have lapsed."""
        before, now = self.slot, int(now_s / self.slot_s)
        if now <= before:
            return
        self.slot = now
        if now - before <= len(self.slots):
            self.settle(range(before + 1, now + 1))
        else:
            self.settle([index for index in self.slots if index <= now])

    def settle(self, indices: Iterable[int]) -> None:
        """Close the books of these slots, as far as there are such."""
        for index in indices:
            slot = self.slots.pop(index, None)
            if slot is not None:
                self.loss_usd += slot.lapse_usd
                self.spent_usd += slot.spent_usd
                self.reserved_usd -= slot.reserved_usd

    def reserve_anew(self) -> None:
        """Reckon the reserve as of the beginning of the current slot."""
        now, slot_s, total = self.slot, self.slot_s, 0.0
        for index, slot in self.slots.items():
            slot.reserved_usd = slot.reserve_usd((index - now) * slot_s)
            total += slot.reserved_usd
        self.reserved_usd, self.reserved_slot = total, now

    def to_state(self) -> dict[str, object]:
        """A JSON-ready value."""
        self.reserve_anew()
        sums = (self.optimum_usd, self.funds_usd, self.spent_usd, self.loss_usd, self.reserved_usd)
        slots = {i: (s.spent_usd, s.worst_usd, s.lapse_usd, s.usd_per_s) for i, s in self.slots.items()}
        return {"slot_s": self.slot_s, "slot": self.slot, "sums": sums, "draws": self.draws, "slots": slots}
