"""The policy engine's user in the mount: gathers the facts, asks ``policy``, remembers what it must.

Owns no rule. Without a region of its own (``mount.region``) a mount keeps every object at its bucket's home.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction

from cachetools import LRUCache, TTLCache

from gsfs.backends.health import HealthState
from gsfs.backends.location import Location
from gsfs.errors import QuotaExceeded
from gsfs.model import MIB, Ino, LocationId, ObjectId
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.objects import PhysicalObject, Replica
from gsfs.namespace.policies import LedgerRow
from gsfs.namespace.replicas import COMING, READABLE
from gsfs.namespace.store import Store
from gsfs.policy.bucket import BucketPolicy, parse_policy
from gsfs.policy.compaction import pays_off
from gsfs.policy.decide import Edges, ReadDecision, ReplicaFacts, decide_read, new_memory
from gsfs.policy.ledger import By, Count, EntryKey, Kind, summarise, to_decimal
from gsfs.policy.limits import Verdict, judge_budget
from gsfs.policy.links import shipped_links
from gsfs.policy.placement import (
    Promise,
    WriteDecision,
    choose_source,
    decide_write,
    kept,
    source_order,
)
from gsfs.policy.prices import SECONDS_PER_MONTH, PriceTable
from gsfs.policy.ttl import RegionMemory, Trail

log = logging.getLogger(__name__)

READ_WINDOW_S = 30.0
"""Blocks of one object fetched within this time are one read to the policies."""
BUDGET_LOOK_S = 10.0
REFUSED_S = 60.0
"""How often the log says that a bucket's budget refuses reads."""
MONTH_HOURS = SECONDS_PER_MONTH // 3600


class Steward:
    """One for each mount."""

    def __init__(
        self,
        store: Store,
        locations: dict[LocationId, Location],
        region: str,
        prices: PriceTable | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self._store = store
        self._locations = locations
        self.region = region
        self.prices = prices
        self.edges = Edges(prices) if prices is not None else None
        self.regions: tuple[str, ...] = ()
        self.order: tuple[str, ...] = ()
        self.locations_changed()
        self._policies: dict[tuple[str, str], BucketPolicy] = {}
        self._memories: dict[int, RegionMemory] = {}
        self._changed_memories: set[int] = set()
        self._recent: TTLCache[ObjectId, bool] = TTLCache(65_536, READ_WINDOW_S, timer=clock)
        self._spent: TTLCache[None, dict[str, Decimal]] = TTLCache(1, BUDGET_LOOK_S, timer=clock)
        self._refused: TTLCache[int, bool] = TTLCache(1024, REFUSED_S, timer=clock)
        self._past: tuple[int, int, dict[str, Fraction]] = (0, 0, {})
        """First hour, end, and what each bucket cost between them."""
        self._warned: LRUCache[int, tuple[int, Decimal]] = LRUCache(1024)
        self.heir = next(iter(locations))
        """The location for what a removed bucket has left."""
        self.pinned: Set[ObjectId] = frozenset()
        """Objects whose replicas are never dropped (``transfer.keeper`` owns the set)."""
        store.before_commit.append(self._write)

    def locations_changed(self) -> None:
        """A location came: it has its place in the order of sources. Raises ConfigError without its prices."""
        regions = tuple(self._locations)
        if self.prices is not None:
            self.prices.require({*regions, *filter(None, [self.region])})
        self.regions = self.order = regions
        if self.region and self.prices is not None:
            self.order = source_order(self.region, regions, self.prices, shipped_links())

    # --- facts

    def policy(self, bucket: Bucket) -> BucketPolicy:
        """The bucket's policy, parsed once for each text."""
        key = (bucket.policy, bucket.home)
        found = self._policies.get(key)
        if found is None:
            settings = {**json.loads(bucket.policy or "{}"), "home": str(bucket.home)}
            found = self._policies[key] = parse_policy(settings)
        return found

    def facts(self, replicas: Sequence[Replica], *, coming: bool = False) -> list[ReplicaFacts]:
        """Readable replicas at locations, as the policies see them; ``coming``: those on their way there, too."""
        states = READABLE | COMING if coming else READABLE
        return [
            ReplicaFacts(
                r.location,
                permanent=r.expires_ns is None,
                expires_s=(r.expires_ns or 0) / 1e9,
                # what is not ours is never deleted there, and what is not there yet is no younger than it
                created_s=r.since_ns / 1e9 if r.owned and r.state in READABLE else 0.0,
                pinned=r.object in self.pinned,
            )
            for r in replicas
            if r.state in states and r.location in self._locations
        ]

    def memory(self, bucket: int) -> RegionMemory:
        """What the bucket remembers of reads in this mount's region."""
        found = self._memories.get(bucket)
        if found is None:
            assert self.prices is not None
            state = self._store.policies.memory(bucket, self.region)
            found = (
                RegionMemory.from_bytes(state)
                if state
                else new_memory(self.region, self.regions, self.prices)
            )
            self._memories[bucket] = found
        return found

    def longest_t_even_s(self, size_bytes: int) -> float:
        """Of an object of that size, from whichever location it might be fetched."""
        assert self.edges is not None
        edges = [self.edges.edge(src, self.region) for src in self.regions if src != self.region]
        return max((edge.t_even_s(size_bytes) for edge in edges), default=0.0)

    def forget_bucket(self, bucket: int) -> None:
        """It was removed: nothing of it is written any more."""
        self._memories.pop(bucket, None)
        self._changed_memories.discard(bucket)

    def trail(self, object_: ObjectId) -> Trail:
        state = self._store.policies.trail(object_, self.region)
        return Trail(**json.loads(state)) if state else Trail()

    def _broken(self) -> set[str]:
        return {id_ for id_, location in self._locations.items() if location.health.state is HealthState.DOWN}

    # --- decisions

    def targets(self, bucket_ino: Ino) -> list[LocationId]:
        """Locations at which a new object of the bucket is placed for good; at least as many as it promises.

        Files may have left a bucket that was removed before their bytes were uploaded: they go to ``heir``.
        """
        bucket = self._store.buckets.get(bucket_ino)
        if bucket is None:
            decision = WriteDecision(str(self.heir), (), "its bucket was removed")
            return [LocationId(id_) for id_ in kept(decision, self._promise(1)).permanent]
        return [LocationId(id_) for id_ in self.placed(bucket).permanent]

    def promise(self, bucket: Bucket) -> Promise:
        """What holds for the bucket's objects whatever its placement is."""
        return self._promise(bucket.copies)

    def _promise(self, copies: int) -> Promise:
        return Promise(copies, frozenset(map(str, self._store.locations.draining())), self.order)

    def placed(
        self, bucket: Bucket, policy: BucketPolicy | None = None, size_bytes: int = 16 * MIB
    ) -> WriteDecision:
        """Where an object of the bucket belongs; ``policy``: other than the bucket's own."""
        policy, promise = policy or self.policy(bucket), self.promise(bucket)
        if self.prices is None or not self.region:
            home = policy.home or str(bucket.home)
            return kept(WriteDecision(home, (), f"no [mount] region: home is {home}"), promise)
        return decide_write(
            policy, self.region, self.regions, self.prices,
            reads_per_month=self.reads_per_month(bucket), size_bytes=size_bytes, promise=promise,
        )  # fmt: skip

    def reads_per_month(self, bucket: Bucket) -> dict[str, float]:
        """Reads of one object of the bucket per month by region, from the ledger's last month.

        Reads that crossed no border count as well: else a bucket that lives beside its reader would seem unread.
        """
        now_hour = int(self.clock() // 3600)
        read_bytes = sum(
            row.amount
            for row in self._store.policies.lines(now_hour - MONTH_HOURS)
            if row.bucket == str(bucket.ino) and row.kind == Kind.GET
        )
        return {self.region: read_bytes / max(bucket.used_bytes, 1)} if read_bytes else {}

    def rank(self, _object: PhysicalObject, replicas: Sequence[Replica]) -> list[Replica]:
        """Replicas in the order in which a read tries them: free and local, cheapest, fastest; broken ones last."""
        broken, place = self._broken(), {id_: at for at, id_ in enumerate(self.order)}
        return sorted(replicas, key=lambda r: (r.location in broken, place.get(r.location, len(place))))

    def hedges_to(self, location: LocationId, when: str) -> bool:
        """Whether a read may ask this location besides another that is slow; ``when``: [mount] hedge_reads."""
        if when != "free":
            return when == "always"
        if self.prices is None or not self.region:
            return False
        return not self.prices.egress_usd_per_gib(location, self.region)

    def worth_compacting(self, object_: PhysicalObject) -> bool:
        """Whether giving up the object's dead bytes costs less than keeping them; without prices it always does."""
        if self.prices is None:
            return True
        facts = self.facts(self._store.objects.replicas(object_.id))
        return pays_off(object_.size, object_.live, facts, self.region, self.prices, self.clock())

    def troubled(self, bucket_ino: Ino) -> bool:
        """Whether the bucket's home is down."""
        bucket = self._store.buckets.get(bucket_ino)
        home = self._locations.get(bucket.home) if bucket is not None else None
        return home is not None and home.health.state is HealthState.DOWN

    def on_read(self, object_: PhysicalObject, replicas: Sequence[Replica]) -> ReadDecision | None:
        """A read of the object that the cache cannot serve. Raises QuotaExceeded when a budget forbids it.

        The decision says whether a replica is wanted in this region; None: nothing to decide.
        """
        bucket = self._store.buckets.get(object_.bucket)
        if self.edges is None or not self.region or bucket is None or object_.id in self._recent:
            return None
        policy, now_s, facts, broken = self.policy(bucket), self.clock(), self.facts(replicas), self._broken()
        source = choose_source(self.order, {fact.region for fact in facts}, broken)
        if source is None:
            return None
        edge = self.edges.edge(source, self.region)
        read_usd = edge.egress_usd_per_byte * object_.size + edge.get_usd
        self._judge(bucket, policy, source, Decimal(read_usd))  # before the rules learn of it
        self._recent[object_.id] = True
        trail, memory = self.trail(object_.id), self.memory(object_.bucket)
        decision = decide_read(
            policy, self.region, now_s, object_.size, facts,
            order=self.order, edges=self.edges, trail=trail, memory=memory, broken=broken,
        )  # fmt: skip
        if decision is None:
            return None
        self._store.policies.set_trail(object_.id, self.region, json.dumps(asdict(trail)))
        self._changed_memories.add(object_.bucket)
        self._store.changed()
        return decision

    def _judge(self, bucket: Bucket, policy: BucketPolicy, source: str, read_usd: Decimal) -> None:
        """Warn once a month, or refuse, when the bucket's budget is (nearly) spent."""
        if policy.budget_usd_per_month is None:
            return
        leaves = source != self.region
        judgement = judge_budget(self._name(bucket), policy, self._nearly_spent_usd(bucket), leaves, read_usd)
        if judgement.verdict is Verdict.REFUSE:
            if bucket.ino not in self._refused:  # the kernel asks again and again
                self._refused[bucket.ino] = True
                log.warning("%s", judgement.message)
            raise QuotaExceeded(judgement.message)
        if leaves:
            self._known_spent()[str(bucket.ino)] = self._nearly_spent_usd(bucket) + read_usd
        if judgement.verdict is Verdict.WARN:
            occasion = (self._month_began(), policy.budget_usd_per_month)
            if self._warned.get(bucket.ino) != occasion:
                self._warned[bucket.ino] = occasion
                log.warning("%s", judgement.message)

    def _name(self, bucket: Bucket) -> str:
        name = self._store.entries.name_of(1, bucket.ino)
        return name.decode(errors="replace") if name else str(bucket.ino)

    def _month_began(self) -> int:
        """The first hour of the month, in UTC."""
        now_s = self.clock()
        now = time.gmtime(now_s)
        return int(now_s // 3600) - (now.tm_mday - 1) * 24 - now.tm_hour

    def spent_usd(self) -> dict[str, Decimal]:
        """What each bucket (by its inode's number) has cost since the month began, by the written ledger."""
        since, now_hour = self._month_began(), int(self.clock() // 3600)
        until = max(since, now_hour - 1)  # hours before that change no more
        if self._past[:2] != (since, until):
            past = [row for row in self._store.policies.lines(since) if row.hour < until]
            self._past = (since, until, self._by_bucket(past))
        sums = dict(self._past[2])
        for bucket, usd in self._by_bucket(self._store.policies.lines(until)).items():
            sums[bucket] = sums.get(bucket, Fraction(0)) + usd
        return {bucket: to_decimal(usd) for bucket, usd in sums.items()}

    def _known_spent(self) -> dict[str, Decimal]:
        """The same as of some seconds ago, and the reads admitted since."""
        known: dict[str, Decimal] | None = self._spent.get(None)
        if known is None:
            known = self._spent[None] = self.spent_usd()
        return known

    def _nearly_spent_usd(self, bucket: Bucket) -> Decimal:
        return self._known_spent().get(str(bucket.ino), Decimal(0))

    def _by_bucket(self, rows: Iterable[LedgerRow]) -> dict[str, Fraction]:
        """USD of each bucket's ledger lines."""
        assert self.prices is not None
        lines = (
            (EntryKey(r.hour, r.bucket, r.location, Kind(r.kind), r.dst), Count(r.requests, r.amount))
            for r in rows
        )
        by_bucket = summarise(lines, self.prices, By.BUCKET)
        return {bucket: sum(parts.values(), Fraction(0)) for bucket, parts in by_bucket.items()}

    def _write(self) -> None:
        """Memories that have learned something; part of each commit."""
        for bucket in self._changed_memories:
            self._store.policies.set_memory(bucket, self.region, self._memories[bucket].to_bytes())
        self._changed_memories.clear()
