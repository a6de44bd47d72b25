"""One policy at work on one trace. Owns counting and billing; every decision is a function of ``gsfs.policy``.

Bytes and requests are counted as integers; stored byte-seconds as floats, whose error (about 1e-10) is far below a
cent. Memory grows with the objects that exist, not with the trace: what a region remembers of an object is dropped
as soon as it is without effect, as in the mount.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gsfs.policy.bucket import BucketPolicy, Placement
from gsfs.policy.decide import new_memory
from gsfs.policy.placement import decide_write
from gsfs.policy.prices import SECONDS_PER_MONTH, Edge
from gsfs.policy.ttl import RegionMemory, Trail, forgettable
from gsfs.sim.requests import GET, OTHER, PUT, Placed
from gsfs.sim.world import World

SWEEP = 1 << 18
"""Requests between two sweeps for trails to forget."""


@dataclass(frozen=True, slots=True)
class Fare:
    """What reading costs in one region objects that have their permanent replicas elsewhere."""

    lasting: int
    """The cheapest region with a permanent replica: what a TTL is reckoned against."""
    nearer: tuple[int, ...]
    """Regions that are cheaper still, cheapest first: asked while they hold a replica that a read has made."""
    edge: Edge
    """From ``lasting``."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a writer's objects are placed for good; shared by all of them."""

    permanent: tuple[int, ...]
    fares: tuple[Fare | None, ...]
    """By region of the reader; None where there is a permanent replica."""


Thing = tuple[int, float, Target, list[Trail | None]]
"""One object in a replay: its size, when it was written, where it was placed, its trails by region."""


def _source(fare: Fare, trails: Sequence[Trail | None], now: float) -> int:
    """The cheapest region that holds a replica now."""
    for region in fare.nearer:
        trail = trails[region]
        if trail is not None and now <= trail.last_read_s + trail.ttl_s:
            return region
    return fare.lasting


@dataclass(slots=True)
class Meter:
    """What the locations counted, by region index; pairs are [source][reader]."""

    puts: list[int]
    gets: list[int]
    byte_s: list[float]
    egress_bytes: list[list[int]]
    reads: list[list[int]]
    read_bytes: list[list[int]]
    hits: int = 0
    """Reads served by a replica that an earlier read had made."""
    local: int = 0
    """Reads served by a permanent replica in the reader's region."""
    misses: int = 0

    @classmethod
    def zero(cls, n: int) -> Meter:
        egress, reads, read_bytes = ([[0] * n for _ in range(n)] for _ in range(3))
        return cls([0] * n, [0] * n, [0.0] * n, egress, reads, read_bytes)


@dataclass(slots=True)
class Replay:
    """Feed it batches in the order of time, then ``finish`` it."""

    policy: BucketPolicy
    world: World
    birth_region: Callable[[int], int]
    """Where an object was written that the trace reads without having written it."""
    meter: Meter = field(init=False)
    memories: list[RegionMemory] = field(init=False)
    things: dict[int, Thing] = field(default_factory=dict)
    now_s: float = 0.0
    until_sweep: int = SWEEP
    targets: dict[int, Target] = field(default_factory=dict)
    """By writer; decided once per writer, again at each sweep."""
    served: list[int] = field(init=False)
    served_bytes: list[int] = field(init=False)
    """Reads that were served in their own region, by region; ``finish`` enters them into the meter."""
    least_age_s: list[float] = field(init=False)
    """How long a permanent replica is paid for at least, by region."""

    def __post_init__(self) -> None:
        n = len(self.world)
        self.meter = Meter.zero(n)
        self.served, self.served_bytes = [0] * n, [0] * n
        names, prices = self.world.regions, self.world.prices
        self.memories = [new_memory(region, names, prices) for region in names]
        self.least_age_s = [prices.min_age_s(region) for region in names]

    def feed(self, batch: Sequence[Placed]) -> None:
        """Replay one batch. One long loop, because calls per request would halve the speed."""
        things, meter, memories = self.things, self.meter, self.memories
        after_read, reads, read_bytes = self.policy.ttl.after_read, meter.reads, meter.read_bytes
        byte_s, served, served_bytes, hits = meter.byte_s, self.served, self.served_bytes, 0
        for now, op, key, request_size, length, region in batch:
            if op != GET:
                if op != OTHER:
                    self._replace(now, op, key, request_size, region)
                continue
            thing = things.get(key)
            if thing is None:
                thing = self._appear(now, key, request_size, self.birth_region(key), region)
            size, _since, target, trails = thing
            fare = target.fares[region]
            if fare is None:
                served[region] += 1
                served_bytes[region] += length
                continue
            trail, hit = trails[region], False
            if trail is None:
                trail = trails[region] = Trail()
            else:
                gap, ttl = now - trail.last_read_s, trail.ttl_s
                hit = gap <= ttl
                byte_s[region] += (gap if hit else ttl) * size
            edge = fare.edge
            put_usd = edge.put_usd
            ttl = after_read(
                memories[region],
                trail,
                now,
                edge.egress_usd_per_byte * size + edge.get_usd + put_usd,
                edge.storage_usd_per_byte_s * size,
                put_usd,
            )
            if hit:
                hits += 1
                served[region] += 1
                served_bytes[region] += length
                continue
            source = _source(fare, trails, now) if fare.nearer else fare.lasting
            reads[source][region] += 1
            read_bytes[source][region] += length
            if ttl > 0:
                meter.puts[region] += 1
                meter.egress_bytes[source][region] += size
            else:
                meter.egress_bytes[source][region] += length
        meter.hits += hits
        if batch:
            self.now_s = batch[-1][0]
        self.until_sweep -= len(batch)
        if self.until_sweep <= 0:
            self._sweep()

    def _appear(self, now: float, key: int, size: int, writer: int, reader: int | None = None) -> Thing:
        """An object begins to exist: it is written, or read (by ``reader``) without having been written."""
        target = self.targets.get(writer)
        if target is None:
            target = self.targets[writer] = self._decide_write(writer, now, reader)
        thing = self.things[key] = (size, now, target, [None] * len(target.fares))
        return thing

    def _decide_write(self, writer: int, now: float, reader: int | None) -> Target:
        names = self.world.regions
        months = max(now, 3600.0) / SECONDS_PER_MONTH * max(1, len(self.things))
        rates = {}
        for r, name in enumerate(names):
            count = self.served[r] + sum(row[r] for row in self.meter.reads) + (r == reader)
            if count:
                rates[name] = count / months
        decision = decide_write(self.policy, names[writer], names, self.world.prices, reads_per_month=rates)
        permanent = tuple(sorted(names.index(region) for region in decision.permanent))
        return Target(permanent, tuple(self._fare(permanent, r) for r in range(len(names))))

    def _fare(self, permanent: tuple[int, ...], reader: int) -> Fare | None:
        if reader in permanent:
            return None
        order = [region for region in self.world.order[reader] if region != reader]
        first = next(at for at, region in enumerate(order) if region in permanent)
        return Fare(order[first], tuple(order[:first]), self.world.edges[order[first]][reader])

    def _replace(self, now: float, op: int, key: int, size: int, region: int) -> None:
        """A PUT or a DELETE: the old version and all its replicas end."""
        old = self.things.pop(key, None)
        if old is not None:
            self._settle(old, now)
        if op == PUT:
            meter = self.meter
            for target in self._appear(now, key, size, region)[2].permanent:
                meter.puts[target] += 1
                if target != region:
                    meter.egress_bytes[region][target] += size

    def _settle(self, thing: Thing, now: float) -> None:
        """Bill the storage of all replicas of an object up to its end."""
        byte_s = self.meter.byte_s
        size, since, target, trails = thing
        for region in target.permanent:
            lived, least = now - since, self.least_age_s[region]
            byte_s[region] += (lived if lived > least else least) * size
        for region, trail in enumerate(trails):
            if trail is not None:
                gap, ttl = now - trail.last_read_s, trail.ttl_s
                byte_s[region] += (gap if gap < ttl else ttl) * size

    def _sweep(self) -> None:
        """Forget trails without effect; decide placements anew."""
        self.until_sweep = SWEEP
        if self.policy.placement is Placement.CHEAPEST:
            self.targets.clear()
        for size, _since, target, trails in self.things.values():
            for region, trail in enumerate(trails):
                fare = target.fares[region]
                if trail is None or fare is None:
                    continue
                if forgettable(self.memories[region], trail, fare.edge.t_even_s(size), self.now_s):
                    self.meter.byte_s[region] += trail.ttl_s * size
                    trails[region] = None

    def finish(self) -> Meter:
        """Bill what is stored until the last request, and add up."""
        for thing in self.things.values():
            self._settle(thing, self.now_s)
        self.things.clear()
        meter = self.meter
        meter.misses = sum(map(sum, meter.reads))
        meter.local = sum(self.served) - meter.hits
        for region, count in enumerate(self.served):
            meter.reads[region][region] = count
            meter.read_bytes[region][region] = self.served_bytes[region]
        meter.gets = [sum(row) for row in meter.reads]
        return meter
