"""Which replicas are no longer wanted. Owns the rule that the last one never goes; removes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

from gsfs.policy.decide import ReplicaFacts
from gsfs.policy.prices import PriceTable


def paid_until_s(replica: ReplicaFacts, prices: PriceTable) -> float:
    """When it stops being wanted: its expiry, or the end of the minimum age for which it is billed anyway."""
    return max(replica.expires_s, replica.created_s + prices.min_age_s(replica.region))


def expired(replicas: Sequence[ReplicaFacts], now_s: float, prices: PriceTable) -> list[ReplicaFacts]:
    """The replicas of one object to remove at ``now_s``; never all of them.

    Permanent and pinned ones stay. If every replica has expired, the one that was to stay longest stays: the last
    available replica of a live object is never removed.
    """
    due = [r for r in replicas if not r.permanent and not r.pinned and paid_until_s(r, prices) < now_s]
    if len(due) == len(replicas) and due:
        due.remove(max(due, key=lambda r: (r.expires_s, r.region)))
    return due


def early_delete_usd(replica: ReplicaFacts, size_bytes: int, now_s: float, prices: PriceTable) -> float:
    """What deleting it now still costs: storage for the rest of the region's minimum age, in USD."""
    tariff = prices.tariff(replica.region)
    left_s = max(0.0, replica.created_s + tariff.min_age_s - now_s)
    return left_s * tariff.storage_usd_per_byte_s * size_bytes
