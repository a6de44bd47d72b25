"""What every request and every stored byte cost. Owns counts (integers) and their exact price; stores nothing.

Counts are kept, not money: an entry is priced when it is asked for, with exact fractions, and rounded once, at the
end. So the sum of a report is the price of the sum of what the locations counted, to the last digit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from gsfs.model import GIB
from gsfs.policy.prices import SECONDS_PER_MONTH, PriceTable

HOUR_S = 3_600
FORECAST_HOURS = 7 * 24
"""What a forecast looks back at."""
FORECAST_HOURS_LEAST = 24
"""A ledger that is younger is taken for a day: its first hour is not what every hour will be like."""
DIGITS = Decimal("1e-12")
"""Reports are exact to a picodollar."""


class Kind(enum.StrEnum):
    """What is counted. LIST and HEAD are billed as PUT and GET by the price lists; DELETE is free."""

    GET = "get"
    PUT = "put"
    HEAD = "head"
    LIST = "list"
    DELETE = "delete"
    EGRESS = "egress"
    """Bytes that left a region; the entry's ``dst`` is where they went."""
    STORAGE = "storage"
    """Byte-milliseconds stored."""
    EARLY_DELETE = "early_delete"
    """Byte-milliseconds billed as storage though the bytes are gone: the rest of a minimum age."""


@dataclass(frozen=True, slots=True)
class EntryKey:
    """One line of the ledger."""

    hour: int
    """Hours since the epoch (or since the start of a virtual clock)."""
    bucket: str
    region: str
    kind: Kind
    dst: str = ""


@dataclass(slots=True)
class Count:
    """Integers only."""

    requests: int = 0
    amount: int = 0
    """Bytes; byte-milliseconds for storage."""


@dataclass(slots=True)
class Ledger:
    """Counts summed by hour. The mount writes the changed lines into the namespace and starts over."""

    lines: dict[EntryKey, Count] = field(default_factory=dict)

    def request(
        self, now_s: float, bucket: str, region: str, kind: Kind, *, size_bytes: int = 0, reader: str = ""
    ) -> None:
        """Count one request at ``region``. The bytes of a GET are egress when ``reader`` is another region."""
        hour = int(now_s // HOUR_S)
        self._add(EntryKey(hour, bucket, region, kind), 1, size_bytes)
        if kind is Kind.GET and reader and reader != region:
            self._add(EntryKey(hour, bucket, region, Kind.EGRESS, reader), 0, size_bytes)

    def egress(self, now_s: float, bucket: str, region: str, dst: str, size_bytes: int) -> None:
        """Count bytes that left ``region`` without a GET there (an upload from a machine in that region)."""
        if region != dst:
            self._add(EntryKey(int(now_s // HOUR_S), bucket, region, Kind.EGRESS, dst), 0, size_bytes)

    def stored(self, bucket: str, region: str, size_bytes: int, since_ms: int, until_ms: int) -> None:
        """Count ``size_bytes`` kept from ``since_ms`` to ``until_ms``, split at the hours."""
        hour_ms = HOUR_S * 1000
        while since_ms < until_ms:
            hour = since_ms // hour_ms
            end_ms = min(until_ms, (hour + 1) * hour_ms)
            self._add(EntryKey(hour, bucket, region, Kind.STORAGE), 0, size_bytes * (end_ms - since_ms))
            since_ms = end_ms

    def early_delete(self, now_s: float, bucket: str, region: str, size_bytes: int, left_ms: int) -> None:
        """Count ``size_bytes`` deleted ``left_ms`` before the region's minimum age was over."""
        if left_ms:
            self._add(
                EntryKey(int(now_s // HOUR_S), bucket, region, Kind.EARLY_DELETE), 0, size_bytes * left_ms
            )

    def _add(self, key: EntryKey, requests: int, amount: int) -> None:
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Count()
        line.requests += requests
        line.amount += amount

    def __iter__(self) -> Iterator[tuple[EntryKey, Count]]:
        return iter(self.lines.items())


def usd_of(key: EntryKey, count: Count, prices: PriceTable) -> Fraction:
    """The exact price of one line. Raises ConfigError naming a price that is missing."""
    if key.kind in (Kind.STORAGE, Kind.EARLY_DELETE):
        months = Fraction(count.amount, GIB * SECONDS_PER_MONTH * 1000)
        return months * Fraction(prices.storage_usd_per_gib_month(key.region))
    if key.kind is Kind.EGRESS:
        return Fraction(count.amount, GIB) * Fraction(prices.egress_usd_per_gib(key.region, key.dst))
    if key.kind is Kind.DELETE:
        return Fraction(0)
    per_put = key.kind in (Kind.PUT, Kind.LIST)
    return count.requests * Fraction(prices.put_usd(key.region) if per_put else prices.get_usd(key.region))


def to_decimal(usd: Fraction) -> Decimal:
    """Rounded to a picodollar, half to even: the only rounding there is."""
    return Decimal(round(usd * 10**12)).scaleb(-12)


class By(enum.StrEnum):
    """How ``gsfs cost --by`` groups."""

    BUCKET = "bucket"
    LOCATION = "location"
    DAY = "day"
    KIND = "kind"


def total_usd(lines: Iterable[tuple[EntryKey, Count]], prices: PriceTable) -> Fraction:
    """The exact price of all lines. Counts are added up before they are priced: fractions are slow, and exact."""
    return sum((usd_of(key, count, prices) for _, key, count in _gather(lines, None)), Fraction(0))


def _gather(lines: Iterable[tuple[EntryKey, Count]], by: By | None) -> Iterator[tuple[str, EntryKey, Count]]:
    """Sums over time, by group and by what has one price."""
    sums: dict[tuple[str, str, Kind, str], Count] = {}
    for key, count in lines:
        group = "" if by is None else group_of(key, by)
        total = sums.setdefault((group, key.region, key.kind, key.dst), Count())
        total.requests += count.requests
        total.amount += count.amount
    for (group, region, kind, dst), count in sums.items():
        yield group, EntryKey(0, "", region, kind, dst), count


def summarise(
    lines: Iterable[tuple[EntryKey, Count]], prices: PriceTable, by: By
) -> dict[str, dict[str, Fraction]]:
    """USD by group, and within it by part: ``storage``, ``egress``, ``requests``. Parts add up exactly."""
    groups: dict[str, dict[str, Fraction]] = {}
    for group, key, count in _gather(lines, by):
        parts = groups.setdefault(group, dict.fromkeys(PARTS, Fraction(0)))
        parts[part_of(key.kind)] += usd_of(key, count, prices)
    return groups


PARTS = ("storage", "egress", "requests")


def part_of(kind: Kind) -> str:
    """Which of ``PARTS`` a kind belongs to."""
    if kind in (Kind.STORAGE, Kind.EARLY_DELETE):
        return "storage"
    return "egress" if kind is Kind.EGRESS else "requests"


def group_of(key: EntryKey, by: By) -> str:
    """The name of the group: days count from the epoch and are printed by the caller."""
    names = {
        By.BUCKET: key.bucket,
        By.LOCATION: key.region,
        By.DAY: str(key.hour // 24),
        By.KIND: key.kind.value,
    }
    return names[by]


def forecast_usd(
    lines: Iterable[tuple[EntryKey, Count]],
    prices: PriceTable,
    now_hour: int,
    days: int,
    stored_bytes: dict[str, int] | None = None,
) -> Fraction:
    """The next ``days`` days if they are like the last 7 (or as many as the ledger has; one at least).

    Requests and egress continue at their mean rate; storage is what is stored now (``stored_bytes`` by region),
    for the whole time, or the mean of the past when that is not given.
    """
    recent = [(key, count) for key, count in lines if now_hour - FORECAST_HOURS < key.hour <= now_hour]
    if not recent:
        past = Fraction(0)
    else:
        hours = max(FORECAST_HOURS_LEAST, now_hour - min(key.hour for key, _ in recent) + 1)
        flows = [line for line in recent if stored_bytes is None or line[0].kind is not Kind.STORAGE]
        past = total_usd(flows, prices) * days * 24 / hours
    for region, size in (stored_bytes or {}).items():
        key = EntryKey(0, "", region, Kind.STORAGE)
        past += usd_of(key, Count(0, size * days * 24 * HOUR_S * 1000), prices)
    return past
