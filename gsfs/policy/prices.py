"""What locations charge, exactly. Owns the price table and its file format; never guesses a missing price.

Money is ``Decimal`` wherever it is reported. ``Edge`` and ``Tariff`` carry the same prices as floats per byte and
second, for decisions, where a relative error of 1e-16 changes nothing and speed does.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import TypeVar

from gsfs.errors import ConfigError
from gsfs.model import GIB

HOURS_PER_MONTH = 730
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
SECONDS_PER_DAY = 86_400
FOREVER_S = 100 * 365.25 * SECONDS_PER_DAY
"""The longest TTL: a century. Finite, so that byte-seconds stay numbers."""

K = TypeVar("K")

KINDS = ("storage", "put", "get", "egress", "min_age")
COLUMNS = ("kind", "region", "dst", "value")


@dataclass(frozen=True, slots=True)
class Tariff:
    """What one region charges, as floats for decisions."""

    region: str
    storage_usd_per_byte_s: float
    put_usd: float
    get_usd: float
    min_age_s: float = 0.0
    """An object deleted earlier than this is billed as if it had lived so long."""


@dataclass(frozen=True, slots=True)
class Edge:
    """Reading in region ``dst`` what lies in ``src``: all that a TTL depends on (design, section 6)."""

    src: str
    dst: str
    egress_usd_per_byte: float
    get_usd: float
    """One GET at ``src``."""
    put_usd: float
    """One PUT at ``dst``."""
    storage_usd_per_byte_s: float
    """Of ``dst``."""

    def miss_usd(self, size_bytes: int) -> float:
        """N_eff = N * size + GET(src) + PUT(dst): what bringing a replica to ``dst`` costs, in USD."""
        return self.egress_usd_per_byte * size_bytes + self.get_usd + self.put_usd

    def hold_usd_per_s(self, size_bytes: int) -> float:
        """What keeping it at ``dst`` costs, in USD per second."""
        return self.storage_usd_per_byte_s * size_bytes

    def t_even_s(self, size_bytes: int) -> float:
        """The break-even time of N_eff against storage, in seconds; FOREVER_S where storage is free."""
        return break_even_s(self.miss_usd(size_bytes), self.hold_usd_per_s(size_bytes))


def break_even_s(miss_usd: float, hold_usd_per_s: float) -> float:
    """T_even: for how long holding costs no more than one transfer. At most FOREVER_S."""
    if hold_usd_per_s * FOREVER_S <= miss_usd:
        return FOREVER_S
    return miss_usd / hold_usd_per_s


@dataclass(frozen=True)
class PriceTable:
    """Prices by region, in the units of the price lists: USD per GiB and month, per request, per GiB."""

    storage: Mapping[str, Decimal] = field(default_factory=dict)
    put: Mapping[str, Decimal] = field(default_factory=dict)
    get: Mapping[str, Decimal] = field(default_factory=dict)
    egress: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)
    min_age: Mapping[str, Decimal] = field(default_factory=dict)
    """Days; absent means that the region has no minimum age."""

    def storage_usd_per_gib_month(self, region: str) -> Decimal:
        return _priced(self.storage, self.name(region), f"storage at {region}")

    def put_usd(self, region: str) -> Decimal:
        return _priced(self.put, self.name(region), f"put at {region}")

    def get_usd(self, region: str) -> Decimal:
        return _priced(self.get, self.name(region), f"get at {region}")

    def egress_usd_per_gib(self, src: str, dst: str) -> Decimal:
        """Free within a region; otherwise there must be a row for the pair."""
        pair = (self.name(src), self.name(dst))
        if pair[0] == pair[1]:
            return Decimal(0)
        return _priced(self.egress, pair, f"egress from {src} to {dst}")

    def min_age_s(self, region: str) -> int:
        return int(self.min_age.get(self.name(region), Decimal(0)) * SECONDS_PER_DAY)

    def name(self, region: str) -> str:
        """The table's name of a region: itself, or its first zone (``gcp:us-east1`` is ``gcp:us-east1-b``)."""
        if region in self.storage:
            return region
        return min((r for r in self.storage if _is_zone_of(r, region)), default=region)

    def tariff(self, region: str) -> Tariff:
        return Tariff(
            region,
            float(self.storage_usd_per_gib_month(region)) / GIB / SECONDS_PER_MONTH,
            float(self.put_usd(region)),
            float(self.get_usd(region)),
            float(self.min_age_s(region)),
        )

    def edge(self, src: str, dst: str) -> Edge:
        there = self.tariff(dst)
        egress = float(self.egress_usd_per_gib(src, dst)) / GIB
        return Edge(src, dst, egress, float(self.get_usd(src)), there.put_usd, there.storage_usd_per_byte_s)

    def require(self, regions: Iterable[str]) -> None:
        """Raise ConfigError that names the first price missing for use of these regions together."""
        names = list(regions)
        for region in names:
            self.tariff(region)
        for src in names:
            for dst in names:
                self.egress_usd_per_gib(src, dst)

    def overridden(self, other: PriceTable) -> PriceTable:
        """This table with the rows of ``other`` in place of its own."""
        return PriceTable(
            {**self.storage, **other.storage},
            {**self.put, **other.put},
            {**self.get, **other.get},
            {**self.egress, **other.egress},
            {**self.min_age, **other.min_age},
        )


def _is_zone_of(zone: str, region: str) -> bool:
    return zone.startswith(region + "-") and len(zone) == len(region) + 2


def _priced(prices: Mapping[K, Decimal], key: K, what: str) -> Decimal:
    try:
        return prices[key]
    except KeyError:
        raise ConfigError(
            f"price table: no price for {what}; add a row to your price file (a true zero is written 0)"
        ) from None


def parse_prices(text: str, origin: str) -> PriceTable:
    """Read a price file: CSV with the columns kind,region,dst,value; ``#`` starts a comment line.

    Raises ConfigError naming ``origin``, the line, what it holds and what is accepted.
    """
    single: dict[str, dict[str, Decimal]] = {k: {} for k in KINDS if k != "egress"}
    egress: dict[tuple[str, str], Decimal] = {}
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    if not lines or tuple(next(csv.reader([lines[0][1]]))) != COLUMNS:
        raise ConfigError(f"{origin}: the first line must be {','.join(COLUMNS)}")
    for number, line in lines[1:]:
        where = f"{origin}:{number}"
        row = next(csv.reader([line]))
        if len(row) != len(COLUMNS):
            raise ConfigError(f"{where}: got {len(row)} columns, takes {','.join(COLUMNS)}")
        kind, region, dst, value = (cell.strip() for cell in row)
        if kind not in KINDS:
            raise ConfigError(f"{where}: kind is {kind!r}, takes one of {', '.join(KINDS)}")
        if (kind == "egress") != bool(dst):
            raise ConfigError(f"{where}: dst is {dst!r}; egress takes a region there, other kinds nothing")
        if kind == "egress":
            egress[region, dst] = _amount(value, where)
        else:
            single[kind][region] = _amount(value, where)
    return PriceTable(single["storage"], single["put"], single["get"], egress, single["min_age"])


def _amount(text: str, where: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0:
        raise ConfigError(f"{where}: value is {text!r}, takes a number that is not negative")
    return value


def shipped_prices() -> PriceTable:
    """The table that comes with the package; its sources and date are in the head of ``data/prices.csv``."""
    text = resources.files("gsfs.policy").joinpath("data/prices.csv").read_text("utf-8")
    return parse_prices(text, "prices.csv")


def load_prices(override: Path | None = None) -> PriceTable:
    """The shipped table, with the rows of the user's file in place of its own. Called once at start-up."""
    shipped = shipped_prices()
    if override is None:
        return shipped
    try:
        text = override.read_text("utf-8")
    except OSError as e:
        raise ConfigError(f"{override}: cannot read the price file: {e.strerror}") from e
    return shipped.overridden(parse_prices(text, str(override)))
