"""The regions of a replay and what they charge, by index. Owns lookups only; the prices are the policies' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gsfs.errors import ConfigError
from gsfs.policy.links import LinkTable, shipped_links
from gsfs.policy.placement import source_order
from gsfs.policy.prices import Edge, PriceTable, shipped_prices

REGION_SETS: dict[int, tuple[str, ...]] = {
    2: ("aws:us-east-1", "aws:us-west-2"),
    3: ("aws:us-east-1", "azure:eastus", "gcp:us-east1-b"),
    6: ("aws:us-east-1", "aws:us-west-2", "azure:eastus", "azure:westus", "gcp:us-east1-b", "gcp:us-west1-a"),
    9: (
        "aws:us-east-1", "aws:us-west-2", "aws:eu-west-1",
        "azure:eastus", "azure:westus", "azure:westeurope",
        "gcp:us-east1-b", "gcp:us-west1-a", "gcp:europe-west1-b",
    ),
}  # fmt: skip
"""Regions for ``--regions 2|3|6|9``: those of the SkyStore evaluation."""


@dataclass(frozen=True)
class World:
    """Regions, prices and links of one replay."""

    regions: tuple[str, ...]
    prices: PriceTable
    links: LinkTable
    edges: tuple[tuple[Edge, ...], ...]
    """edges[source][reader]"""
    order: tuple[tuple[int, ...], ...]
    """order[reader]: sources as the mount would ask them."""

    def __len__(self) -> int:
        return len(self.regions)


def make_world(
    regions: Sequence[str], prices: PriceTable | None = None, links: LinkTable | None = None
) -> World:
    """Raises ConfigError for a missing price, and for regions given twice or not at all."""
    prices, links = prices or shipped_prices(), links or shipped_links()
    if len(set(regions)) != len(regions) or not regions:
        raise ConfigError(f"--regions {','.join(regions)}: takes different regions, at least one")
    prices.require(regions)
    index = {region: i for i, region in enumerate(regions)}
    return World(
        tuple(regions),
        prices,
        links,
        tuple(tuple(prices.edge(src, dst) for dst in regions) for src in regions),
        tuple(tuple(index[src] for src in source_order(dst, regions, prices, links)) for dst in regions),
    )


def parse_regions(text: str) -> tuple[str, ...]:
    """``3`` for a set of the SkyStore evaluation, or names separated by commas."""
    if text.isdecimal():
        if int(text) not in REGION_SETS:
            raise ConfigError(f"--regions {text}: takes 2, 3, 6, 9, or names separated by commas")
        return REGION_SETS[int(text)]
    return tuple(part.strip() for part in text.split(",") if part.strip())
