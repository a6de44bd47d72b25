"""Where new objects go, and from where reads are served. Owns no TTL (``ttl``) and moves nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gsfs.policy.bucket import BucketPolicy, Placement
from gsfs.policy.links import LinkTable
from gsfs.policy.prices import SECONDS_PER_MONTH, PriceTable


@dataclass(frozen=True, slots=True)
class WriteDecision:
    """Where a new object is put; none of these replicas ever expires."""

    home: str
    """Region of the first upload; the object's home."""
    background: tuple[str, ...]
    """Regions that get a replica afterwards."""
    why: str

    @property
    def permanent(self) -> tuple[str, ...]:
        return (self.home, *self.background)


@dataclass(frozen=True, slots=True)
class Promise:
    """What holds for a bucket whatever its placement is."""

    copies: int = 1
    """Locations at which every object is (durability ``remote:N``)."""
    leaving: frozenset[str] = frozenset()
    """Regions that take nothing new."""
    order: tuple[str, ...] = ()
    """All regions, in the order in which more of them are taken when the placement names too few."""


NO_PROMISE = Promise()


def kept(decision: WriteDecision, promise: Promise) -> WriteDecision:
    """The decision, with what is being left out of it and as many locations as are promised."""
    wanted = [region for region in decision.permanent if region not in promise.leaving]
    more = [region for region in promise.order if region not in wanted and region not in promise.leaving]
    missing = max(promise.copies - len(wanted), 0 if wanted else 1)
    wanted += more[:missing]
    if not wanted or tuple(wanted) == decision.permanent:
        return decision
    why = decision.why
    if left := [region for region in decision.permanent if region in promise.leaving]:
        why += f"; {', '.join(left)} is being left"
    if promise.copies > 1 and missing:
        why += f"; durability=remote:{promise.copies}"
    return WriteDecision(wanted[0], tuple(wanted[1:]), why)


def decide_write(
    policy: BucketPolicy,
    writer_region: str,
    regions: Sequence[str],
    prices: PriceTable,
    *,
    reads_per_month: Mapping[str, float] | None = None,
    size_bytes: int = 1 << 24,
    promise: Promise = NO_PROMISE,
) -> WriteDecision:
    """Placement on write. ``regions``: where the mount has locations; the first is the default home.

    ``reads_per_month``: how often an object of the bucket is read in each region (for ``cheapest``).
    """
    if promise.leaving:
        regions = [region for region in regions if region not in promise.leaving] or regions
    return kept(_placed(policy, writer_region, regions, prices, reads_per_month or {}, size_bytes), promise)


def _placed(
    policy: BucketPolicy,
    writer_region: str,
    regions: Sequence[str],
    prices: PriceTable,
    reads_per_month: Mapping[str, float],
    size_bytes: int,
) -> WriteDecision:
    """What the placement alone says."""
    home = policy.home or regions[0]
    if policy.placement is Placement.SINGLE:
        return WriteDecision(home, (), f"placement=single: home is {home}")
    if policy.placement is Placement.LOCAL:
        if writer_region in regions:
            return WriteDecision(writer_region, (), f"placement=local: written in {writer_region}")
        return WriteDecision(home, (), f"placement=local: no location in {writer_region}, so home, {home}")
    if policy.placement is Placement.PUSH:
        others = tuple(region for region in policy.push_to if region != home)
        return WriteDecision(home, others, f"placement=push: home is {home}, pushed to {', '.join(others)}")
    if policy.placement is Placement.ALL:
        first = writer_region if writer_region in regions else home
        return WriteDecision(first, tuple(r for r in regions if r != first), "placement=all")
    costs = home_costs(writer_region, regions, prices, reads_per_month, size_bytes)
    best = min(regions, key=lambda region: (costs[region], regions.index(region)))
    return WriteDecision(
        best, (), f"placement=cheapest: {best} at {costs[best]:.3g} USD per month and object"
    )


def home_costs(
    writer_region: str,
    regions: Sequence[str],
    prices: PriceTable,
    reads_per_month: Mapping[str, float],
    size_bytes: int,
) -> dict[str, float]:
    """``first_month_usd`` of each possible home."""
    return {
        home: first_month_usd((home,), writer_region, regions, prices, reads_per_month, size_bytes)
        for home in regions
    }


def first_month_usd(
    permanent: Sequence[str],
    writer_region: str,
    regions: Sequence[str],
    prices: PriceTable,
    reads_per_month: Mapping[str, float],
    size_bytes: int,
) -> float:
    """USD in the first month for one object written once to these regions and read at these rates.

    A reader that reads so often that a replica beside it is cheaper pays for the replica, not for every read.
    """
    total = 0.0
    for region in permanent:
        there = prices.tariff(region)
        total += there.put_usd + there.storage_usd_per_byte_s * size_bytes * SECONDS_PER_MONTH
        if writer_region != region and writer_region in regions:
            total += prices.edge(writer_region, region).egress_usd_per_byte * size_bytes
    for reader, rate in reads_per_month.items():
        edges = [prices.edge(region, reader) for region in permanent]
        fetch = min(rate * (edge.egress_usd_per_byte * size_bytes + edge.get_usd) for edge in edges)
        if reader in permanent:
            total += min(fetch, rate * prices.tariff(reader).get_usd)
            continue
        hold = min(edge.miss_usd(size_bytes) for edge in edges)
        hold += edges[0].hold_usd_per_s(size_bytes) * SECONDS_PER_MONTH
        total += min(fetch, hold)
    return total


def source_order(
    reader: str, regions: Iterable[str], prices: PriceTable, links: LinkTable
) -> tuple[str, ...]:
    """All regions in the order in which a reader should ask them: free and local first, then cheapest, then fastest.

    Depends on prices and links only: computed once, not per read. Prices count per 16 MiB, so that a cheap GET
    never outweighs dear egress, and to two digits, so that a hair's breadth in price never outweighs an ocean.
    """

    def rank(src: str) -> tuple[bool, float, float, str]:
        cost = float(prices.egress_usd_per_gib(src, reader)) / 64 + float(prices.get_usd(src))
        return (src != reader, float(f"{cost:.1e}"), links.rtt_ms(src, reader), src)

    return tuple(sorted(regions, key=rank))


def choose_source(
    order: Sequence[str], replicas: Collection[str], broken: Collection[str] = ()
) -> str | None:
    """The first region in ``order`` that has a replica and whose breaker is closed.

    With every breaker open, the first that has a replica: a read that may fail is better than one that must.
    None when there is no replica at all.
    """
    with_replica = [region for region in order if region in replicas]
    for region in with_replica:
        if region not in broken:
            return region
    return with_replica[0] if with_replica else None
