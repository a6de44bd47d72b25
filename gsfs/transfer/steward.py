"""The policy engine's user in the mount: gathers the facts, asks ``policy``, remembers what it must.

Owns no rule. Without a region of its own (``mount.region``) a mount keeps every object at its bucket's home.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction

from cachetools import LRUCache, TTLCache

from gsfs.backends.health import HealthState
from gsfs.backends.location import Location
from gsfs.errors import QuotaExceeded
from gsfs.model import Ino, LocationId, ObjectId
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.objects import PhysicalObject, Replica
from gsfs.namespace.replicas import READABLE
from gsfs.namespace.store import Store
from gsfs.policy.bucket import BucketPolicy, parse_policy
from gsfs.policy.decide import Edges, ReadDecision, ReplicaFacts, decide_read, new_memory
from gsfs.policy.ledger import By, Count, EntryKey, Kind, summarise, to_decimal
from gsfs.policy.limits import Verdict, judge_budget
from gsfs.policy.links import shipped_links
from gsfs.policy.placement import decide_write, source_order
from gsfs.policy.prices import SECONDS_PER_MONTH, PriceTable
from gsfs.policy.ttl import RegionMemory, Trail

log = logging.getLogger(__name__)

READ_WINDOW_S = 30.0
"""Blocks of one object fetched within this time are one read to the policies."""
BUDGET_LOOK_S = 10.0
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
        self._warned: LRUCache[int, bool] = LRUCache(1024)
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

    def facts(self, replicas: Sequence[Replica]) -> list[ReplicaFacts]:
        """Readable replicas at locations, as the policies see them."""
        return [
            ReplicaFacts(
                r.location,
                permanent=r.expires_ns is None,
                expires_s=(r.expires_ns or 0) / 1e9,
                created_s=r.since_ns / 1e9,
                pinned=r.object in self.pinned,
            )
            for r in replicas
            if r.state in READABLE and r.location in self._locations
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
        """Locations at which a new object of the bucket is placed for good; at least as many as it promises."""
        bucket = self._store.buckets.get(bucket_ino)
        if bucket is None:
            return []
        wanted = [str(bucket.home)]
        if self.prices is not None and self.region:
            policy, reads = self.policy(bucket), self.reads_per_month(bucket)
            wanted = list(
                decide_write(policy, self.region, self.regions, self.prices, reads_per_month=reads).permanent
            )
        draining = self._store.locations.draining()
        more = [id_ for id_ in self.order if id_ not in wanted and id_ not in draining]
        if draining:
            wanted = [id_ for id_ in wanted if id_ not in draining] or more[:1] or wanted
            more = [id_ for id_ in more if id_ not in wanted]
        return [LocationId(id_) for id_ in wanted + more[: max(0, bucket.copies - len(wanted))]]

    def reads_per_month(self, bucket: Bucket) -> dict[str, float]:
        """Reads of one object of the bucket per month by region, from the ledger's last month."""
        now_hour = int(self.clock() // 3600)
        lines = [r for r in self._store.policies.lines(now_hour - MONTH_HOURS) if r.bucket == str(bucket.ino)]
        stored = max(bucket.used_bytes, 1)
        reads: dict[str, float] = {}
        for row in lines:
            if row.kind == Kind.EGRESS and row.dst == self.region:
                reads[row.dst] = reads.get(row.dst, 0.0) + row.amount / stored
        return reads

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
        self._recent[object_.id] = True
        policy, now_s = self.policy(bucket), self.clock()
        trail, memory = self.trail(object_.id), self.memory(object_.bucket)
        decision = decide_read(
            policy, self.region, now_s, object_.size, self.facts(replicas),
            order=self.order, edges=self.edges, trail=trail, memory=memory, broken=self._broken(),
        )  # fmt: skip
        if decision is None:
            return None
        self._judge(bucket, policy, decision)
        self._store.policies.set_trail(object_.id, self.region, json.dumps(asdict(trail)))
        self._changed_memories.add(object_.bucket)
        self._store.changed()
        return decision

    def _judge(self, bucket: Bucket, policy: BucketPolicy, decision: ReadDecision) -> None:
        """Warn once, or refuse, when the bucket's budget is (nearly) spent."""
        if policy.budget_usd_per_month is None:
            return
        leaves = decision.source != self.region
        name = self._name(bucket)
        judgement = judge_budget(name, policy, self.spent_usd(bucket), leaves, Decimal(decision.read_usd))
        if judgement.verdict is Verdict.REFUSE:
            self._recent.clear()
            log.warning("%s", judgement.message)
            raise QuotaExceeded(judgement.message)
        if judgement.verdict is Verdict.WARN and bucket.ino not in self._warned:
            self._warned[bucket.ino] = True
            log.warning("%s", judgement.message)

    def _name(self, bucket: Bucket) -> str:
        name = self._store.entries.name_of(1, bucket.ino)
        return name.decode(errors="replace") if name else str(bucket.ino)

    def spent_usd(self, bucket: Bucket) -> Decimal:
        """What the bucket has cost since the month began."""
        known: dict[str, Decimal] | None = self._spent.get(None)
        if known is None:
            now_s = self.clock()
            now = time.gmtime(now_s)
            month_began = int(now_s // 3600) - (now.tm_mday - 1) * 24 - now.tm_hour
            known = self._spent[None] = self.costs(month_began)
        return known.get(str(bucket.ino), Decimal(0))

    def costs(self, since_hour: int) -> dict[str, Decimal]:
        """USD of each bucket's ledger lines; every bucket costs the same one query."""
        assert self.prices is not None
        rows = self._store.policies.lines(since_hour)
        lines = (
            (EntryKey(r.hour, r.bucket, r.location, Kind(r.kind), r.dst), Count(r.requests, r.amount))
            for r in rows
        )
        by_bucket = summarise(lines, self.prices, By.BUCKET)
        return {bucket: to_decimal(sum(parts.values(), Fraction(0))) for bucket, parts in by_bucket.items()}

    def _write(self) -> None:
        """Memories that have learned something; part of each commit."""
        for bucket in self._changed_memories:
            self._store.policies.set_memory(bucket, self.region, self._memories[bucket].to_bytes())
        self._changed_memories.clear()
