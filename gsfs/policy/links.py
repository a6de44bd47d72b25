"""How far regions are from each other. Owns the latency table; an unknown pair has no latency, not zero."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

LOCAL_RTT_MS = 1.0
"""Assumed within a region: measured pairs in one metropolitan area are at 1.9 ms."""
LOCAL_GBPS = 5.0


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two regions."""

    rtt_ms: float
    throughput_gbps: float

    def read_ms(self, size_bytes: int) -> float:
        """Estimated time to read an object, in ms: one round trip and the transfer on one connection's share."""
        return self.rtt_ms + size_bytes * 8 / (self.throughput_gbps * 1e6)


@dataclass(frozen=True)
class LinkTable:
    """Links by (source, destination) region."""

    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)

    def link(self, src: str, dst: str) -> Link | None:
        """The link, or None when nobody measured it."""
        if src == dst:
            return Link(LOCAL_RTT_MS, LOCAL_GBPS)
        return self.links.get((src, dst))

    def rtt_ms(self, src: str, dst: str) -> float:
        """For ordering only: an unknown link sorts last (infinity)."""
        link = self.link(src, dst)
        return float("inf") if link is None else link.rtt_ms


def shipped_links() -> LinkTable:
    """The table that comes with the package (``data/links.csv``)."""
    text = resources.files("gsfs.policy").joinpath("data/links.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return LinkTable(
        {(r["src"], r["dst"]): Link(float(r["avg_rtt_ms"]), float(r["throughput_gbps"])) for r in rows}
    )
