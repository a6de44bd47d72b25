"""For how long a replica made by a read is kept. Owns the TTL rules and what a region remembers; moves nothing.

``after_read`` of a rule is called for every read of an object in a region that has no permanent replica of it,
hit or miss, and answers the TTL from this read on. 0 means: serve the read, keep nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Protocol

from gsfs.errors import DatabaseCorrupt
from gsfs.policy.credit import (
    ADMITTED,
    BOUND,
    LEAN,
    LEAN_BELOW,
    SAFE,
    SPARE,
    CreditAccount,
    Slot,
    loss_at_worst,
)
from gsfs.policy.histogram import (
    CONTEXTS,
    FIRST_READ,
    HORIZON_SLOTS,
    SLOTS_PER_T_EVEN,
    GapHistogram,
    bin_of,
    context_of,
)
from gsfs.policy.prices import FOREVER_S, break_even_s

STATE_VERSION = 1
BURST_SHARE = 1 / 1024
"""Hits closer together than this share of T_even are one read: they renew the TTL and teach nothing."""
EWMA_WEIGHT = 0.5
"""Weight of the newest gap in the moving average."""


@dataclass(slots=True)
class Trail:
    """What is remembered of one object's reads in one region; a few columns beside the replica's row.

    It outlives the replica, until about twice T_even after the last read; then it may be forgotten (``forgettable``).
    """

    last_read_s: float = -1.0
    """Clock of the last read; -1 when there was none."""
    ttl_s: float = 0.0
    """Answer of the rule at that read."""
    miss_usd: float = 0.0
    hold_usd_per_s: float = 0.0
    """N_eff, and the price of holding the replica, both as of that read."""
    context: int = FIRST_READ
    cohort: int = 0
    """Slot of the histogram in which the interval began."""
    slot: int = 0
    """Slot of the credit account in which the interval lapses."""
    choice: int = SAFE
    """A ``Choice``: who chose the TTL (rule ``adaptive``)."""
    mean_gap_s: float = -1.0
    """Moving average of gaps (rule ``ewma``); -1 before the second read."""
    rent_usd: float = 0.0
    """Remote reads paid since a replica was last made (rule ``adaptive``)."""

    def expires_s(self) -> float:
        return self.last_read_s + self.ttl_s


@dataclass(slots=True)
class RegionMemory:
    """Everything that a bucket remembers of one region's reads; bounded, and stored in the namespace as bytes."""

    reference_t_even_s: float
    """T_even of a large object from the home location: sets the resolution of cohorts, nothing else."""
    histogram: GapHistogram = field(init=False)
    account: CreditAccount = field(init=False)
    next_slot_s: float = 0.0
    remembered_s: float = field(init=False)
    """After so long, all that an interval of the reference T_even has taught is known."""
    ttls: dict[tuple[int, int], float] = field(default_factory=dict)
    """TTLs by (context, bin of T_even), as of the histogram's evidence; derived, never stored."""

    def __post_init__(self) -> None:
        slot_s = self.reference_t_even_s / SLOTS_PER_T_EVEN
        self.histogram = GapHistogram(slot_s)
        self.account = CreditAccount(slot_s)
        self.remembered_s = (HORIZON_SLOTS + 2) * slot_s

    def advance(self, now_s: float) -> None:
        """Let the clock pass; computes anew what depends on it at most once per slot."""
        if self.histogram.advance(now_s):
            self.account.advance(now_s)
            if self.histogram.outdated():
                self.ttls.clear()
        self.next_slot_s = (self.histogram.slot + 1) * self.histogram.slot_s

    def horizon_s(self, t_even_s: float) -> float:
        """Gaps longer than this are as good as no read before: every account of the earlier one is closed."""
        return max(2 * t_even_s, self.remembered_s)

    def best_ttl_s(self, context: int, t_even_s: float) -> float:
        """The TTL of least expected cost, at most T_even."""
        key = (context, bin_of(t_even_s))
        ttl_s = self.ttls.get(key)
        if ttl_s is None:
            ttl_s = self.ttls[key] = self.histogram.best_ttl_s(context, t_even_s)
        return ttl_s if ttl_s < t_even_s else t_even_s

    def to_bytes(self) -> bytes:
        """The state for the namespace: versioned JSON, some kilobytes."""
        state = {
            "version": STATE_VERSION,
            "reference_t_even_s": self.reference_t_even_s,
            "histogram": self.histogram.to_state(),
            "account": self.account.to_state(),
        }
        return json.dumps(state, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> RegionMemory:
        """Inverse of ``to_bytes``. Raises DatabaseCorrupt for anything else, a newer version included."""
        try:
            state = json.loads(data)
            if state["version"] != STATE_VERSION:
                raise ValueError(f"version {state['version']}")
            memory = cls(float(state["reference_t_even_s"]))
            _restore_histogram(memory.histogram, state["histogram"])
            _restore_account(memory.account, state["account"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
            raise DatabaseCorrupt(f"policy memory of a region: takes version {STATE_VERSION}, got {e}") from e
        return memory


def _restore_histogram(into: GapHistogram, state: dict[str, object]) -> None:
    rows, lapsed, cohorts = state["gaps"], state["lapsed"], state["cohorts"]
    if not (isinstance(rows, list) and isinstance(lapsed, list) and isinstance(cohorts, list)):
        raise TypeError("another shape")
    if not len(rows) == len(lapsed) == len(cohorts) == CONTEXTS:
        raise ValueError("another number of contexts")
    into.slot, into.learned = int(str(state["slot"])), int(str(state["learned"]))
    into.lapsed = [float(mass) for mass in lapsed]
    into.cohorts = [{int(slot): float(row[slot]) for slot in sorted(row, key=int)} for row in cohorts]
    if any(not 0 <= into.slot - slot <= HORIZON_SLOTS for row in into.cohorts for slot in row):
        raise ValueError("an open interval of another time")
    for target, row in zip(into.gaps, rows, strict=True):
        for index, mass in row.items():
            target[int(index)] = float(mass)


def _restore_account(into: CreditAccount, state: dict[str, object]) -> None:
    sums, slots = state["sums"], state["slots"]
    if not (isinstance(sums, list) and isinstance(slots, dict)):
        raise TypeError("another shape")
    into.slot, into.draws = int(str(state["slot"])), int(str(state["draws"]))
    into.optimum_usd, into.funds_usd, into.spent_usd, into.loss_usd, into.reserved_usd = map(float, sums)
    into.slots = {int(i): Slot(*(float(value) for value in row)) for i, row in slots.items()}
    into.reserve_anew()
    into.settle([index for index in into.slots if index <= into.slot])


class TtlRule(Protocol):
    """One way to choose a TTL. Implementations are frozen: all state is in the trail and the memory."""

    @property
    def name(self) -> str:
        """As written in ``ttl=...``."""

    def after_read(
        self,
        memory: RegionMemory,
        trail: Trail,
        now_s: float,
        miss_usd: float,
        hold_usd_per_s: float,
        put_usd: float = 0.0,
    ) -> float:
        """The TTL in seconds from this read on; brings ``trail`` and ``memory`` up to date.

        ``miss_usd`` is N_eff of the cheapest permanent replica (``Edge.miss_usd``), ``put_usd`` the part of it
        that is only paid when a replica is made.
        """


@dataclass(frozen=True, slots=True)
class FixedTtl:
    """``none``, ``forever`` and ``fixed:DURATION``: the same answer to every read."""

    name: str
    ttl_s: float

    def after_read(
        self,
        memory: RegionMemory,
        trail: Trail,
        now_s: float,
        miss_usd: float,
        hold_usd_per_s: float,
        put_usd: float = 0.0,
    ) -> float:
        trail.last_read_s = now_s
        trail.ttl_s = self.ttl_s
        return self.ttl_s


NONE = FixedTtl("none", 0.0)
FOREVER = FixedTtl("forever", FOREVER_S)


@dataclass(frozen=True, slots=True)
class BreakEvenTtl:
    """``t_even``: hold for as long as holding costs no more than one transfer; at most twice the optimum."""

    name: str = "t_even"
    share: float = 1.0
    """Of T_even; 0.5 is ``t_even:0.5``."""

    def after_read(
        self,
        memory: RegionMemory,
        trail: Trail,
        now_s: float,
        miss_usd: float,
        hold_usd_per_s: float,
        put_usd: float = 0.0,
    ) -> float:
        trail.last_read_s = now_s
        trail.ttl_s = self.share * break_even_s(miss_usd, hold_usd_per_s)
        return trail.ttl_s


@dataclass(frozen=True, slots=True)
class EwmaTtl:
    """``ewma:FACTOR``: a multiple of the object's mean gap in this region; T_even until a gap is known."""

    factor: float = 30.0

    @property
    def name(self) -> str:
        return f"ewma:{self.factor:g}"

    def after_read(
        self,
        memory: RegionMemory,
        trail: Trail,
        now_s: float,
        miss_usd: float,
        hold_usd_per_s: float,
        put_usd: float = 0.0,
    ) -> float:
        if trail.last_read_s >= 0:
            gap_s, mean_s = now_s - trail.last_read_s, trail.mean_gap_s
            trail.mean_gap_s = gap_s if mean_s < 0 else mean_s + EWMA_WEIGHT * (gap_s - mean_s)
        trail.last_read_s = now_s
        if trail.mean_gap_s < 0:
            trail.ttl_s = break_even_s(miss_usd, hold_usd_per_s)
        else:
            trail.ttl_s = min(self.factor * trail.mean_gap_s, FOREVER_S)
        return trail.ttl_s


@dataclass(frozen=True, slots=True)
class AdaptiveTtl:
    """``adaptive``: the least expected cost by the region's histogram, within the bound of its credit account."""

    name: str = "adaptive"

    def after_read(
        self,
        memory: RegionMemory,
        trail: Trail,
        now_s: float,
        miss_usd: float,
        hold_usd_per_s: float,
        put_usd: float = 0.0,
    ) -> float:
        t_even_s = break_even_s(miss_usd, hold_usd_per_s)
        last_s, ttl_s, choice = trail.last_read_s, trail.ttl_s, trail.choice
        gap_s = now_s - last_s
        if gap_s <= ttl_s and gap_s < t_even_s * BURST_SHARE and last_s >= 0:
            trail.last_read_s = now_s
            return ttl_s
        if now_s >= memory.next_slot_s:
            memory.advance(now_s)
        histogram, account = memory.histogram, memory.account
        if last_s < 0 or (gap_s > memory.remembered_s and gap_s > 2 * t_even_s):
            trail.last_read_s, trail.rent_usd = -1.0, 0.0
            trail.context = context = FIRST_READ
            account.fetched(miss_usd)
        else:
            per_s = trail.hold_usd_per_s
            histogram.closed(trail.context, trail.cohort, gap_s)
            account.closed(trail.slot, trail.miss_usd, ttl_s * per_s, per_s, choice, gap_s)
            trail.context = context = context_of(gap_s, t_even_s)
        trail.cohort = histogram.opened(context)
        ttl_s, choice = self._choose(memory, context, miss_usd, hold_usd_per_s, t_even_s)
        if put_usd * 2 > miss_usd:
            ttl_s, choice = self._when_paid_for(trail, now_s, ttl_s, choice, miss_usd - put_usd, put_usd)
        trail.last_read_s, trail.ttl_s, trail.choice = now_s, ttl_s, choice
        trail.miss_usd, trail.hold_usd_per_s = miss_usd, hold_usd_per_s
        trail.slot = account.opened(
            now_s + t_even_s, miss_usd, ttl_s * hold_usd_per_s, hold_usd_per_s, choice
        )
        return ttl_s

    def _choose(
        self, memory: RegionMemory, context: int, miss_usd: float, hold_usd_per_s: float, t_even_s: float
    ) -> tuple[float, int]:
        """A TTL, and who chose it. What most reads need is written out rather than called, for the sake of speed."""
        account = memory.account
        if account.spent_usd > BOUND * account.optimum_usd:
            return t_even_s, ADMITTED
        ttl_s = memory.ttls.get((context, bin_of(t_even_s)))
        if ttl_s is None:
            ttl_s = memory.best_ttl_s(context, t_even_s)
        elif ttl_s > t_even_s:
            ttl_s = t_even_s
        loss_usd = loss_at_worst(miss_usd, ttl_s * hold_usd_per_s)
        at_stake_usd = account.loss_usd + account.reserved_usd + loss_usd
        if at_stake_usd <= SPARE * account.funds_usd or account.admits(loss_usd):
            return ttl_s, ADMITTED
        if account.towers(loss_usd):
            if context == FIRST_READ and ttl_s <= LEAN_BELOW * t_even_s:
                return account.draw_lean() * t_even_s, LEAN
            if account.admits(loss_at_worst(miss_usd, miss_usd)):
                return t_even_s, ADMITTED
        return account.draw() * t_even_s, SAFE

    def _when_paid_for(
        self, trail: Trail, now_s: float, ttl_s: float, choice: int, fetch_usd: float, put_usd: float
    ) -> tuple[float, int]:
        """Small objects, whose PUT costs more than reading them remotely: a replica once reads have paid for it."""
        if trail.last_read_s >= 0 and now_s <= trail.expires_s():
            return ttl_s, choice
        trail.rent_usd += fetch_usd
        if trail.rent_usd < put_usd:
            return 0.0, SAFE
        trail.rent_usd = 0.0
        return ttl_s, choice


def forgettable(memory: RegionMemory, trail: Trail, t_even_s: float, now_s: float) -> bool:
    """Whether a trail carries nothing more: its replica has expired, and so has everything learned from it.

    ``adaptive`` then decides as if there never had been a read; ``ewma`` starts its average anew.
    """
    return now_s - trail.last_read_s > max(trail.ttl_s, memory.horizon_s(t_even_s))
