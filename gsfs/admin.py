"""What the command line asks of a namespace, mounted or not. Owns the shape of every answer (plain data)."""

from __future__ import annotations

import json
import os
import time
from decimal import Decimal
from typing import Any

from gsfs import __version__
from gsfs.config import parse_size
from gsfs.errors import ConfigError, EntryExists, InvalidArgument, NotEmpty, NotFoundError
from gsfs.filesystem.core import Caller
from gsfs.filesystem.names import Names
from gsfs.model import ROOT_INO, Durability, LocationId
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.store import Store
from gsfs.policy.bucket import BucketPolicy, check_regions, parse_policy
from gsfs.volume import Volume

Answer = dict[str, Any]
FAILURES_SHOWN = 5
OWN_SETTINGS = ("home", "durability", "quota_bytes", "quota_inodes")
POLICY_SETTINGS = ("placement", "ttl", "on_read", "budget", "budget_warn", "budget_action")
SETTINGS = OWN_SETTINGS + POLICY_SETTINGS
"""What ``gsfs bucket set`` takes."""
WITHOUT_REGION: dict[str, tuple[str, ...]] = {
    "placement": ("single",),
    "ttl": ("none", "adaptive"),
    "on_read": ("never", "ttl"),
    "budget": ("none",),
    "budget_warn": (),
    "budget_action": (),
}
"""Values of policies that change nothing, and so may be set, where the mount has no region."""


# --- buckets


def bucket_names(store: Store) -> dict[int, str]:
    """Name of each bucket by its directory's inode."""
    store.flush()
    rows = store.entries.page(ROOT_INO, b"", store.last_entry_number, 1_000_000)
    return {row[1]: os.fsdecode(bytes(row[0])) for row in rows}


def find_bucket(store: Store, name: str) -> Bucket:
    """The bucket of that name. Raises NotFoundError."""
    ino = store.entries.find(ROOT_INO, os.fsencode(name))
    bucket = store.buckets.get(ino) if ino is not None else None
    if bucket is None:
        known = ", ".join(sorted(bucket_names(store).values())) or "none yet"
        raise NotFoundError(f"bucket {name!r}: does not exist; there are: {known}")
    return bucket


def describe_bucket(bucket: Bucket, name: str) -> Answer:
    return {
        "name": name,
        "home": bucket.home,
        "durability": bucket.durability.value,
        "copies": bucket.copies,
        "quota_bytes": bucket.quota_bytes,
        "quota_inodes": bucket.quota_inodes,
        "used_bytes": bucket.used_bytes,
        "used_inodes": bucket.used_inodes,
        "policy": {k: v for k, v in policy_of(bucket).to_settings().items() if k in POLICY_SETTINGS},
    }


def policy_of(bucket: Bucket) -> BucketPolicy:
    """The bucket's parsed policy."""
    return parse_policy({**json.loads(bucket.policy or "{}"), "home": str(bucket.home)})


def list_buckets(store: Store) -> list[Answer]:
    names = bucket_names(store)
    return sorted(
        (describe_bucket(b, names.get(b.ino, "?")) for b in store.buckets.all()), key=lambda b: b["name"]
    )


def create_bucket(
    store: Store,
    names: Names,
    name: str,
    settings: dict[str, str],
    locations: list[str],
    caller: Caller,
    region: str | None = None,
) -> Answer:
    """Make a bucket with these settings. Raises EntryExists."""
    if "/" in name or name in ("", ".", ".."):
        raise InvalidArgument(f"bucket {name!r}: takes one name, without /")
    if store.entries.find(ROOT_INO, os.fsencode(name)) is not None:
        raise EntryExists(f"bucket {name!r}: exists already")
    checked = check_settings(settings, locations, region)
    inode = names.mkdir(ROOT_INO, os.fsencode(name), 0o755, caller)
    bucket = store.buckets.get(inode.ino)
    assert bucket is not None
    return apply_settings(store, bucket, name, checked)


def check_settings(
    settings: dict[str, str], locations: list[str], region: str | None = None
) -> dict[str, Any]:
    """Typed values of ``key=value`` settings. Raises InvalidArgument, one line.

    ``region``: [mount] region; empty: policies that would have no effect are refused; None: not known here.
    """
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "home":
            if value not in locations:
                raise InvalidArgument(f"home={value}: no such location; takes one of {', '.join(locations)}")
            checked[key] = LocationId(value)
        elif key == "durability":
            checked.update(_durability(value, len(locations)))
        elif key in ("quota_bytes", "quota_inodes"):
            checked[key] = None if value in ("", "none") else _quota(key, value)
        elif key not in POLICY_SETTINGS:
            raise InvalidArgument(f"{key}: not a setting of a bucket; takes {', '.join(SETTINGS)}")
    policy = {key: value for key, value in settings.items() if key in POLICY_SETTINGS}
    if policy:
        idle = [key for key, value in policy.items() if value not in WITHOUT_REGION[key]]
        if region == "" and idle:
            raise InvalidArgument(
                f"{idle[0]}={policy[idle[0]]}: needs [mount] region in the configuration: without it nothing is priced "
                "and every object stays at its bucket's home"
            )
        check_regions(parse_policy(policy), tuple(locations))
        checked["policy"] = policy
    return checked


def _quota(key: str, value: str) -> int:
    if key == "quota_inodes":
        if not value.isdecimal():
            raise InvalidArgument(f"{key}={value}: takes a whole number, or none")
        return int(value)
    try:
        return parse_size(value)
    except ConfigError:
        raise InvalidArgument(f"{key}={value}: takes a number and a unit, such as 10GiB, or none") from None


def _durability(value: str, most: int) -> dict[str, Any]:
    level, _, copies = value.partition(":")
    allowed = ", ".join(d.value for d in Durability)
    try:
        durability = Durability(level)
        count = int(copies or "1")
    except ValueError:
        raise InvalidArgument(f"durability={value}: takes {allowed} or remote:N") from None
    if (copies and durability is not Durability.REMOTE) or not 1 <= count <= most:
        raise InvalidArgument(
            f"durability={value}: takes {allowed} or remote:N with N up to {most} (locations)"
        )
    return {"durability": durability, "copies": count}


def apply_settings(store: Store, bucket: Bucket, name: str, checked: dict[str, Any]) -> Answer:
    for key, value in checked.items():
        if key == "policy":
            merged = {**json.loads(bucket.policy or "{}"), **value}
            if "ttl" in value and "on_read" not in value:
                merged.pop("on_read", None)  # the rule says by itself whether a read leaves a replica
            elif "on_read" in value and "ttl" not in value:
                merged.pop("ttl", None)
            parse_policy(merged)
            bucket.policy = json.dumps(merged, sort_keys=True)
        else:
            setattr(bucket, key, value)
    bucket.changed = True
    store.changed()
    return describe_bucket(bucket, name)


def remove_bucket(store: Store, names: Names, name: str) -> None:
    """Remove an empty bucket. Raises NotEmpty."""
    bucket = find_bucket(store, name)
    if store.entries.has_any(bucket.ino):
        raise NotEmpty(f"bucket {name!r}: is not empty; remove its files first")
    names.rmdir(ROOT_INO, os.fsencode(name))


# --- status


def status(volume: Volume, mountpoint: str) -> Answer:
    """Everything about a mounted namespace that a person or a monitor wants to know."""
    store, cache = volume.store, volume.cache
    objects, object_bytes, live_bytes = store.objects.totals()
    return {
        "version": __version__,
        "name": store.name,
        "namespace_id": store.namespace_id,
        "mountpoint": mountpoint,
        "pid": os.getpid(),
        "uptime_s": round(time.time() - volume.started_s, 1),
        "inodes": 1 + sum(b.used_inodes for b in store.buckets.all()),
        "file_bytes": sum(b.used_bytes for b in store.buckets.all()),
        "objects": objects,
        "object_bytes": object_bytes,
        "live_bytes": live_bytes,
        "dirty_bytes": volume.dirty_bytes,
        "uploading_objects": len(volume.uploads.pending),
        "open_handles": volume.content.open_handles,
        "cache": {
            "path": str(volume.config.cache_dir),
            "used_bytes": cache.used_bytes,
            "capacity_bytes": cache.capacity_bytes,
            "disk_free_bytes": cache.free_bytes(),
            "min_free_bytes": cache.min_free_bytes,
            "evicted_bytes": cache.evicted_bytes,
        },
        "since_start": {
            "written_bytes": volume.segments.appended_bytes,
            "uploaded_bytes": volume.uploads.uploaded_bytes,
            "uploaded_objects": volume.uploads.uploaded_objects,
            "fetched_bytes": volume.downloads.fetched_bytes,
            "commits": volume.committer.commits,
            "syncs": volume.committer.syncs,
        },
        "commit_error": volume.committer.failure,
        "replication": _replication(volume),
        "locations": _locations(volume),
        "follows": volume.following.status(),
        "buckets": _buckets(volume),
        "trace": volume.core.recorder.to_json() if volume.core.recorder is not None else None,
        "damaged_objects": [o.id for o in volume.recovered.damaged],
    }


def show_bucket(volume: Volume, name: str) -> Answer:
    """A bucket's settings and usage, and what it has cost this month."""
    return _with_spent(find_bucket(volume.store, name), name, _spent(volume))


def _buckets(volume: Volume) -> list[Answer]:
    names = bucket_names(volume.store)
    spent = _spent(volume)
    rows = [_with_spent(b, names.get(b.ino, "?"), spent) for b in volume.store.buckets.all()]
    return sorted(rows, key=lambda row: str(row["name"]))


def _spent(volume: Volume) -> dict[str, Decimal] | None:
    """What each bucket has cost since the month began, up to now; None without prices."""
    if volume.steward.prices is None:
        return None
    volume.accounts.bring_up_to_date()
    return volume.steward.spent_usd()


def _with_spent(bucket: Bucket, name: str, spent: dict[str, Decimal] | None) -> Answer:
    """With USD since the month began, None without prices; and what may be spent, None without a budget."""
    row = describe_bucket(bucket, name)
    usd = None if spent is None else f"{spent.get(str(bucket.ino), Decimal(0)):f}"
    return {**row, "spent_usd_this_month": usd, "budget_usd_per_month": row["policy"].get("budget")}


def _replication(volume: Volume) -> Answer:
    """Replicas that policies want, and those that they let go."""
    replication = volume.replication
    failures = list(replication.failed.items())[:FAILURES_SHOWN]
    return {
        "waiting": replication.waiting,
        "failed": len(replication.failed),
        "expired": replication.expired_replicas,
        "failures": [{"object": id_, "location": at, "cause": cause} for (id_, at), cause in failures],
    }


def _locations(volume: Volume) -> list[Answer]:
    tally = volume.store.objects.tally()
    rows = []
    for id_, location in volume.locations.items():
        health = location.health
        rows.append(
            {
                "id": id_,
                "state": str(health.state),
                "cause": health.cause,
                "since_s": health.since_s,
                "replicas": {state: count for where, state, count, _ in tally if where == id_},
                "bytes": sum(
                    size for where, state, _, size in tally if where == id_ and state == "available"
                ),
                "requests": {str(kind): count for kind, count in location.counters.requests.items()},
            }
        )
    return rows
