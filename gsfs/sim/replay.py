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
from gsfs.policy.prices import SECONDS_PER_MONTH
from gsfs.policy.ttl import RegionMemory, Trail, forgettable
from gsfs.sim.requests import GET, OTHER, PUT, Placed
from gsfs.sim.world import World

SWEEP = 1 << 18
"""Requests between two sweeps for trails to forget."""


@dataclass(slots=True)
class Thing:
    """One object in a replay."""

    size: int
    home: int
    permanent: int
    """Bit i: a permanent replica in region i."""
    since_s: float
    trails: list[Trail | None]


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
    targets: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Home and permanent mask by writer; decided once per writer, again at each sweep."""
    reads_by_region: list[int] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.world)
        self.meter = Meter.zero(n)
        self.reads_by_region = [0] * n
        names, prices = self.world.regions, self.world.prices
        self.memories = [new_memory(region, names, prices) for region in names]

    def feed(self, batch: Sequence[Placed]) -> None:
        """Replay one batch. One long loop, because calls per request would halve the speed."""
        things, meter, memories, edges = self.things, self.meter, self.memories, self.world.edges
        after_read, reads, read_bytes = self.policy.ttl.after_read, meter.reads, meter.read_bytes
        byte_s, gets, by_region = meter.byte_s, meter.gets, self.reads_by_region
        lasting, hits, local = self._lasting, 0, 0
        for now, op, key, request_size, length, region in batch:
            if op != GET:
                if op != OTHER:
                    self._replace(now, op, key, request_size, region)
                continue
            by_region[region] += 1
            thing = things.get(key)
            if thing is None:
                thing = self._appear(now, key, request_size, self.birth_region(key))
            if thing.permanent >> region & 1:
                local += 1
                gets[region] += 1
                reads[region][region] += 1
                read_bytes[region][region] += length
                continue
            trail, size = thing.trails[region], thing.size
            hit = False
            if trail is None:
                trail = thing.trails[region] = Trail()
            else:
                gap, ttl = now - trail.last_read_s, trail.ttl_s
                hit = gap <= ttl
                byte_s[region] += (gap if hit else ttl) * size
            edge = edges[
                thing.home if thing.permanent & (thing.permanent - 1) == 0 else lasting(thing, region)
            ][region]
            if hit:
                hits += 1
                gets[region] += 1
                reads[region][region] += 1
                read_bytes[region][region] += length
                after_read(
                    memories[region], trail, now, edge.miss_usd(size), edge.hold_usd_per_s(size), edge.put_usd
                )
                continue
            source = self._source(thing, region, now)
            ttl = after_read(
                memories[region], trail, now, edge.miss_usd(size), edge.hold_usd_per_s(size), edge.put_usd
            )
            self._bill_miss(source, region, size, length, keep=ttl > 0)
        meter.hits += hits
        meter.local += local
        if batch:
            self.now_s = batch[-1][0]
        self.until_sweep -= len(batch)
        if self.until_sweep <= 0:
            self._sweep()

    def _bill_miss(self, source: int, region: int, size: int, length: int, *, keep: bool) -> None:
        meter = self.meter
        moved = size if keep else length
        meter.misses += 1
        meter.gets[source] += 1
        meter.reads[source][region] += 1
        meter.read_bytes[source][region] += length
        meter.egress_bytes[source][region] += moved
        if keep:
            meter.puts[region] += 1

    def _source(self, thing: Thing, region: int, now: float) -> int:
        """The cheapest region that holds a replica now."""
        alive = {r for r, t in enumerate(thing.trails) if t is not None and now <= t.last_read_s + t.ttl_s}
        alive.discard(region)
        alive.update(r for r in self.world.order[region] if thing.permanent >> r & 1)
        for source in self.world.order[region]:
            if source in alive:
                return source
        return thing.home

    def _lasting(self, thing: Thing, region: int) -> int:
        """The cheapest region that holds a permanent replica: what a TTL is reckoned against."""
        return next(r for r in self.world.order[region] if thing.permanent >> r & 1)

    def _appear(self, now: float, key: int, size: int, writer: int) -> Thing:
        """An object begins to exist."""
        target = self.targets.get(writer)
        if target is None:
            target = self.targets[writer] = self._decide_write(writer, now)
        thing = Thing(size, target[0], target[1], now, [None] * len(self.world))
        self.things[key] = thing
        return thing

    def _decide_write(self, writer: int, now: float) -> tuple[int, int]:
        names = self.world.regions
        months = max(now, 3600.0) / SECONDS_PER_MONTH * max(1, len(self.things))
        rates = {names[r]: count / months for r, count in enumerate(self.reads_by_region) if count}
        decision = decide_write(self.policy, names[writer], names, self.world.prices, reads_per_month=rates)
        mask = 0
        for region in decision.permanent:
            mask |= 1 << names.index(region)
        return names.index(decision.home), mask

    def _replace(self, now: float, op: int, key: int, size: int, region: int) -> None:
        """A PUT or a DELETE: the old version and all its replicas end."""
        old = self.things.pop(key, None)
        if old is not None:
            self._settle(old, now)
        if op == PUT:
            thing = self._appear(now, key, size, region)
            for target in range(len(self.world)):
                if thing.permanent >> target & 1:
                    self.meter.puts[target] += 1
                    if target != region:
                        self.meter.egress_bytes[region][target] += size

    def _settle(self, thing: Thing, now: float) -> None:
        """Bill the storage of all replicas of an object up to its end."""
        byte_s = self.meter.byte_s
        for region, trail in enumerate(thing.trails):
            if thing.permanent >> region & 1:
                least = self.world.prices.min_age_s(self.world.regions[region])
                byte_s[region] += max(now - thing.since_s, least) * thing.size
            elif trail is not None:
                byte_s[region] += min(now - trail.last_read_s, trail.ttl_s) * thing.size

    def _sweep(self) -> None:
        """Forget trails without effect; decide placements anew."""
        self.until_sweep = SWEEP
        if self.policy.placement is Placement.CHEAPEST:
            self.targets.clear()
        for thing in self.things.values():
            for region, trail in enumerate(thing.trails):
                if trail is None:
                    continue
                t_even_s = self.world.edges[self._lasting(thing, region)][region].t_even_s(thing.size)
                if forgettable(self.memories[region], trail, t_even_s, self.now_s):
                    self.meter.byte_s[region] += trail.ttl_s * thing.size
                    thing.trails[region] = None

    def finish(self) -> Meter:
        """Bill what is stored until the last request."""
        for thing in self.things.values():
            self._settle(thing, self.now_s)
        self.things.clear()
        return self.meter
