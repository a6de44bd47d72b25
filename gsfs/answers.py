"""Where a file's bytes are, why, and what they cost. Owns the shape of these answers (plain data).

The numbers come from the namespace and its ledger, the reasons from the same policy functions that decided.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import trio.lowlevel

from gsfs.errors import ConfigError, InvalidArgument
from gsfs.model import ROOT_INO
from gsfs.namespace.inodes import Inode
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.replicas import READABLE
from gsfs.policy.decide import ReplicaFacts
from gsfs.policy.explain import explain_read, explain_write
from gsfs.policy.ledger import By, Count, EntryKey, Kind, forecast_usd, summarise, to_decimal
from gsfs.policy.placement import decide_write
from gsfs.policy.prices import PriceTable
from gsfs.policy.ttl import Trail
from gsfs.volume import Volume

Answer = dict[str, Any]
PAGE = 1000
PINNED = b"user.gsfs.pinned"
NEEDS_REGION = (
    "needs prices: set [mount] region (where this machine is), or [policy] prices, in the configuration"
)


def prices_of(volume: Volume) -> PriceTable:
    """The price table. Raises ConfigError where the mount has none."""
    if volume.steward.prices is None:
        raise ConfigError(NEEDS_REGION)
    return volume.steward.prices


def objects_of(volume: Volume, inode: Inode) -> list[tuple[PhysicalObject, int]]:
    """(object, bytes of the file in it), in the order of the file."""
    sizes: dict[int, int] = {}
    for run in volume.store.extents.runs(inode, 0, inode.size) if inode.is_regular else []:
        sizes[run.object] = sizes.get(run.object, 0) + run.length
    found = ((volume.store.objects.get(id_), size) for id_, size in sizes.items())
    return [(object_, size) for object_, size in found if object_ is not None]


def where(volume: Volume, ino: int) -> Answer:
    """Each physical object of a file, and its replicas with their states and expiry."""
    inode = volume.store.inodes.get(ino)
    objects = []
    for object_, size in objects_of(volume, inode):
        replicas = [
            {
                "location": r.location,
                "state": r.state.value,
                "since_s": r.since_ns / 1e9,
                "expires_s": None if r.expires_ns is None else r.expires_ns / 1e9,
                "key": None if r.location.startswith("cache:") else volume.store.objects.key_of(object_, r),
            }
            for r in volume.store.objects.replicas(object_.id)
        ]
        objects.append(
            {
                "object": object_.id,
                "state": object_.state.value,
                "object_bytes": object_.size,
                "file_bytes": size,
                "cached": object_.id in volume.cache,
                "replicas": replicas,
            }
        )
    return {"size": inode.size, "allocated": inode.allocated, "objects": objects}


def locations_of(volume: Volume, inode: Inode) -> list[str]:
    """Locations that have every byte of the file; ``cache`` for this machine's disk."""
    common: set[str] | None = None
    for object_, _size in objects_of(volume, inode):
        here = {
            "cache" if r.location.startswith("cache:") else str(r.location)
            for r in volume.store.objects.replicas(object_.id)
            if r.state in READABLE
        }
        common = here if common is None else common & here
    return sorted(common or ())


def month_cost_usd(volume: Volume, inode: Inode) -> Decimal:
    """What keeping the file costs for a month, as it is placed now. Raises ConfigError without prices."""
    prices, total = prices_of(volume), Fraction(0)
    for object_, size in objects_of(volume, inode):
        for replica in volume.store.objects.replicas(object_.id):
            if replica.state in READABLE and not replica.location.startswith("cache:"):
                total += Fraction(size, 1 << 30) * Fraction(
                    prices.storage_usd_per_gib_month(replica.location)
                )
    return to_decimal(total)


def durability_of(volume: Volume, inode: Inode) -> str:
    """``remote:N`` where N locations have every byte, else ``local``."""
    remote = [name for name in locations_of(volume, inode) if name != "cache"]
    return f"remote:{len(remote)}" if remote else "local"


def explain(volume: Volume, ino: int) -> Answer:
    """Which rule put a file where it is, with which numbers, and what else it would have cost.

    Of a directory (or an empty file): what its bucket decides for the next object, of the usual size.
    """
    prices, steward = prices_of(volume), volume.steward
    inode = volume.store.inodes.get(ino)
    bucket = volume.store.buckets.get(inode.bucket)
    if bucket is None or steward.edges is None:
        raise InvalidArgument("explain: takes a bucket, or something in one")
    objects = objects_of(volume, inode)
    largest = max((object_ for object_, _ in objects), key=lambda o: o.size, default=None)
    size = largest.size if largest is not None else volume.config.segment_bytes
    policy, reads = steward.policy(bucket), steward.reads_per_month(bucket)
    decision = decide_write(
        policy, steward.region, steward.regions, prices, reads_per_month=reads, size_bytes=size
    )
    answers = [
        explain_write(
            decision, policy, steward.region, steward.regions, prices, reads_per_month=reads, size_bytes=size
        )
    ]
    if steward.region:
        facts = [ReplicaFacts(region, permanent=True) for region in decision.permanent]
        if largest is not None:
            facts = steward.facts(volume.store.objects.replicas(largest.id))
        answers.append(
            explain_read(
                policy, steward.region, steward.clock(), size, facts,
                order=steward.order, edges=steward.edges, memory=steward.memory(bucket.ino),
                trail=steward.trail(largest.id) if largest is not None else Trail(),
            )
        )  # fmt: skip
    return {
        "object": largest.id if largest is not None else None,
        "objects": len(objects),
        "explanations": [answer.to_json() for answer in answers],
        "lines": [line for answer in answers for line in answer.lines()],
    }


# --- cost


async def cost(volume: Volume, by: str, forecast_days: int | None, since_days: int) -> Answer:
    """USD by group, split into storage, egress and requests, from the ledger."""
    prices = prices_of(volume)
    volume.accounts.count_storage()
    volume.store.write_out()
    now_hour = int(volume.steward.clock() // 3600)
    rows = volume.store.policies.lines(now_hour - since_days * 24)
    lines = [
        (EntryKey(r.hour, r.bucket, r.location, Kind(r.kind), r.dst), Count(r.requests, r.amount))
        for r in rows
    ]
    if by == "directory":
        groups = await _by_directory(volume, prices)
    else:
        summed = summarise(lines, prices, By(by))
        groups = {_label(volume, by, name): _parts(parts) for name, parts in sorted(summed.items())}
    answer: Answer = {"by": by, "since_days": since_days, "currency": "USD", "groups": groups}
    answer["total"] = str(sum((Decimal(g["total"]) for g in groups.values()), Decimal(0)))
    if forecast_days is not None:
        stored: dict[str, int] = defaultdict(int)
        for _bucket, location, size in volume.store.objects.stored():
            stored[location] += size
        answer["forecast_days"] = forecast_days
        answer["forecast"] = str(
            to_decimal(forecast_usd(lines, prices, now_hour, forecast_days, dict(stored)))
        )
    return answer


def _parts(parts: dict[str, Fraction]) -> dict[str, str]:
    total = sum(parts.values(), Fraction(0))
    return {**{name: str(to_decimal(usd)) for name, usd in parts.items()}, "total": str(to_decimal(total))}


def _label(volume: Volume, by: str, name: str) -> str:
    if by == "day":
        return time.strftime("%Y-%m-%d", time.gmtime(int(name) * 86_400))
    if by == "bucket":
        if not name or name == "0":
            return "(the namespace itself)"
        found = volume.store.entries.name_of(ROOT_INO, int(name))
        return os.fsdecode(found) if found else f"(removed bucket {name})"
    return name


async def _by_directory(volume: Volume, prices: PriceTable) -> dict[str, dict[str, str]]:
    """Storage per month of each directory two levels deep: what is kept now, not what was paid.

    Reads every extent there is; other requests run between two pages.
    """
    usd: dict[str, Fraction] = defaultdict(Fraction)
    price = {
        str(id_): Fraction(prices.storage_usd_per_gib_month(id_)) / (1 << 30) for id_ in volume.locations
    }
    per_byte: dict[int, Fraction] = {}
    owner = await _owners(volume, _second_level(volume))
    after = (0, -1)
    while page := volume.store.extents.page_of_objects(after, PAGE):
        for ino, run in page:
            after = (ino, run.offset)
            if run.object not in per_byte:
                kept = (r for r in volume.store.objects.replicas(run.object) if r.state in READABLE)
                per_byte[run.object] = sum((price.get(r.location, Fraction(0)) for r in kept), Fraction(0))
            usd[owner.get(ino, "(without a name)")] += run.length * per_byte[run.object]
        await trio.lowlevel.checkpoint()
    groups = {}
    for path, amount in sorted(usd.items()):
        text = str(to_decimal(amount))
        groups[path] = {"storage": text, "egress": "0", "requests": "0", "total": text}
    return groups


def _second_level(volume: Volume) -> dict[int, str]:
    """Path of each bucket and of each directory in one."""
    paths: dict[int, str] = {}
    volume.store.flush()
    for name, ino, *_ in volume.store.entries.page(ROOT_INO, b"", volume.store.last_entry_number, PAGE):
        paths[ino] = "/" + os.fsdecode(bytes(name))
        for child, row in _directories(volume, ino):
            paths[row[0]] = f"{paths[ino]}/{os.fsdecode(child)}"
    return paths


def _directories(volume: Volume, ino: int) -> list[tuple[bytes, tuple[Any, ...]]]:
    after, found = b"", []
    while page := volume.store.entries.page(ino, after, volume.store.last_entry_number, PAGE):
        after = bytes(page[-1][0])
        found += [(bytes(name), tuple(row)) for name, *row in page if row[3] & 0o170000 == 0o040000]
    return found


async def _owners(volume: Volume, top: dict[int, str]) -> dict[int, str]:
    """Of every file: the directory of ``top`` that it lies below."""
    owner: dict[int, str] = {}
    stack = list(top.items())
    while stack:
        directory, path = stack.pop()
        after = b""
        while page := volume.store.entries.page(directory, after, volume.store.last_entry_number, PAGE):
            after = bytes(page[-1][0])
            for _name, ino, _bucket, _parent, mode, *_rest in page:
                if mode & 0o170000 != 0o040000:
                    owner[ino] = path
                elif ino not in top:
                    stack.append((ino, path))
            await trio.lowlevel.checkpoint()
    return owner


def _set_pinned(volume: Volume, inode: Inode, value: bytes) -> None:
    if value not in (b"1", b"0", b""):
        raise InvalidArgument(f"user.gsfs.pinned: {value[:20]!r}; takes 1 or 0")
    (volume.keeper.pin if value == b"1" else volume.keeper.unpin)(inode)


def install_xattrs(volume: Volume) -> None:
    """``user.gsfs.*``: computed when asked, never listed, so that copying tools leave them alone."""
    virtual = volume.attributes.virtual
    virtual[b"user.gsfs.locations"] = lambda inode: ",".join(locations_of(volume, inode)).encode()
    virtual[b"user.gsfs.durability"] = lambda inode: durability_of(volume, inode).encode()
    virtual[PINNED] = lambda inode: b"1" if volume.keeper.is_pinned(inode) else b"0"
    volume.attributes.settable[PINNED] = partial(_set_pinned, volume)
    if volume.steward.prices is not None:
        virtual[b"user.gsfs.cost_month"] = lambda inode: f"{month_cost_usd(volume, inode):f} USD".encode()
