"""The single-cache experiment of the SkyStore authors. Owns its setting: one cache region, requests free, T_even given.

The cost of a policy is what the cache costs: one transfer per miss and the storage of replicas, in units in which a
byte's transfer costs 1 and its storage costs 1 per T_even. The home location is there anyway and not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gsfs.policy.ttl import RegionMemory, Trail, TtlRule
from gsfs.sim.optimum import Clairvoyant
from gsfs.sim.requests import GET, OTHER, Request

T_EVEN_S = 86_400.0
"""24 hours of the trace: with a trace day taken as 90 days, a transfer costs three months of storage."""


@dataclass(slots=True)
class CacheResult:
    """Costs in byte transfers."""

    transfers: float = 0.0
    storage: float = 0.0
    optimum: float = 0.0
    reads: int = 0
    hits: int = 0

    @property
    def ratio(self) -> float:
        """Cost over the clairvoyant optimum; 1 when nothing was read."""
        return (self.transfers + self.storage) / self.optimum if self.optimum else 1.0


@dataclass(slots=True)
class SingleCache:
    """One rule at work on one trace."""

    rule: TtlRule
    t_even_s: float = T_EVEN_S
    memory: RegionMemory = field(init=False)
    trails: dict[str, tuple[Trail, Clairvoyant, int]] = field(default_factory=dict)
    result: CacheResult = field(default_factory=CacheResult)

    def __post_init__(self) -> None:
        self.memory = RegionMemory(self.t_even_s)

    def run(self, requests: Iterable[Request]) -> CacheResult:
        """Replay a trace to its end; replicas still there are paid for until then."""
        now_s = 0.0
        for request in requests:
            now_s = request.time_ms / 1000
            if request.op == GET:
                self._read(request.key, request.size_bytes, now_s)
            elif request.op != OTHER:
                self._drop(request.key, now_s)
        for key in list(self.trails):
            self._drop(key, now_s)
        return self.result

    def _read(self, key: str, size: int, now_s: float) -> None:
        result, per_s = self.result, size / self.t_even_s
        result.reads += 1
        found = self.trails.get(key)
        if found is None:
            trail = Trail()
            self.trails[key] = (trail, Clairvoyant.first(now_s, size, 0.0), size)
            result.transfers += size
        else:
            trail, best, size = found
            best.read(now_s, size, 0.0, per_s)
            gap_s = now_s - trail.last_read_s
            result.storage += min(gap_s, trail.ttl_s) * per_s
            if gap_s <= trail.ttl_s:
                result.hits += 1
            else:
                result.transfers += size
        self.rule.after_read(self.memory, trail, now_s, size, per_s)

    def _drop(self, key: str, now_s: float) -> None:
        """The object was overwritten or deleted, or the trace is over."""
        found = self.trails.pop(key, None)
        if found is not None:
            trail, best, size = found
            self.result.storage += min(now_s - trail.last_read_s, trail.ttl_s) * size / self.t_even_s
            self.result.optimum += best.least_usd()
