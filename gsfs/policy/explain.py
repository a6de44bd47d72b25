"""Why a decision fell as it did. Owns the record and its words; decides nothing, changes no state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gsfs.policy.bucket import BucketPolicy
from gsfs.policy.credit import ADMITTED, LEAN, SAFE
from gsfs.policy.decide import Edges, ReplicaFacts
from gsfs.policy.placement import WriteDecision, choose_source, first_month_usd
from gsfs.policy.prices import FOREVER_S, SECONDS_PER_DAY, SECONDS_PER_MONTH, PriceTable
from gsfs.policy.ttl import RegionMemory, Trail


@dataclass(frozen=True, slots=True)
class Alternative:
    """What else could have been done, and what it would have cost."""

    what: str
    usd: float
    unit: str
    """``per read``, ``in the first month``, ``expected`` (until the next read, or for good)."""
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision: the rule, its numbers (units in their names), and the alternatives."""

    rule: str
    why: str
    numbers: dict[str, float]
    alternatives: tuple[Alternative, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: one line each."""
        text = [f"rule: {self.rule}", f"why: {self.why}"]
        text += [f"  {name} = {value:.6g}" for name, value in self.numbers.items()]
        for other in self.alternatives:
            text.append(f"  {'*' if other.chosen else '-'} {other.what}: {other.usd:.3g} USD {other.unit}")
        return text


def explain_write(
    decision: WriteDecision,
    policy: BucketPolicy,
    writer_region: str,
    regions: Sequence[str],
    prices: PriceTable,
    *,
    reads_per_month: dict[str, float],
    size_bytes: int,
) -> Explanation:
    """Why an object is put where it is, against every single home and all of them, at the reads seen so far."""

    def alternative(what: str, permanent: tuple[str, ...]) -> Alternative:
        usd = first_month_usd(permanent, writer_region, regions, prices, reads_per_month, size_bytes)
        return Alternative(what, usd, "in the first month", set(permanent) == set(decision.permanent))

    numbers = {f"reads_per_month[{region}]": rate for region, rate in reads_per_month.items()}
    others = tuple(alternative(f"home {region}", (region,)) for region in regions)
    if len(regions) > 1:
        others += (alternative("everywhere", tuple(regions)),)
    if not any(other.chosen for other in others):
        as_placed = f"home {decision.home}, and {', '.join(decision.background)}"
        others += (alternative(as_placed, decision.permanent),)
    return Explanation(
        f"placement={policy.placement.value}", decision.why, {"size_bytes": size_bytes, **numbers}, others
    )


def explain_read(
    policy: BucketPolicy,
    region: str,
    now_s: float,
    size_bytes: int,
    replicas: Sequence[ReplicaFacts],
    *,
    order: Sequence[str],
    edges: Edges,
    trail: Trail,
    memory: RegionMemory,
) -> Explanation:
    """What reading here costs now, why a replica is here (or not), and what other TTLs would have cost.

    Expected costs come from the histogram that ``adaptive`` uses, whatever the bucket's rule is.
    """
    source = choose_source(order, {r.region for r in replicas})
    if source is None:
        return Explanation(f"ttl={policy.ttl.name}", "there is no replica to read", {}, ())
    sources = tuple(_read_cost(edges, r.region, region, size_bytes, r.region == source) for r in replicas)
    lasting = {r.region for r in replicas if r.permanent} or {source}
    if region in lasting:
        why = f"a permanent replica is in {region}: no TTL applies"
        return Explanation(f"placement={policy.placement.value}", why, {"size_bytes": size_bytes}, sources)
    edge = edges.edge(next(r for r in order if r in lasting), region)
    t_even_s, per_s = edge.t_even_s(size_bytes), edge.hold_usd_per_s(size_bytes)
    numbers = {
        "size_bytes": float(size_bytes),
        "miss_usd": edge.miss_usd(size_bytes),
        "storage_usd_per_month": per_s * SECONDS_PER_MONTH,
        "t_even_days": t_even_s / SECONDS_PER_DAY,
        "ttl_days": trail.ttl_s / SECONDS_PER_DAY,
        "evidence_intervals": memory.histogram.evidence(),
    }
    ttls = _ttl_costs(memory, trail, t_even_s, per_s)
    return Explanation(
        f"ttl={policy.ttl.name}", _why(policy, region, now_s, trail), numbers, (*sources, *ttls)
    )


def _read_cost(edges: Edges, src: str, region: str, size_bytes: int, chosen: bool) -> Alternative:
    edge = edges.edge(src, region)
    usd = edge.egress_usd_per_byte * size_bytes + edge.get_usd
    return Alternative(f"read from {src}", usd, "per read", chosen)


def _ttl_costs(memory: RegionMemory, trail: Trail, t_even_s: float, per_s: float) -> tuple[Alternative, ...]:
    """Expected cost, from a read to the next, of the TTL in force and of its alternatives."""
    survival = memory.histogram.survival(trail.context, t_even_s)
    choices = {
        "keep nothing": 0.0,
        "keep for T_even / 2": t_even_s / 2,
        "keep for T_even": t_even_s,
        "keep for the best TTL by the histogram": memory.histogram.best_ttl_s(trail.context, t_even_s),
        "keep as decided": min(trail.ttl_s, t_even_s),
    }
    return tuple(
        Alternative(
            f"{what} ({ttl_s / SECONDS_PER_DAY:.3g} days)",
            survival.expected_s(ttl_s, t_even_s) * per_s,
            "expected",
            what == "keep as decided",
        )
        for what, ttl_s in choices.items()
    )


CHOICES: dict[int, str] = {
    ADMITTED: "; TTL of least expected cost by the histogram",
    SAFE: "; TTL by the safe rule, to keep the bound",
    LEAN: "; TTL by the lean rule, for one object dearer than the bound allows to risk",
}


def _why(policy: BucketPolicy, region: str, now_s: float, trail: Trail) -> str:
    if policy.ttl.name == "none":
        return f"ttl=none: reads leave no replica in {region}"
    if trail.last_read_s < 0:
        return f"not yet read in {region}"
    if trail.ttl_s <= 0:
        return f"read in {region} on {moment(trail.last_read_s)}, and not worth keeping there"
    state = "until" if trail.expires_s() >= now_s else "it expired on"
    how = ""
    if policy.ttl.name == "adaptive":
        how = CHOICES[trail.choice]
    kept = f"{state} {moment(trail.expires_s())}" if trail.ttl_s < FOREVER_S else "for good"
    return f"read in {region} on {moment(trail.last_read_s)} and kept, {kept}{how}"


def moment(clock_s: float) -> str:
    """A clock's reading for people, in UTC; virtual clocks start at the epoch."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(clock_s))
