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


State = tuple[float, float, float, float, float]
"""Of an object and region: the time of the last read, then a ``Clairvoyant``'s two costs with transfers from home, and
the same two with transfers from anywhere."""

Thing = tuple[int, int, float, list[State | None]]
"""Size, home, time of birth, and the state of each region."""


@dataclass(slots=True)
class Yardstick:
    """Replays a trace with the writes of ``placement=local`` and clairvoyant TTLs: fed like a ``Replay``.

    What no TTL changes (PUTs, storage of permanent replicas, the GETs of reads at home) is counted as ``fixed_usd``. The
    optimum of an object and region takes the object's home as the source of every transfer. With several regions
    that is not the last word (a replica made by a read may be a cheaper source), so there is a second sum: every
    transfer at the price of the cheapest region, whether or not it holds a replica. That is a lower bound of every
    policy that writes locally, and may be out of reach.
    """

    world: World
    birth_region: Callable[[int], int]
    fixed_usd: float = 0.0
    chosen_usd: float = 0.0
    """Transfers and storage of replicas made by reads, where the best choice was made every time."""
    bound_usd: float = 0.0
    """The same with transfers from anywhere."""
    things: dict[int, Thing] = field(default_factory=dict)
    now_s: float = 0.0
    homes: list[tuple[float, float, float, float]] = field(init=False)
    """Of each region: a GET, a PUT, storage per byte and second, and the least age in s."""
    nearest: list[Edge] = field(init=False)
    """The cheapest transfer into each region."""

    def __post_init__(self) -> None:
        world = self.world
        self.homes, self.nearest = [], []
        for region, name in enumerate(world.regions):
            edge, others = world.edges[region][region], [r for r in world.order[region] if r != region]
            least_age_s = world.prices.min_age_s(name)
            self.homes.append((edge.get_usd, edge.put_usd, edge.storage_usd_per_byte_s, least_age_s))
            self.nearest.append(world.edges[others[0] if others else region][region])

    def feed(self, batch: Sequence[Placed]) -> None:
        """Replay one batch. ``Clairvoyant`` is written out, twice: calls for each request would halve the speed."""
        things, edges, nearest, homes = self.things, self.world.edges, self.nearest, self.homes
        for now, op, key, request_size, length, region in batch:
            if op != GET:
                if op != OTHER:
                    self._replace(now, op, key, request_size, region)
                continue
            thing = things.get(key)
            if thing is None:
                thing = things[key] = (request_size, self.birth_region(key), now, [None] * len(homes))
            size, home, _born, states = thing
            if region == home:
                self.fixed_usd += homes[home][0]
                continue
            edge, near, state = edges[home][region], nearest[region], states[region]
            moved = length if length < size else size
            fetch = edge.egress_usd_per_byte * moved + edge.get_usd
            keep = edge.put_usd + edge.egress_usd_per_byte * (size - moved)
            fetch_near = near.egress_usd_per_byte * moved + near.get_usd
            keep_near = near.put_usd + near.egress_usd_per_byte * (size - moved)
            if state is None:
                states[region] = (now, fetch + keep, fetch, fetch_near + keep_near, fetch_near)
                continue
            last, held, fetched, held_near, fetched_near = state
            stay = (now - last) * (edge.storage_usd_per_byte_s * size)
            hit = homes[region][0]
            held, fetched = held + stay + hit, fetched + fetch
            held_near, fetched_near = held_near + stay + hit, fetched_near + fetch_near
            states[region] = (
                now,
                held if held < fetched + keep else fetched + keep,
                held if held < fetched else fetched,
                held_near if held_near < fetched_near + keep_near else fetched_near + keep_near,
                held_near if held_near < fetched_near else fetched_near,
            )
        if batch:
            self.now_s = batch[-1][0]

    def _replace(self, now: float, op: int, key: int, size: int, region: int) -> None:
        old = self.things.pop(key, None)
        if old is not None:
            self._end(old, now)
        if op == PUT:
            self.things[key] = (size, region, now, [None] * len(self.homes))
            self.fixed_usd += self.homes[region][1]

    def _end(self, thing: Thing, now: float) -> None:
        size, home, born, states = thing
        _get_usd, _put_usd, usd_per_byte_s, least_age_s = self.homes[home]
        lived = now - born
        self.fixed_usd += (lived if lived > least_age_s else least_age_s) * size * usd_per_byte_s
        for state in states:
            if state is not None:
                self.chosen_usd += state[2]
                self.bound_usd += state[4]

    def finish(self) -> tuple[float, float]:
        """The cost of the whole trace in USD: the optimum with transfers from home, and the lower bound."""
        for thing in self.things.values():
            self._end(thing, self.now_s)
        self.things.clear()
        return self.fixed_usd + self.chosen_usd, self.fixed_usd + self.bound_usd
