"""A whole simulation: one trace, several policies. Owns their names and the results; prints nothing."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction

from gsfs.errors import ConfigError
from gsfs.policy.bucket import BucketPolicy, Placement, check_regions, parse_policy
from gsfs.policy.ledger import Count, EntryKey, Kind, to_decimal, usd_of
from gsfs.sim.assign import Assigner
from gsfs.sim.optimum import Yardstick
from gsfs.sim.replay import Meter, Replay
from gsfs.sim.requests import Row
from gsfs.sim.world import World

DEFAULT_POLICIES = "adaptive,t_even,forever,none,all"

YOUNG = 1 << 18
"""Requests between two looks for reference cycles."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy did on one trace. Money in USD, to the picodollar."""

    policy: str
    storage_usd: Decimal
    egress_usd: Decimal
    requests_usd: Decimal
    total_usd: Decimal
    over_optimum: float
    """Total over that of the clairvoyant optimum: writes local, the best TTL every time, transfers from home."""
    over_bound: float
    """Total over a bound that no policy with local writes beats: transfers from the cheapest region, replica or not."""
    reads: int
    local_share: float
    """Reads served in their own region: by a permanent replica, or by one that a read had made."""
    hit_share: float
    """Of the reads in regions without a permanent replica, those that found one."""
    mean_read_ms: float
    """Estimated from the link table."""
    unknown_links: int
    """Reads over links that are not in the table; they are left out of the mean."""
    requests_per_s: float
    """Of this replay alone."""

    def to_json(self) -> dict[str, object]:
        return {key: f"{v:f}" if isinstance(v, Decimal) else v for key, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Result:
    """All outcomes of one simulation."""

    trace: str
    regions: tuple[str, ...]
    assignment: str
    time_scale: float
    requests: int
    objects: int
    days: float
    """Of scaled time."""
    optimum_usd: float
    bound_usd: float
    optimum_fixed_usd: float
    """The part of the optimum that no TTL changes."""
    outcomes: tuple[Outcome, ...]

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "outcomes": [outcome.to_json() for outcome in self.outcomes]}


def parse_spec(text: str) -> BucketPolicy:
    """A policy as ``--policy`` takes it: ``TTL`` (writes local), ``PLACEMENT`` or ``PLACEMENT/TTL``.

    A placement alone has no replicas on read: ``single`` is one region, ``all`` is replicate everywhere.
    """
    first, _, ttl = text.strip().partition("/")
    if first.partition(":")[0] in set(Placement):
        return parse_policy({"placement": first, "ttl": ttl or "none"})
    if ttl:
        raise ConfigError(f"--policy {text}: takes TTL, PLACEMENT or PLACEMENT/TTL, such as local/adaptive")
    return parse_policy({"placement": "local", "ttl": first})


def simulate(
    rows: Iterable[Row],
    world: World,
    specs: Sequence[str],
    assigner: Assigner,
    *,
    trace: str = "",
    progress: Callable[[int], None] = lambda requests: None,
) -> Result:
    """Replay ``rows`` once, through every policy side by side. ``progress`` is told of each batch."""
    replays = [Replay(parse_spec(spec), world, assigner.birth_region) for spec in specs]
    for replay in replays:
        check_regions(replay.policy, world.regions)
    yardstick = Yardstick(world, assigner.birth_region)
    seconds = [0.0] * len(replays)
    requests = young = 0
    with collecting_the_young_alone() as collect:
        for batch in assigner.place(rows):
            for i, replay in enumerate(replays):
                began = time.process_time()
                replay.feed(batch)
                seconds[i] += time.process_time() - began
            yardstick.feed(batch)
            requests, young = requests + len(batch), young + len(batch)
            if young > YOUNG:
                young = 0
                collect()
            progress(len(batch))
    days, yardsticks = yardstick.now_s / 86_400, yardstick.finish()
    outcomes = tuple(
        _outcome(spec, replay.finish(), world, yardsticks, requests / spent if spent else 0.0)
        for spec, replay, spent in zip(specs, replays, seconds, strict=True)
    )
    return Result(
        trace=trace,
        regions=world.regions,
        assignment=assigner.assignment.value if assigner.assignment and assigner.drawn else "as recorded",
        time_scale=assigner.time_scale,
        requests=requests,
        objects=len(assigner.keys),
        days=days,
        optimum_usd=yardsticks[0],
        bound_usd=yardsticks[1],
        optimum_fixed_usd=yardstick.fixed_usd,
        outcomes=outcomes,
    )


@contextmanager
def collecting_the_young_alone() -> Iterator[Callable[[], None]]:
    """Keep Python's collector of reference cycles from walking over millions of live objects again and again.

    A replay makes no cycles: what ends is freed by its reference count. Whatever else runs in the process (a progress
    bar) may make some, so what was made since the last look is looked at, once, and then set aside.
    """
    enabled = gc.isenabled()
    gc.disable()

    def collect() -> None:
        gc.collect(0)
        gc.freeze()

    try:
        gc.freeze()
        yield collect
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _outcome(spec: str, meter: Meter, world: World, yardsticks: tuple[float, float], speed: float) -> Outcome:
    storage, egress, requests = _bill(meter, world)
    total = storage + egress + requests
    reads = meter.hits + meter.local + meter.misses
    remote = meter.hits + meter.misses
    mean_ms, unknown = _latency(meter, world)
    over = [float(total) / usd if usd else 1.0 for usd in yardsticks]
    return Outcome(
        policy=spec,
        storage_usd=to_decimal(storage),
        egress_usd=to_decimal(egress),
        requests_usd=to_decimal(requests),
        total_usd=to_decimal(total),
        over_optimum=over[0],
        over_bound=over[1],
        reads=reads,
        local_share=(meter.hits + meter.local) / reads if reads else 1.0,
        hit_share=meter.hits / remote if remote else 1.0,
        mean_read_ms=mean_ms,
        unknown_links=unknown,
        requests_per_s=speed,
    )


def _bill(meter: Meter, world: World) -> tuple[Fraction, Fraction, Fraction]:
    """Storage, egress and requests in USD, by the ledger's own pricing."""
    storage = egress = requests = Fraction(0)

    def usd(region: str, kind: Kind, count: int = 0, amount: int = 0, dst: str = "") -> Fraction:
        return usd_of(EntryKey(0, "", region, kind, dst), Count(count, amount), world.prices)

    for i, region in enumerate(world.regions):
        storage += usd(region, Kind.STORAGE, 0, round(meter.byte_s[i] * 1000))
        requests += usd(region, Kind.PUT, meter.puts[i]) + usd(region, Kind.GET, meter.gets[i])
        for j, reader in enumerate(world.regions):
            if moved := meter.egress_bytes[i][j]:
                egress += usd(region, Kind.EGRESS, 0, moved, reader)
    return storage, egress, requests


def _latency(meter: Meter, world: World) -> tuple[float, int]:
    """Mean estimated time of a read in ms, and the number of reads over unknown links."""
    total, known, unknown = 0.0, 0, 0
    for i, src in enumerate(world.regions):
        for j, dst in enumerate(world.regions):
            count = meter.reads[i][j]
            link = world.links.link(src, dst)
            if link is None:
                unknown += count
            elif count:
                known += count
                total += count * link.read_ms(meter.read_bytes[i][j] // count)
    return (total / known if known else 0.0), unknown
