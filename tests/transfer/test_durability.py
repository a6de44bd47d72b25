"""What a commit promises, and what a start makes of what it finds: each a gap that was open once."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from gsfs.errors import GsfsError, InputOutput, NoSpace
from gsfs.model import ROOT_INO, Durability, ReplicaState
from gsfs.namespace.database import NOT_TO_BE_REWOUND
from tests.support.regions import EAST, Regional
from tests.support.volumes import ROOT, make_bucket, write_file
from tests.support.worlds import log_end
from tests.transfer.conftest import Place

LARGE = os.urandom(400_000)
"""More than travels in the log of commits."""


def object_files(place: Place) -> list[Path]:
    return sorted((place.directory / "cache").glob("objects/*/*"))


def test_a_writeback_fsync_waits_for_a_round_whose_mark_it_would_outrun(place: Place) -> None:
    """Else a commit behind the round's own carries an older mark, and rewinding to it loses what was fsynced."""

    async def work() -> int:
        volume = place.volume
        bucket = volume.store.buckets.get(place.bucket)
        assert bucket is not None
        volume.segments.append(place.bucket, None, LARGE)  # so that the round takes a thread
        volume.store.changed()
        commits = []

        async def local() -> None:
            await volume.committer.durable()
            commits.append(("round", volume.committer.commits))

        async def writeback() -> None:
            await trio.lowlevel.checkpoint()
            bucket.durability = Durability.WRITEBACK
            volume.store.changed()
            await volume.content.sync_inode(volume.store.inodes.get(place.bucket))
            commits.append(("writeback", volume.committer.commits))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(local)
            nursery.start_soon(writeback)
        assert commits[0][0] == "round"
        return commits[1][1] - commits[0][1]

    assert place.call(work) == 1


def test_what_survived_a_kill_is_fsynced_for_good_after_the_restart(place: Place) -> None:
    """The file's bytes were in the kernel's memory only; nobody but the start could flush them."""
    place.write(b"f", LARGE)
    place.backend.down = True
    place.let_pass(0.2)  # committed, not flushed
    place.kill()
    place.start()
    place.fsync()
    flushed = place.disk.synced
    assert [flushed.get(path) for path in object_files(place)] == [len(LARGE)]
    place.cut_power(3)
    place.start()
    assert place.read(b"f") == LARGE


def test_a_start_that_dies_before_it_queued_what_it_sealed_leaves_it_to_the_next(place: Place) -> None:
    place.write(b"f", LARGE)
    place.let_pass(0.2)
    place.kill()
    from gsfs.recovery import open_recovered  # the half of a start

    store, cache, _here, report = open_recovered(place.config)[:4]
    assert report.sealed == 1
    store.database.abandon()  # type: ignore[attr-defined]
    cache.close()
    place.start()
    place.settle()
    assert place.strays() == []
    place.evict_all()
    assert place.read(b"f") == LARGE


def test_bytes_damaged_on_the_disk_are_an_error_and_are_never_shown(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """An open segment used to be sealed with the checksum of whatever was found in it."""
    caplog.set_level(logging.CRITICAL)
    place.backend.down = True
    place.write(b"f", LARGE)
    for _ in range(2):  # the second commit knows that the first is durable
        place.fsync()
        place.write(b"g", b"x")
    place.fsync()
    place.kill()
    [path] = object_files(place)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\0" * 5000)
    place.start()
    with pytest.raises(InputOutput):
        place.read(b"f")
    assert [o.id for o in place.volume.recovered.damaged] == [1]
    place.backend.down = False
    place.settle()
    with pytest.raises(InputOutput):
        place.read(b"f")


def test_damage_that_no_power_cut_did_never_rewinds_what_was_folded(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    place.write(b"f", LARGE)
    place.backend.down = True
    place.call(place.volume.committer.fold)
    place.kill()
    for path in object_files(place):
        path.unlink()
    place.start()
    assert place.volume.recovered.rewound_bytes == 0
    assert place.exists(b"f")
    assert place.fsck() == []


def test_a_mark_that_vouches_for_one_commit_does_not_outlive_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(b"f", b"x")
    place.fsync()
    place.write(b"g", LARGE)

    async def fail() -> tuple[int, int]:
        with monkeypatch.context() as patch:
            patch.setattr("gsfs.namespace.sqlite.LOG_RESERVE_BYTES", 1 << 60)
            with pytest.raises(OSError, match="left for"):
                await place.volume.committer.fold()
        return place.volume.store.mark

    assert place.call(fail) != NOT_TO_BE_REWOUND


def test_small_fsyncs_travel_in_the_log_and_are_read_after_a_power_cut(place: Place) -> None:
    """The file was written by recovery, but its blocks were taken for absent."""
    place.backend.down = True
    place.write(b"f", b"small but promised")
    place.fsync()
    end = log_end(Path(place.volume.store.database.path))  # type: ignore[attr-defined]
    place.kill()
    for path in object_files(place):
        path.write_bytes(b"")
    assert end > 0
    place.start()
    assert place.read(b"f") == b"small but promised"


def test_unsynced_bytes_lost_in_a_power_cut_take_only_what_came_after_the_last_fsync(place: Place) -> None:
    place.backend.down = True
    place.write(b"f", LARGE)
    place.fsync()
    place.write(b"g", LARGE)
    place.let_pass(0.2)
    place.kill()
    for path in object_files(place):
        with path.open("r+b") as file:
            file.truncate(place.disk.synced[path])
    place.start()
    assert place.volume.recovered.rewound_bytes > 0
    assert place.read(b"f") == LARGE
    assert not place.exists(b"g") or place.read(b"g") == b""
    assert place.fsck() == []


def test_a_copy_that_was_evicted_does_not_count_when_the_crash_takes_the_row_back(place: Place) -> None:
    place.write(b"f", LARGE)
    place.settle()
    place.stop()
    [path] = object_files(place)
    path.unlink()
    place.start()

    async def rows() -> list[str]:
        objects = place.volume.store.objects
        return [str(r.location) for o in objects.all() for r in objects.replicas(o.id)]

    assert place.call(rows) == ["memory:home"]
    assert place.read(b"f") == LARGE


def test_the_name_of_the_cache_survives_a_power_cut(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gsfs.recovery import cache_location

    flushed: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (flushed.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1]
    )
    name = cache_location(tmp_path)
    assert flushed == [str(tmp_path / ".cache-id"), str(tmp_path)]
    assert cache_location(tmp_path) == name


def test_power_cuts_while_garbage_goes_keep_what_lives(place: Place) -> None:
    rng = random.Random(1)
    content: dict[bytes, bytes] = {}
    for number in range(12):
        name = b"f%d" % (number % 4)
        content[name] = os.urandom(rng.choice([1000, 200_000]))
        if place.exists(name):
            place.unlink(name)
        place.write(name, content[name])
        place.fsync()
        place.let_pass(6)
        place.cut_power(number)
        place.start()
        for name_, data in content.items():
            assert place.read(name_) == data


def test_a_full_disk_refuses_fsync_with_enospc_and_keeps_everything(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(b"f", LARGE)
    with monkeypatch.context() as patch:
        patch.setattr("gsfs.namespace.sqlite.LOG_RESERVE_BYTES", 1 << 60)
        with pytest.raises(NoSpace):
            place.fsync()
        assert place.read(b"f") == LARGE
    place.fsync()
    place.cut_power(9)
    place.start()
    assert place.read(b"f") == LARGE


# --- remote, for what came from another bucket


MOVED = os.urandom(300_000)


class TwoBuckets:
    """A file whose bytes belong to a bucket that promises nothing, moved into one that promises ``remote:N``."""

    def __init__(self, region: Regional, copies: int) -> None:
        self.region, self.volume = region, region.volume
        self.safe = make_bucket(region.volume, b"safe")
        promise = region.volume.store.buckets.get(self.safe)
        assert promise is not None
        promise.durability, promise.copies = Durability.REMOTE, copies
        self.file = write_file(region.volume, region.ino, b"f", MOVED)

    def move(self) -> None:
        self.volume.names.rename(self.region.ino, b"f", self.safe, b"f", 0)

    def fsync(self) -> GsfsError | None:
        """The error it ends with."""

        async def work() -> GsfsError | None:
            try:
                await self.volume.content.sync_inode(self.volume.store.inodes.get(self.file))
            except GsfsError as error:
                return error
            return None

        return self.region.run(work)

    def locations(self) -> list[set[str]]:
        """Of each object of the file: where it is."""
        objects = self.volume.store.objects
        runs = self.volume.store.extents.runs(self.volume.store.inodes.get(self.file), 0, len(MOVED))
        return [
            {r.location for r in objects.replicas(run.object) if r.state is ReplicaState.AVAILABLE}
            - {self.volume.cache_location}
            for run in runs
        ]


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Regional]:
    made = Regional(tmp_path)
    yield made
    trio.run(made.volume.close)


def test_remote_fsync_waits_for_bytes_that_belong_to_another_bucket(region: Regional) -> None:
    """They were in an open segment of the bucket that the file was moved from, which nobody was asked to upload."""
    two = TwoBuckets(region, copies=1)
    two.move()
    assert two.fsync() is None
    assert two.locations() == [{EAST}]


@pytest.mark.parametrize("uploaded", [False, True])
def test_remote_fsync_makes_the_copies_that_the_other_bucket_did_not_promise(
    region: Regional, uploaded: bool
) -> None:
    two = TwoBuckets(region, copies=2)
    if uploaded:
        region.run(region.volume.flush)
    two.move()
    assert two.fsync() is None
    assert [len(where) for where in two.locations()] == [2]


def test_remote_fsync_of_a_copy_covers_the_bytes_it_shares(region: Regional) -> None:
    two = TwoBuckets(region, copies=2)
    two.move()
    volume = region.volume
    source = volume.content.open(two.file, os.O_RDONLY)[0]
    copy = volume.names.create(two.safe, b"copy", 0o644, ROOT).ino
    target = volume.content.open(copy, os.O_RDWR)[0]
    assert volume.ranges.copy(source, 0, target, 0, len(MOVED)) == len(MOVED)
    two.file = copy
    assert two.fsync() is None
    assert [len(where) for where in two.locations()] == [2]


def test_remote_fsync_fails_where_a_copy_cannot_be_made(region: Regional) -> None:
    two = TwoBuckets(region, copies=2)
    region.run(region.volume.flush)
    two.move()
    [run] = region.volume.store.extents.runs(region.volume.store.inodes.get(two.file), 0, len(MOVED))
    region.volume.cache.remove(run.object)
    for path in (region.config.cache_dir.parent / EAST.replace(":", "-")).rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    assert isinstance(two.fsync(), InputOutput)


def test_what_left_a_bucket_before_it_was_removed_is_uploaded_all_the_same(region: Regional) -> None:
    """Its objects belong to nobody whose policy could say where to."""
    two = TwoBuckets(region, copies=1)
    two.move()
    region.volume.names.rmdir(ROOT_INO, b"bucket")
    region.run(region.volume.flush)
    assert two.locations() == [{EAST}]
    assert two.fsync() is None
    assert region.volume.dirty_bytes == 0
