"""Which replicas are no longer wanted. Owns the rule that the last one never goes; removes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from gsfs.policy.decide import ReplicaFacts
from gsfs.policy.ledger import Count, EntryKey, Kind, usd_of
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


def early_delete_ms(created_s: float, now_s: float, min_age_s: int) -> int:
    """For how long an object that is deleted now is billed all the same."""
    return max(0, round(created_s * 1000) + min_age_s * 1000 - round(now_s * 1000))


def early_delete_usd(replica: ReplicaFacts, size_bytes: int, now_s: float, prices: PriceTable) -> Fraction:
    """What deleting it now still costs: storage for the rest of the region's minimum age, in USD, as the ledger has it."""
    left_ms = early_delete_ms(replica.created_s, now_s, prices.min_age_s(replica.region))
    key = EntryKey(0, "", replica.region, Kind.EARLY_DELETE)
    return usd_of(key, Count(0, size_bytes * left_ms), prices)
