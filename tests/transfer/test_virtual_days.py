"""Weeks of a mount over three regions in seconds: what the simulator promises is what the mount does, to the last byte.

The same accesses go to a mounted volume (its files, cache, uploads and namespace are real; the clock is the test's) and to
the emulated locations of ``gsfs.sim``, which count for themselves.
"""

from __future__ import annotations

import random
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import pytest
import trio

from gsfs.filesystem.recording import Recorder
from gsfs.model import ReplicaState
from gsfs.policy.ledger import Count, EntryKey, Kind, to_decimal, total_usd
from gsfs.sim.assign import Assigner
from gsfs.sim.emulate import EmulatedBucket
from gsfs.sim.formats import open_trace
from gsfs.sim.requests import GET, PUT
from gsfs.sim.run import simulate
from gsfs.sim.world import make_world
from tests.support.regions import EAST, REGIONS, START_S, WEST, Regional

START_MS = int(START_S * 1000)
DAY_MS = 86_400_000
DAYS = 200
Event = tuple[int, str, int, int]
Sums = dict[tuple[str, str, str], tuple[int, int]]


def accesses(seed: int) -> list[Event]:
    """(ms, what, file, bytes): files come, are read again and again (some of them), and go."""
    chance, events = random.Random(seed), list[Event]()
    for number in range(10):
        size = chance.randrange(100_000, 1 << 20)
        at_ms = START_MS + chance.randrange(DAYS // 4) * DAY_MS + number * 60_000
        events.append((at_ms, "write", number, size))
        for _ in range(chance.choice((0, 1, 3, 9))):
            at_ms += 60_000 * int(1 + chance.lognormvariate(9, 2))
            events.append((at_ms, "read", number, size))
        if number % 4 == 0:
            events.append((at_ms + DAY_MS, "remove", number, size))
    return sorted(event for event in events if event[0] < START_MS + DAYS * DAY_MS)


class Both:
    """A mounted volume and the emulated bucket, kept at the same moment."""

    def __init__(self, home: Path, **policy: str) -> None:
        self.mounted = Regional(home, **policy)
        steward = self.mounted.volume.steward
        world = make_world(REGIONS, steward.prices)
        self.emulated = EmulatedBucket(steward.policy(self.mounted.bucket), world, now_ms=START_MS)
        self.inos: dict[int, int] = {}

    async def advance(self, now_ms: int) -> None:
        """Replicas expire on the way, at their moments, on both sides."""
        due = self.emulated.due
        while due and due[0][0] * 1000 < now_ms:
            await self._be_at(max(self.emulated.now_ms, int(due[0][0] * 1000) + 1))
        await self._be_at(now_ms)

    async def _be_at(self, now_ms: int) -> None:
        self.emulated.advance(now_ms)
        self.mounted.clock.now_s = now_ms / 1000
        volume = self.mounted.volume
        if volume.replication.expire(now_ms / 1000):
            while volume.store.objects.in_state(ReplicaState.TOMBSTONE):
                await volume.garbage.collect()

    async def play(self, events: list[Event], until_ms: int) -> None:
        """Every access at its moment, and then nothing until ``until_ms``."""
        for at_ms, what, number, size in events:
            await self.advance(at_ms)
            if what == "write":
                self.emulated.write(number, size, WEST)
                self.inos[number] = await self.mounted.write(
                    b"%d" % number, random.Random(number).randbytes(size)
                )
            elif what == "read":
                self.emulated.read(number, WEST)
                await self.mounted.forget_local()
                assert await self.mounted.read(self.inos[number]) == random.Random(number).randbytes(size)
                there = set(self.emulated.replicas[number])
                assert self.mounted.locations(self.inos[number]) == there
            else:
                self.emulated.remove(number)
                await self.remove(number)
        await self.advance(until_ms)

    async def remove(self, number: int) -> None:
        volume, [id_] = self.mounted.volume, self.mounted.objects(self.inos[number])
        volume.names.unlink(self.mounted.ino, b"%d" % number)
        while volume.store.objects.get(id_) is not None:
            await volume.committer.durable()
            await volume.garbage.collect()
            await trio.lowlevel.checkpoint()

    def ledgers(self) -> tuple[list[tuple[EntryKey, Count]], list[tuple[EntryKey, Count]]]:
        """(the mount's lines for the bucket, the emulated bucket's). Removals are free, and left out."""
        volume = self.mounted.volume
        volume.accounts.count_storage()
        volume.store.write_out()
        rows = [r for r in volume.store.policies.lines() if r.bucket == str(self.mounted.ino)]
        mine = [
            (EntryKey(r.hour, r.bucket, r.location, Kind(r.kind), r.dst), Count(r.requests, r.amount))
            for r in rows
        ]
        return mine, [
            (key, count) for key, count in self.emulated.close_books() if key.kind is not Kind.DELETE
        ]


def summed(lines: list[tuple[EntryKey, Count]]) -> Sums:
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for key, count in lines:
        both = sums[key.region, key.kind.value, key.dst]
        both[0] += count.requests
        both[1] += count.amount
    return {key: (requests, amount) for key, (requests, amount) in sums.items()}


def play(
    home: Path, events: list[Event], ttl: str, until_ms: int, trace: Path | None = None
) -> tuple[Both, Fraction]:
    """Both sides at the end, and what the mount's ledger says they cost; the two ledgers are equal."""
    both = Both(home, ttl=ttl)
    try:
        if trace is not None:
            both.mounted.volume.core.recorder = Recorder(trace, WEST, clock=both.mounted.clock)
        both.mounted.run(lambda: both.play(events, until_ms))
        mine, emulated = both.ledgers()
        assert summed(mine) == summed(emulated)
        prices = both.mounted.volume.steward.prices
        assert prices is not None
        total = total_usd(mine, prices)
        assert total == total_usd(emulated, prices)
        return both, total
    finally:
        both.mounted.close()


@pytest.mark.parametrize("ttl", ["adaptive", "forever", "none", "t_even"])
def test_the_mounts_ledger_is_what_the_emulated_locations_counted(tmp_path: Path, ttl: str) -> None:
    both, _usd = play(tmp_path, accesses(3), ttl, START_MS + DAYS * DAY_MS)
    east, west = (both.emulated.locations[region] for region in (EAST, WEST))
    for region, location in ((EAST, east), (WEST, west)):
        counted = both.mounted.volume.locations[region].counters.requests
        assert counted["put"] == location.puts
        assert counted.get("get", 0) == location.gets
    assert (west.puts == 0) == (ttl == "none")


def test_the_simulator_replays_the_mounts_own_trace_to_what_the_mount_paid(tmp_path: Path) -> None:
    """Recorded from the mount, simulated under three rules; a mount of its own has lived through each.

    Rules that learn nothing come out equal. ``adaptive`` learns in slots of time, which the simulator counts from the
    first request and the mount from the epoch: that may move a TTL by a hair.
    """
    events = [event for event in accesses(5) if event[1] != "remove"]
    paid: dict[str, Fraction] = {}
    for ttl in ("adaptive", "forever", "none"):
        home = tmp_path / ttl
        home.mkdir()
        paid[ttl] = play(home, events, ttl, events[-1][0], home / "trace")[1]
    with open_trace(tmp_path / "adaptive" / "trace") as trace:
        rows = list(trace.rows)
    assert [(row[0], row[1]) for row in rows] == [
        (at, PUT if what == "write" else GET) for at, what, *_ in events
    ]
    world = make_world(REGIONS)
    specs = [f"single/{ttl}" for ttl in paid]
    result = simulate(rows, world, specs, Assigner(REGIONS, None))
    promised = {outcome.policy.removeprefix("single/"): outcome.total_usd for outcome in result.outcomes}
    assert promised["forever"] == to_decimal(paid["forever"])
    assert promised["none"] == to_decimal(paid["none"])
    assert float(promised["adaptive"]) == pytest.approx(float(paid["adaptive"]), rel=0.002)
