"""A volume over three regions under a clock of the test's own, driven without FUSE. Owns no claim."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import trio

from gsfs.admin import apply_settings, check_settings, find_bucket
from gsfs.config import parse
from gsfs.model import Ino, ObjectId
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.replicas import READABLE
from gsfs.volume import Volume
from tests.support.volumes import ROOT, make_bucket, make_namespace

EAST, WEST, EUROPE = "aws:us-east-1", "aws:us-west-2", "azure:westeurope"
REGIONS = (EAST, WEST, EUROPE)
DAY_S = 86_400.0
START_S = 1_800_000_000.0
T = TypeVar("T")


class Clock:
    """Seconds since the epoch; moves only when told."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s


class Regional:
    """The volume runs in WEST; its one bucket has its home in EAST. ``prices``: rows that override the list."""

    def __init__(self, path: Path, *, prices: str = "", segment_size: str = "1MiB", **policy: str) -> None:
        raw: dict[str, Any] = {
            "filesystem": {"name": "test"},
            "namespace": {"url": f"sqlite:///{path}/cache/namespace.db", "ship_interval_s": 0.0},
            "cache": {"path": f"{path}/cache", "min_free": "64MiB"},
            "mount": {"region": WEST},
            "transfer": {"segment_size": segment_size},
            "location": [
                {"id": id_, "kind": "local", "path": f"{path}/{id_.replace(':', '-')}"} for id_ in REGIONS
            ],
            "bucket_defaults": {"home": EAST},
        }
        if prices:
            (path / "prices.csv").write_text(f"kind,region,dst,value\n{prices}")
            raw["policy"] = {"prices": f"{path}/prices.csv"}
        self.config = parse(raw, {}, str(path / "gsfs.toml"))
        make_namespace(self.config)
        self.clock = Clock()
        self.volume = Volume(self.config, clock=self.clock)
        self.ino = make_bucket(self.volume)
        self.set(**policy)

    @property
    def bucket(self) -> Bucket:
        return find_bucket(self.volume.store, "bucket")

    def set(self, **policy: str) -> None:
        apply_settings(self.volume.store, self.bucket, "bucket", check_settings(policy, list(REGIONS)))

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """``work`` while the movers run."""

        async def main() -> T:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.volume.run)
                result = await work()
                nursery.cancel_scope.cancel()
            return result

        return trio.run(main)

    def reopen(self) -> None:
        """Stop cleanly and start again."""
        self.close()
        self.volume = Volume(self.config, clock=self.clock)

    def close(self) -> None:
        trio.run(self.volume.close)

    async def write(self, name: bytes, data: bytes) -> Ino:
        """A new file, at its locations when this returns."""
        volume = self.volume
        inode = volume.names.create(self.ino, name, 0o644, ROOT)
        handle = volume.content.open_inode(inode, 2)
        await volume.content.write(handle, 0, data)
        volume.content.release(handle)
        await volume.flush()
        return inode.ino

    async def read(self, ino: int) -> bytes:
        """The whole file; a replica that the read leaves is there when this returns."""
        volume = self.volume
        handle, _ = volume.content.open(ino, 0)
        data = bytes(await volume.content.read(handle, 0, volume.core.inode(ino).size))
        volume.content.release(handle)
        await self.settle()
        return data

    async def settle(self) -> None:
        """Replicas that reads wanted are there."""
        while self.volume.replication.waiting:
            await trio.lowlevel.checkpoint()
        await self.volume.flush()

    async def forget_local(self) -> None:
        """Nothing that may go stays in the cache: the next read goes to a location."""
        for _ in range(2):  # an arrival counts once it is durable
            self.volume.store.changed()
            await self.volume.committer.durable()
        self.volume.cache.make_room(self.volume.cache.capacity_bytes, look_at_disk=False)

    def objects(self, ino: int) -> list[ObjectId]:
        inode = self.volume.core.inode(ino)
        return [run.object for run in self.volume.store.extents.runs(inode, 0, inode.size)]

    def locations(self, ino: int) -> set[str]:
        """Where every object of the file has a readable replica, the cache left out."""
        found = [
            {str(r.location) for r in self.volume.store.objects.replicas(id_) if r.state in READABLE}
            for id_ in self.objects(ino)
        ]
        return {name for name in set.intersection(*found) if not name.startswith("cache:")}
