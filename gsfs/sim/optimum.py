"""The clairvoyant optimum, as it would have been. Owns the yardstick; no policy can see it.

For one object and region, the optimum over any sequence of reads has two ends after each read: with a replica kept or
without. The cheapest cost of either is known from the cheapest costs before that read, so the optimum of the past
needs no look into the future and two numbers per object and region. Where a PUT is free it is the rule of SkyStore
(arXiv 2502.20818): keep exactly when the next read comes before T_even.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gsfs.policy.prices import Edge
from gsfs.sim.requests import GET, OTHER, PUT, Placed
from gsfs.sim.world import World


@dataclass(slots=True)
class Clairvoyant:
    """The cheapest cost so far, in USD, of one object's reads in one region without a permanent replica."""

    last_read_s: float
    with_replica_usd: float
    without_usd: float

    @classmethod
    def first(cls, now_s: float, fetch_usd: float, put_usd: float) -> Clairvoyant:
        """After the first read, which everybody pays for."""
        return cls(now_s, fetch_usd + put_usd, fetch_usd)

    def read(
        self, now_s: float, fetch_usd: float, put_usd: float, hold_usd_per_s: float, hit_usd: float = 0.0
    ) -> None:
        """Another read: either the replica was held for the gap, or the object is fetched again."""
        held = self.with_replica_usd + (now_s - self.last_read_s) * hold_usd_per_s + hit_usd
        fetched = self.without_usd + fetch_usd
        self.with_replica_usd = min(held, fetched + put_usd)
        self.without_usd = min(held, fetched)
        self.last_read_s = now_s

    def least_usd(self) -> float:
        """The optimum of everything read so far: whatever comes, nothing need be held any longer."""
        return self.without_usd


@dataclass(slots=True)
class Yardstick:
    """Replays a trace with the writes of ``placement=local`` and clairvoyant TTLs: fed like a ``Replay``.

    What no TTL changes (PUTs, storage of permanent replicas, the GETs of reads at home) is counted as ``fixed_usd``. The
    optimum of an object and region takes the object's home as the source of every transfer. With several regions
    that is not the last word (a replica made by a read may be a cheaper source), so there is ``from_anywhere``: every
    transfer at the price of the cheapest region, whether or not it holds a replica. That is a lower bound of every
    policy that writes locally, and may be out of reach.
    """

    world: World
    birth_region: Callable[[int], int]
    from_anywhere: bool = False
    fixed_usd: float = 0.0
    chosen_usd: float = 0.0
    """Transfers and storage of replicas made by reads, where the best choice was made every time."""
    things: dict[int, tuple[int, int, float, list[Clairvoyant | None]]] = field(default_factory=dict)
    """Size, home, time of birth, and the state of each region, by key."""
    now_s: float = 0.0

    def feed(self, batch: Sequence[Placed]) -> None:
        """Replay one batch."""
        things, edges = self.things, self.world.edges
        for now, op, key, request_size, length, region in batch:
            if op != GET:
                if op != OTHER:
                    self._replace(now, op, key, request_size, region)
                continue
            thing = things.get(key)
            if thing is None:
                thing = self._appear(now, key, request_size, self.birth_region(key))
            size, home, _born, states = thing
            if region == home:
                self.fixed_usd += edges[home][home].get_usd
                continue
            edge, state = self._edge(home, region), states[region]
            moved = min(length, size)
            fetch = edge.egress_usd_per_byte * moved + edge.get_usd
            put = edge.put_usd + edge.egress_usd_per_byte * (size - moved)
            hit = edges[region][region].get_usd
            if state is None:
                states[region] = Clairvoyant.first(now, fetch, put)
            else:
                state.read(now, fetch, put, edge.storage_usd_per_byte_s * size, hit)
        if batch:
            self.now_s = batch[-1][0]

    def _edge(self, home: int, region: int) -> Edge:
        """What a transfer into ``region`` is priced by."""
        if not self.from_anywhere:
            return self.world.edges[home][region]
        source = next(src for src in self.world.order[region] if src != region)
        return self.world.edges[source][region]

    def _appear(
        self, now: float, key: int, size: int, home: int
    ) -> tuple[int, int, float, list[Clairvoyant | None]]:
        thing = self.things[key] = (size, home, now, [None] * len(self.world))
        return thing

    def _replace(self, now: float, op: int, key: int, size: int, region: int) -> None:
        self._end(self.things.pop(key, None), now)
        if op == PUT:
            self._appear(now, key, size, region)
            self.fixed_usd += self.world.edges[region][region].put_usd

    def _end(self, thing: tuple[int, int, float, list[Clairvoyant | None]] | None, now: float) -> None:
        if thing is None:
            return
        size, home, born, states = thing
        lived = max(now - born, self.world.prices.min_age_s(self.world.regions[home]))
        self.fixed_usd += lived * size * self.world.edges[home][home].storage_usd_per_byte_s
        self.chosen_usd += sum(state.least_usd() for state in states if state is not None)

    def finish(self) -> float:
        """The cost of the whole trace in USD."""
        for thing in self.things.values():
            self._end(thing, self.now_s)
        self.things.clear()
        return self.fixed_usd + self.chosen_usd
