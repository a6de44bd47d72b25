"""Where a file's bytes are, why, and what they cost. Owns the shape of these answers (plain data).

The numbers come from the namespace and its ledger, the reasons from the same policy functions that decided.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import trio.lowlevel

from gsfs.errors import ConfigError, InvalidArgument, NoAttribute
from gsfs.model import ROOT_INO, ObjectState
from gsfs.namespace.inodes import Inode
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.replicas import READABLE
from gsfs.policy.decide import ReplicaFacts
from gsfs.policy.explain import explain_read, explain_write
from gsfs.policy.ledger import (
    FORECAST_HOURS,
    PARTS,
    By,
    Count,
    EntryKey,
    Kind,
    forecast_usd,
    summarise,
    to_decimal,
)
from gsfs.policy.plan import Fetch, fetch_usd
from gsfs.policy.prices import PriceTable
from gsfs.policy.ttl import Trail
from gsfs.volume import Volume

Answer = dict[str, Any]
PAGE = 1000
PINNED = b"user.gsfs.pinned"
NOTHING = dict.fromkeys(PARTS, Fraction(0))
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
    if not inode.is_regular:
        raise InvalidArgument("where: takes a file")
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
    """What keeping the file costs for a month, as it is placed now. Raises ConfigError without prices.

    Its share of its objects, what is dead in them included: so all files together cost what is billed.
    """
    total = Fraction(0)
    volume.store.flush()
    volume.store.objects.flush()
    for object_, size in objects_of(volume, inode):
        total += size * _usd_per_live_byte(volume, object_)
    return to_decimal(total)


def _usd_per_live_byte(volume: Volume, object_: PhysicalObject) -> Fraction:
    """Storage per month of the object at every location, for each byte that a file has in it."""
    prices, total = prices_of(volume), Fraction(0)
    for replica in volume.store.objects.replicas(object_.id):
        if replica.state in READABLE and not replica.location.startswith("cache:"):
            total += Fraction(prices.storage_usd_per_gib_month(replica.location))
    return total * Fraction(object_.size, max(object_.live, 1) << 30)


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
    decision = steward.placed(bucket, size_bytes=size)
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
    told = _file_costs(volume, inode, [object_ for object_, _ in objects], prices)
    return {
        "object": largest.id if largest is not None else None,
        "objects": len(objects),
        **told,
        "explanations": [answer.to_json() for answer in answers],
        "lines": [*_file_lines(told, largest), *(line for answer in answers for line in answer.lines())],
    }


def to_fetch(volume: Volume, object_: PhysicalObject) -> Fetch:
    """What of an object is not in the cache, and from where it would be read."""
    size_bytes, requests = volume.downloads.to_fetch(object_)
    readable = [
        r
        for r in volume.store.objects.replicas(object_.id)
        if r.state in READABLE and r.location in volume.locations
    ]
    if not size_bytes or not readable:
        return Fetch()
    return Fetch(volume.steward.rank(object_, readable)[0].location, size_bytes, requests)


def _file_costs(volume: Volume, inode: Inode, objects: list[PhysicalObject], prices: PriceTable) -> Answer:
    """What reading the file's objects here costs now, and what keeping the file costs; nothing of a directory."""
    if not objects:
        return {}
    fetches = [to_fetch(volume, object_) for object_ in objects if object_.state is ObjectState.SEALED]
    region = volume.steward.region
    usd = sum((fetch_usd(fetch, region, prices) for fetch in fetches), Fraction(0))
    return {
        "bytes_to_fetch": sum(fetch.size_bytes for fetch in fetches),
        "read_usd": _usd(usd),
        "month_usd": f"{month_cost_usd(volume, inode):f}",
    }


def _file_lines(told: Answer, largest: PhysicalObject | None) -> list[str]:
    if largest is None or not told:
        return []
    return [
        f"reading it here: {told['read_usd']} USD now, for {told['bytes_to_fetch']} bytes that are not in the cache",
        f"keeping it: {told['month_usd']} USD per month",
        f"its largest object, {largest.id}:",
    ]


# --- cost


async def cost(volume: Volume, by: str, forecast_days: int | None, since_days: int) -> Answer:
    """USD by group, split into storage, egress and requests, from the ledger."""
    prices = prices_of(volume)
    volume.accounts.bring_up_to_date()
    now_hour = int(volume.steward.clock() // 3600)
    lines = _lines(volume, now_hour - since_days * 24)
    if by == "directory":
        stored_now = await _by_directory(volume)
        total = sum(stored_now.values(), Fraction(0))
        groups = {path: _parts({**NOTHING, "storage": usd}) for path, usd in sorted(stored_now.items())}
    else:
        summed = summarise(lines, prices, By(by))
        total = sum((sum(parts.values(), Fraction(0)) for parts in summed.values()), Fraction(0))
        labelled: dict[str, dict[str, Fraction]] = {}
        for name, parts in sorted(summed.items()):
            group = labelled.setdefault(_label(volume, by, name), dict(NOTHING))
            for part, usd in parts.items():
                group[part] += usd
        groups = {label: _parts(parts) for label, parts in labelled.items()}
    answer: Answer = {"by": by, "since_days": since_days, "currency": "USD", "groups": groups}
    answer["total"] = _usd(total)
    if forecast_days is not None:
        stored: dict[str, int] = defaultdict(int)
        for _bucket, location, size in volume.store.objects.stored():
            stored[location] += size
        answer["forecast_days"] = forecast_days
        recent = _lines(volume, now_hour - FORECAST_HOURS)
        answer["forecast"] = _usd(forecast_usd(recent, prices, now_hour, forecast_days, dict(stored)))
    return answer


def _lines(volume: Volume, since_hour: int) -> list[tuple[EntryKey, Count]]:
    """The ledger from that hour on."""
    return [
        (EntryKey(r.hour, r.bucket, r.location, Kind(r.kind), r.dst), Count(r.requests, r.amount))
        for r in volume.store.policies.lines(since_hour)
    ]


def _parts(parts: dict[str, Fraction]) -> dict[str, str]:
    total = sum(parts.values(), Fraction(0))
    return {**{name: _usd(usd) for name, usd in parts.items()}, "total": _usd(total)}


def _usd(usd: Fraction) -> str:
    """To a picodollar, never in powers of ten."""
    return f"{to_decimal(usd):f}"


def _label(volume: Volume, by: str, name: str) -> str:
    if by == "day":
        return time.strftime("%Y-%m-%d", time.gmtime(int(name) * 86_400))
    if by == "bucket":
        if not name or name == "0":
            return "(the namespace itself)"
        found = volume.store.entries.name_of(ROOT_INO, int(name))
        return os.fsdecode(found) if found else f"(removed bucket {name})"
    return name


async def _by_directory(volume: Volume) -> dict[str, Fraction]:
    """Storage per month of each directory two levels deep: what is kept now, not what was paid.

    Reads every extent there is; other requests run between two pages.
    """
    usd: dict[str, Fraction] = defaultdict(Fraction)
    per_byte: dict[int, Fraction] = {}
    volume.store.flush()
    volume.store.objects.flush()
    owner = await _owners(volume, _second_level(volume))
    after = (0, -1)
    while page := volume.store.extents.page_of_objects(after, PAGE):
        for ino, run in page:
            after = (ino, run.offset)
            if run.object not in per_byte:
                object_ = volume.store.objects.get(run.object)
                per_byte[run.object] = Fraction(0) if object_ is None else _usd_per_live_byte(volume, object_)
            usd[owner.get(ino, "(without a name)")] += run.length * per_byte[run.object]
        await trio.lowlevel.checkpoint()
    return usd


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

    def of_file(text: Callable[[Inode], str]) -> Callable[[Inode], bytes]:
        """What has no bytes is nowhere, and costs nothing that could be told."""

        def value(inode: Inode) -> bytes:
            if not inode.is_regular:
                raise NoAttribute("user.gsfs.*: only files have it")
            return text(inode).encode()

        return value

    virtual[b"user.gsfs.locations"] = of_file(lambda inode: ",".join(locations_of(volume, inode)))
    virtual[b"user.gsfs.durability"] = of_file(lambda inode: durability_of(volume, inode))
    virtual[PINNED] = lambda inode: b"1" if volume.keeper.is_pinned(inode) else b"0"
    volume.attributes.settable[PINNED] = partial(_set_pinned, volume)
    if volume.steward.prices is not None:
        virtual[b"user.gsfs.cost_month"] = of_file(lambda inode: f"{month_cost_usd(volume, inode):f} USD")
