"""Whether an object that is mostly dead is worth writing anew. Owns the sum; copies nothing."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from gsfs.policy.decide import ReplicaFacts
from gsfs.policy.expiry import early_delete_usd
from gsfs.policy.ledger import Count, EntryKey, Kind, usd_of
from gsfs.policy.prices import SECONDS_PER_MONTH, PriceTable

PAYBACK_MONTHS = 3
"""What the dead bytes would cost in this time pays for the copy, or there is none."""


def pays_off(
    size_bytes: int,
    live_bytes: int,
    replicas: Sequence[ReplicaFacts],
    via: str,
    prices: PriceTable,
    now_s: float,
) -> bool:
    """Whether the live bytes, sent again to where the object is for good, cost less than the dead ones saved.

    ``via``: region of the machine that has the bytes; empty: outside of every region. What the object is still billed
    for after its deletion (a minimum age) is part of the cost; replicas that expire go by themselves.
    """

    def usd(region: str, kind: Kind, requests: int, amount: int, dst: str = "") -> Fraction:
        return usd_of(EntryKey(0, "", region, kind, dst), Count(requests, amount), prices)

    cost = saved = Fraction(0)
    for replica in replicas:
        cost += early_delete_usd(replica, size_bytes, now_s, prices)
        if not replica.permanent:
            continue
        cost += usd(replica.region, Kind.PUT, 1, 0)
        if via:
            cost += usd(via, Kind.EGRESS, 0, live_bytes, replica.region)
        byte_ms = (size_bytes - live_bytes) * PAYBACK_MONTHS * SECONDS_PER_MONTH * 1000
        saved += usd(replica.region, Kind.STORAGE, 0, byte_ms)
    return cost <= saved
