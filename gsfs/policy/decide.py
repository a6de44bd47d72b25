"""What a read in a region does: from where, and whether a replica stays. Joins placement and TTL; stores nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gsfs.policy.bucket import BucketPolicy
from gsfs.policy.placement import choose_source
from gsfs.policy.prices import FOREVER_S, Edge, PriceTable
from gsfs.policy.ttl import RegionMemory, Trail


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """One available replica of a physical object, as a decision sees it."""

    region: str
    permanent: bool
    """Placed on write: never expires."""
    expires_s: float = 0.0
    """Clock at which a replica made by a read is no longer wanted; means nothing for a permanent one."""
    created_s: float = 0.0
    pinned: bool = False


@dataclass(slots=True)
class Edges:
    """Edges by (source, destination), looked up in the price table once each."""

    prices: PriceTable
    known: dict[tuple[str, str], Edge] = field(default_factory=dict)

    def edge(self, src: str, dst: str) -> Edge:
        found = self.known.get((src, dst))
        if found is None:
            found = self.known[src, dst] = self.prices.edge(src, dst)
        return found


@dataclass(frozen=True, slots=True)
class ReadDecision:
    """What to do with one read."""

    source: str
    ttl_s: float
    """From now; 0 when nothing is to be kept, and for a region with a permanent replica."""
    expires_s: float
    replicate: bool
    """A whole replica is to be made in the reader's region (there is none, and ``ttl_s`` is positive)."""
    read_usd: float
    """Egress and GET of this read of the whole object."""
    edge: Edge | None
    """What the TTL was chosen for; None when no TTL was."""


def decide_read(
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
    broken: Collection[str] = (),
) -> ReadDecision | None:
    """Decide about a read of a physical object in ``region``. None when no replica exists (nothing to read).

    ``replicas`` are the available ones. One that has expired and is not removed yet serves, and is renewed.
    ``order`` is ``source_order`` of the region. ``trail`` and ``memory`` are the bucket's state for this object
    and region: they are brought up to date, and are to be stored with the next commit.
    """
    source = choose_source(order, {r.region for r in replicas}, broken)
    if source is None:
        return None
    lasting = [r.region for r in replicas if r.permanent] or [source]
    here = edges.edge(source, region)
    read_usd = here.egress_usd_per_byte * size_bytes + here.get_usd
    if region in lasting:
        return ReadDecision(source, 0.0, 0.0, False, read_usd, None)
    edge = edges.edge(next(src for src in order if src in lasting), region)
    ttl_s = policy.ttl.after_read(
        memory, trail, now_s, edge.miss_usd(size_bytes), edge.hold_usd_per_s(size_bytes), edge.put_usd
    )
    return ReadDecision(source, ttl_s, now_s + ttl_s, ttl_s > 0 and source != region, read_usd, edge)


def new_memory(
    region: str, regions: Sequence[str], prices: PriceTable, size_bytes: int = 1 << 24
) -> RegionMemory:
    """A bucket's memory of a region in which nothing has been read yet; ``regions`` has all of its locations."""
    times = [prices.edge(src, region).t_even_s(size_bytes) for src in regions if src != region]
    return RegionMemory(max(1.0, *times) if times else FOREVER_S)
