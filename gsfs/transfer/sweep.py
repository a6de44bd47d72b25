"""Sweeping a location on demand: objects of this namespace that it does not know. Owns the comparison.

An upload that was given up may still land after its key was deleted; nothing but a listing can find that.
Listings cost money, so nothing else ever lists; ``gsfs gc --sweep`` does.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from gsfs.backends.location import Location
from gsfs.namespace.store import Store

KEY = re.compile(r"[0-9a-f]{2}/([0-9a-f]{12,})-([0-9a-f]+)")
AGE_MIN_S = 3600.0
"""Younger objects may belong to an upload under way."""
BATCH = 1000


@dataclass(slots=True)
class Swept:
    """What one sweep found."""

    looked_at: int = 0
    removed: int = 0
    removed_bytes: int = 0


async def sweep(store: Store, location: Location, age_min_s: float = AGE_MIN_S) -> Swept:
    """Remove objects under the namespace's prefix that no row names and that are old enough. Raises BackendError."""
    prefix, report, strays = f"{store.namespace_id}/", Swept(), []
    oldest_ns = time.time_ns() - int(age_min_s * 1e9)
    async for info in location.list(prefix):
        report.looked_at += 1
        match = KEY.fullmatch(info.key[len(prefix) :])
        if match is None or info.mtime_ns > oldest_ns or _is_known(store, location, match):
            continue
        strays.append(info.key)
        report.removed_bytes += info.size_bytes
        if len(strays) == BATCH:
            await location.delete_many(strays)
            report.removed += len(strays)
            strays.clear()
    await location.delete_many(strays)
    report.removed += len(strays)
    return report


def _is_known(store: Store, location: Location, match: re.Match[str]) -> bool:
    """Whether a row names this very key, or could still come to: numbers not handed out yet are left alone."""
    id_, epoch = int(match[1], 16), int(match[2], 16)
    object_ = store.objects.get(id_)
    if object_ is None:
        return epoch > store.epoch
    return object_.epoch == epoch and store.objects.replica(id_, location.id) is not None
