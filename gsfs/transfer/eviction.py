"""Which local files go first when the disk must give room. Gathers the facts; the order is ``policy.eviction``'s."""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import TTLCache

from gsfs.data.cache import BLOCK, ObjectFile
from gsfs.model import ObjectId
from gsfs.namespace.objects import ObjectTable
from gsfs.policy.eviction import Cached, choose_victims
from gsfs.transfer.downloads import FETCH_BLOCKS_MAX
from gsfs.transfer.steward import Steward

RATES_KEPT = 65_536
RATES_KEPT_S = 600.0
"""Where an object can be fetched changes seldom: what it costs is looked up once in so long."""


class Eviction:
    """One for each mount that has a region, and so prices."""

    def __init__(self, objects: ObjectTable, steward: Steward) -> None:
        self._objects = objects
        self._steward = steward
        self._rates: TTLCache[ObjectId, tuple[float, float] | None] = TTLCache(
            RATES_KEPT, RATES_KEPT_S, timer=steward.clock
        )

    def order(self, candidates: Sequence[ObjectFile], need_bytes: int) -> list[ObjectFile]:
        """Those of the candidates that give ``need_bytes``, the one least worth its place first."""
        files = {file.id: file for file in candidates}
        pieces = (self._piece(file) for file in candidates)
        return [
            files[ObjectId(piece.key)] for piece in choose_victims(pieces, need_bytes, self._steward.clock())
        ]

    def _piece(self, file: ObjectFile) -> Cached:
        if file.id in self._rates:
            rate = self._rates[file.id]
        else:
            rate = self._rates[file.id] = self._rate(file.id)
        if rate is None:
            return Cached(file.id, file.bytes, file.used_s, 0.0, evictable=False)
        requests = -(-file.bytes // (FETCH_BLOCKS_MAX * BLOCK))
        return Cached(file.id, file.bytes, file.used_s, rate[0] * file.bytes + rate[1] * requests)

    def _rate(self, id_: ObjectId) -> tuple[float, float] | None:
        """USD for a byte and for a GET from where it would be fetched; None where it is nowhere else."""
        steward = self._steward
        here = {fact.region for fact in steward.facts(self._objects.replicas(id_))}
        source = next((region for region in steward.order if region in here), None)
        if source is None or steward.edges is None:
            return None
        edge = steward.edges.edge(source, steward.region)
        return edge.egress_usd_per_byte, edge.get_usd
