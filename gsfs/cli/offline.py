"""Commands on a namespace that nobody has mounted, answered from its database. Imported only when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gsfs import admin
from gsfs.config import Config
from gsfs.data.cache import ObjectCache
from gsfs.data.segments import SegmentEvents, SegmentLog
from gsfs.errors import Incomplete
from gsfs.filesystem.core import BucketDefaults, Caller, Core
from gsfs.filesystem.names import Names
from gsfs.model import LocationId
from gsfs.namespace.fsck import check
from gsfs.namespace.store import Store, open_store


def answer(config: Config, command: str, **arguments: Any) -> Any:
    """What the daemon would answer to a ``bucket_`` command. Raises Incomplete after an unclean stop."""
    with _names(config) as (store, names):
        return _BUCKET[command](store, names, config, arguments)


def _create(store: Store, names: Names, config: Config, a: dict[str, Any]) -> Any:
    locations, caller = [spec.id for spec in config.location], Caller(a["uid"], a["gid"])
    return admin.create_bucket(store, names, a["name"], a["settings"], locations, caller, config.mount.region)


def _list(store: Store, _names: Names, _config: Config, _a: dict[str, Any]) -> Any:
    return admin.list_buckets(store)


def _show(store: Store, _names: Names, _config: Config, a: dict[str, Any]) -> Any:
    return admin.describe_bucket(admin.find_bucket(store, a["name"]), a["name"])


def _set(store: Store, _names: Names, config: Config, a: dict[str, Any]) -> Any:
    found, locations = admin.find_bucket(store, a["name"]), [spec.id for spec in config.location]
    checked = admin.check_settings(a["settings"], locations, config.mount.region)
    return admin.apply_settings(store, found, a["name"], checked)


def _remove(store: Store, names: Names, _config: Config, a: dict[str, Any]) -> Any:
    admin.remove_bucket(store, names, a["name"])


_BUCKET: dict[str, Callable[[Store, Names, Config, dict[str, Any]], Any]] = {
    "bucket_create": _create,
    "bucket_list": _list,
    "bucket_show": _show,
    "bucket_set": _set,
    "bucket_rm": _remove,
}


@contextmanager
def _names(config: Config) -> Iterator[tuple[Store, Names]]:
    """The namespace, as it was left by a clean stop."""
    store = open_store(config.namespace.url)
    if store.objects.still_open():
        release(store)
        raise Incomplete("the namespace was not stopped cleanly; mount it once, so that it is recovered")
    try:
        cache = ObjectCache(config.cache_dir, config.cache_bytes, config.min_free_bytes)
        nothing = SegmentEvents(lambda _s: None, lambda _s: None, store.new_object)
        log = SegmentLog(cache, config.segment_bytes, lambda: 0.0, nothing)
        d = config.bucket_defaults
        yield store, Names(Core(store, log, BucketDefaults(LocationId(d.home), d.durability, d.copies)))
    finally:
        store.close()


def problems(config: Config) -> list[str]:
    """What fsck finds. The namespace is left exactly as it was: after a crash the next mount needs its log."""
    store = open_store(config.namespace.url)
    try:
        return check(store)
    finally:
        release(store)


def release(store: Store) -> None:
    """Close without writing anything."""
    getattr(store.database, "abandon", store.database.close)()
