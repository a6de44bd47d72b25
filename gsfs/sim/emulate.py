"""Emulated locations under a virtual clock. Owns what a location would count; decides nothing and bills nothing.

It is the other side of the ledger: the driver decides with the functions of ``gsfs.policy`` and writes the ledger,
the locations count for themselves, and both must come to the same sum.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from gsfs.errors import ObjectExists, ObjectNotFound
from gsfs.policy.bucket import BucketPolicy
from gsfs.policy.decide import Edges, ReadDecision, ReplicaFacts, decide_read, new_memory
from gsfs.policy.expiry import expired, paid_until_s
from gsfs.policy.ledger import Kind, Ledger
from gsfs.policy.placement import decide_write
from gsfs.policy.ttl import RegionMemory, Trail
from gsfs.sim.world import World


@dataclass(slots=True)
class EmulatedLocation:
    """One location: keys with sizes, and counters. Times in ms of the virtual clock."""

    region: str
    objects: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Size and time of the PUT, by key."""
    puts: int = 0
    gets: int = 0
    deletes: int = 0
    bytes_in: int = 0
    sent_bytes: dict[str, int] = field(default_factory=dict)
    """By region of the receiver."""
    byte_ms: int = 0
    """Of objects that are gone; ``settled_byte_ms`` adds those still there."""

    def put(self, key: int, size_bytes: int, now_ms: int) -> None:
        """Raises ObjectExists: keys are never reused."""
        if key in self.objects:
            raise ObjectExists(f"{self.region}: object {key}")
        self.objects[key] = (size_bytes, now_ms)
        self.puts += 1
        self.bytes_in += size_bytes

    def get(self, key: int, receiver: str) -> int:
        """The size sent. Raises ObjectNotFound."""
        if key not in self.objects:
            raise ObjectNotFound(f"{self.region}: object {key}")
        size = self.objects[key][0]
        self.gets += 1
        self.sent_bytes[receiver] = self.sent_bytes.get(receiver, 0) + size
        return size

    def delete(self, key: int, now_ms: int) -> None:
        """Raises ObjectNotFound."""
        if key not in self.objects:
            raise ObjectNotFound(f"{self.region}: object {key}")
        size, since = self.objects.pop(key)
        self.deletes += 1
        self.byte_ms += size * (now_ms - since)

    def settled_byte_ms(self, now_ms: int) -> int:
        """Byte-milliseconds stored from the beginning until now."""
        return self.byte_ms + sum(size * (now_ms - since) for size, since in self.objects.values())


@dataclass(slots=True)
class EmulatedBucket:
    """A bucket over emulated locations: what the mount does, without files. ``now_ms`` only moves forward."""

    policy: BucketPolicy
    world: World
    name: str = "bucket"
    now_ms: int = 0
    locations: dict[str, EmulatedLocation] = field(init=False)
    replicas: dict[int, dict[str, ReplicaFacts]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    trails: dict[tuple[int, str], Trail] = field(default_factory=dict)
    memories: dict[str, RegionMemory] = field(init=False)
    """By region of the reader."""
    ledger: Ledger = field(default_factory=Ledger)
    edges: Edges = field(init=False)
    due: list[tuple[float, int]] = field(default_factory=list)
    """Heap of times in s at which an object may have an expired replica."""

    def __post_init__(self) -> None:
        self.locations = {region: EmulatedLocation(region) for region in self.world.regions}
        self.edges = Edges(self.world.prices)
        names, prices = self.world.regions, self.world.prices
        self.memories = {region: new_memory(region, names, prices) for region in names}

    def advance(self, now_ms: int) -> None:
        """Let time pass; replicas expire at their own moments on the way."""
        while self.due and self.due[0][0] * 1000 < now_ms:
            at_s, key = heapq.heappop(self.due)
            self.now_ms = max(self.now_ms, int(at_s * 1000) + 1)
            self._expire(key)
        self.now_ms = max(self.now_ms, now_ms)

    def write(self, key: int, size_bytes: int, writer: str) -> None:
        """A new object; an old one under the same key must be removed first."""
        decision = decide_write(self.policy, writer, self.world.regions, self.world.prices)
        self.sizes[key] = size_bytes
        self.replicas[key] = {}
        for region in decision.permanent:
            self.ledger.egress(self.now_ms / 1000, self.name, writer, region, size_bytes)
            if writer != region:
                sent = self.locations[writer].sent_bytes
                sent[region] = sent.get(region, 0) + size_bytes
            self._store(key, region, ReplicaFacts(region, True, created_s=self.now_ms / 1000))

    def read(self, key: int, reader: str) -> ReadDecision:
        """Read a whole object in a region. Raises ObjectNotFound."""
        if key not in self.replicas:
            raise ObjectNotFound(f"{self.name}: object {key}")
        now_s, size, have = self.now_ms / 1000, self.sizes[key], self.replicas[key]
        order = tuple(self.world.regions[i] for i in self.world.order[self.world.regions.index(reader)])
        decision = decide_read(
            self.policy,
            reader,
            now_s,
            size,
            tuple(have.values()),
            order=order,
            edges=self.edges,
            trail=self.trails.setdefault((key, reader), Trail()),
            memory=self.memories[reader],
        )
        assert decision is not None
        self.locations[decision.source].get(key, reader)
        self.ledger.request(now_s, self.name, decision.source, Kind.GET, size_bytes=size, reader=reader)
        self._keep(key, reader, decision)
        return decision

    def _keep(self, key: int, reader: str, decision: ReadDecision) -> None:
        """Make, renew or leave the reader's replica as decided."""
        have = self.replicas[key].get(reader)
        if have is not None and have.permanent:
            return
        created_s = have.created_s if have else self.now_ms / 1000
        facts = ReplicaFacts(reader, False, decision.expires_s, created_s)
        if have is not None:
            self.replicas[key][reader] = facts
        elif decision.replicate:
            self._store(key, reader, facts)
        else:
            return
        heapq.heappush(self.due, (paid_until_s(facts, self.world.prices), key))

    def _store(self, key: int, region: str, facts: ReplicaFacts) -> None:
        self.locations[region].put(key, self.sizes[key], self.now_ms)
        self.ledger.request(self.now_ms / 1000, self.name, region, Kind.PUT, size_bytes=self.sizes[key])
        self.replicas[key][region] = facts

    def _expire(self, key: int) -> None:
        for replica in expired(
            tuple(self.replicas.get(key, {}).values()), self.now_ms / 1000, self.world.prices
        ):
            self._drop(key, replica.region)

    def remove(self, key: int) -> None:
        """Delete the object everywhere."""
        for region in list(self.replicas.get(key, {})):
            self._drop(key, region)
        self.replicas.pop(key, None)

    def _drop(self, key: int, region: str) -> None:
        size, since_ms = self.locations[region].objects[key]
        self.locations[region].delete(key, self.now_ms)
        self.ledger.request(self.now_ms / 1000, self.name, region, Kind.DELETE)
        self.ledger.stored(self.name, region, size, since_ms, self.now_ms)
        del self.replicas[key][region]

    def close_books(self) -> Ledger:
        """The ledger with everything stored until now. To be called once, at the end."""
        for region, location in self.locations.items():
            for size, since_ms in location.objects.values():
                self.ledger.stored(self.name, region, size, since_ms, self.now_ms)
        return self.ledger
