"""What changing a bucket's policy would move, and cost. Owns the comparison; moves nothing (``transfer`` does)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from gsfs.model import GIB, ObjectId
from gsfs.policy.bucket import BucketPolicy
from gsfs.policy.decide import ReplicaFacts
from gsfs.policy.expiry import early_delete_usd
from gsfs.policy.ledger import to_decimal
from gsfs.policy.placement import NO_PROMISE, Promise, decide_write
from gsfs.policy.prices import FOREVER_S, Edge, PriceTable
from gsfs.policy.ttl import EwmaTtl, FixedTtl


class Action(enum.StrEnum):
    """One step of a plan, in the order in which a plan takes them: nothing is dropped before its copy is there."""

    COPY = "copy"
    """Make a permanent replica."""
    KEEP = "keep"
    """A replica that was temporary becomes permanent: costs nothing but its storage."""
    RETIME = "retime"
    """A replica made by a read expires sooner: the new rule would not keep it for so long without a read."""
    DROP = "drop"
    """A permanent replica is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """What of an object must be read before it can be sent on: copies go through the machine that makes them."""

    source: str = ""
    """Where it would be read; empty when nothing has to be."""
    size_bytes: int = 0
    requests: int = 0
    """GETs that it takes: a ranged read has an end."""


@dataclass(frozen=True, slots=True)
class PlannedObject:
    """One physical object as the namespace has it."""

    object_id: ObjectId
    size_bytes: int
    replicas: tuple[ReplicaFacts, ...]
    writer_region: str
    """Where it was written; its present home when that is not known."""
    fetch: Fetch = Fetch()


@dataclass(frozen=True, slots=True)
class Move:
    """One step for one object."""

    action: Action
    object_id: ObjectId
    region: str
    """Where the replica is made, kept or dropped."""
    source: str
    """Where a copy is read; empty otherwise."""
    size_bytes: int
    usd: Fraction
    """Once: egress, GETs and PUT of a copy; the rest of the minimum age of a dropped replica."""
    expires_s: float = 0.0
    """The new expiry (``retime`` only)."""


@dataclass(slots=True)
class PlanSummary:
    """Totals, for ``gsfs plan`` to print before anything moves."""

    steps: dict[Action, int] = field(default_factory=lambda: dict.fromkeys(Action, 0))
    bytes_moved: int = 0
    once_usd: Fraction = Fraction(0)
    monthly_before_usd: Fraction = Fraction(0)
    """Storage of permanent replicas, per month."""
    monthly_after_usd: Fraction = Fraction(0)

    def add(self, move: Move, storage_usd_per_gib_month: Decimal) -> None:
        self.steps[move.action] += 1
        self.once_usd += move.usd
        if move.action is Action.RETIME:
            return
        month = Fraction(move.size_bytes, GIB) * Fraction(storage_usd_per_gib_month)
        self.monthly_after_usd += -month if move.action is Action.DROP else month
        if move.action is Action.COPY:
            self.bytes_moved += move.size_bytes

    def to_json(self) -> dict[str, object]:
        return {
            "steps": {action.value: count for action, count in self.steps.items()},
            "bytes_moved": self.bytes_moved,
            "once_usd": str(to_decimal(self.once_usd)),
            "monthly_before_usd": str(to_decimal(self.monthly_before_usd)),
            "monthly_after_usd": str(to_decimal(self.monthly_after_usd)),
        }


def plan_object(
    item: PlannedObject,
    policy: BucketPolicy,
    regions: Sequence[str],
    prices: PriceTable,
    now_s: float,
    *,
    via: str = "",
    reads_per_month: Mapping[str, float] | None = None,
    promise: Promise = NO_PROMISE,
) -> list[Move]:
    """The steps that bring one object in line with ``policy``; copies first, drops last; none when it is already.

    Pinned replicas are never dropped. ``via``: region of the machine that makes the copies; empty: outside of every
    region, where egress is not known. An object is fetched once, however many copies of it are made.
    """
    wanted = decide_write(
        policy,
        item.writer_region,
        regions,
        prices,
        reads_per_month=reads_per_month,
        size_bytes=item.size_bytes,
        promise=promise,
    ).permanent
    have = {r.region: r for r in item.replicas}
    steps: list[Move] = []
    for region in wanted:
        if region not in have:
            first = not any(step.action is Action.COPY for step in steps)
            usd = copy_usd(item, region, prices, via, fetches=first)
            steps.append(Move(Action.COPY, item.object_id, region, item.fetch.source, item.size_bytes, usd))
        elif not have[region].permanent:
            steps.append(Move(Action.KEEP, item.object_id, region, "", item.size_bytes, Fraction(0)))
    for replica in item.replicas:
        if replica.permanent and not replica.pinned and replica.region not in wanted:
            fee = early_delete_usd(replica, item.size_bytes, now_s, prices)
            steps.append(Move(Action.DROP, item.object_id, replica.region, "", item.size_bytes, fee))
        elif not replica.permanent and replica.region not in wanted:
            latest_s = now_s + longest_ttl_s(policy, prices.edge(wanted[0], replica.region), item.size_bytes)
            if replica.expires_s > latest_s:
                steps.append(_retime(item, replica, latest_s))
    order = list(Action)
    return sorted(steps, key=lambda step: order.index(step.action))


def longest_ttl_s(policy: BucketPolicy, edge: Edge, size_bytes: int) -> float:
    """The longest that the bucket's TTL rule keeps a replica after one read."""
    if isinstance(policy.ttl, FixedTtl):
        return policy.ttl.ttl_s
    return FOREVER_S if isinstance(policy.ttl, EwmaTtl) else edge.t_even_s(size_bytes)


def _retime(item: PlannedObject, replica: ReplicaFacts, latest_s: float) -> Move:
    return Move(
        Action.RETIME, item.object_id, replica.region, "", item.size_bytes, Fraction(0), expires_s=latest_s
    )


def copy_usd(item: PlannedObject, region: str, prices: PriceTable, via: str, *, fetches: bool) -> Fraction:
    """One copy of an object as the ledger will have it: what is fetched (the first one only), and what is sent."""
    usd = Fraction(prices.put_usd(region))
    if via:
        usd += Fraction(item.size_bytes, GIB) * Fraction(prices.egress_usd_per_gib(via, region))
    return usd + fetch_usd(item.fetch, via, prices) if fetches else usd


def fetch_usd(fetch: Fetch, via: str, prices: PriceTable) -> Fraction:
    """What reading it in that region costs; ``via`` empty: outside of every region, where egress is not known."""
    if not fetch.source:
        return Fraction(0)
    usd = fetch.requests * Fraction(prices.get_usd(fetch.source))
    if via:
        usd += Fraction(fetch.size_bytes, GIB) * Fraction(prices.egress_usd_per_gib(fetch.source, via))
    return usd


def plan(
    items: Iterable[PlannedObject],
    policy: BucketPolicy,
    regions: Sequence[str],
    prices: PriceTable,
    now_s: float,
    *,
    summary: PlanSummary,
    via: str = "",
    reads_per_month: Mapping[str, float] | None = None,
    promise: Promise = NO_PROMISE,
) -> Iterator[Move]:
    """All moves of a bucket, lazily, adding to ``summary`` as they pass: bounded memory for any number of objects."""
    storage = {region: prices.storage_usd_per_gib_month(region) for region in regions}
    for item in items:
        size = Fraction(item.size_bytes, GIB)
        here = sum((Fraction(storage[r.region]) for r in item.replicas if r.permanent), Fraction(0)) * size
        summary.monthly_before_usd += here
        summary.monthly_after_usd += here
        for move in plan_object(
            item, policy, regions, prices, now_s, via=via, reads_per_month=reads_per_month, promise=promise
        ):
            summary.add(move, storage[move.region])
            yield move
