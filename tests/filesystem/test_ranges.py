"""Room, holes and copies without FUSE: what is refused, what is shared, and what of it lives on."""

from __future__ import annotations

import os

import pytest

from gsfs.errors import BeyondEnd, CrossesBuckets, NotSupported, QuotaExceeded, TooLarge
from gsfs.filesystem import ranges
from gsfs.filesystem.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from gsfs.model import FILE_SIZE_MAX, Ino
from gsfs.namespace import fsck
from gsfs.volume import Volume
from tests.support.volumes import ROOT, make_bucket, now, read_file, write_file

DATA = bytes(range(256)) * 40


def make(volume: Volume, bucket: Ino, name: bytes, data: bytes = b"") -> tuple[Ino, int]:
    """(a file with that content, a handle on it)."""
    ino = write_file(volume, bucket, name, data)
    return ino, volume.content.open(ino, os.O_RDWR)[0]


def copy(volume: Volume, source: int, target: int, length: int, at: int = 0, to: int = 0) -> int:
    return volume.ranges.copy(source, at, target, to, length)


def stored_bytes(volume: Volume) -> int:
    return volume.segments.open_segments()[0].size


def is_consistent(volume: Volume) -> bool:
    volume.store.commit()
    assert fsck.check(volume.store) == []
    return True


# --- room and holes


def test_allocating_lengthens_unless_the_size_is_to_be_kept(volume: Volume, bucket: Ino) -> None:
    ino, _ = make(volume, bucket, b"f", b"abc")
    volume.ranges.allocate(ino, KEEP_SIZE, 0, 1000)
    assert read_file(volume, ino) == b"abc"
    volume.ranges.allocate(ino, 0, 2, 1000)
    assert read_file(volume, ino) == b"abc".ljust(1002, b"\0")
    assert volume.attributes.getattr(ino).allocated == 3


def test_a_punched_range_reads_zeros_and_gives_its_space_back(volume: Volume, bucket: Ino) -> None:
    ino, _ = make(volume, bucket, b"f", DATA)
    volume.ranges.allocate(ino, PUNCH_HOLE | KEEP_SIZE, 100, 5000)
    assert read_file(volume, ino) == DATA[:100] + bytes(5000) + DATA[5100:]
    assert volume.attributes.getattr(ino).allocated == len(DATA) - 5000
    usage = volume.store.buckets.get(bucket)
    assert usage is not None
    assert usage.used_bytes == len(DATA) - 5000
    assert is_consistent(volume)


def test_a_zeroed_range_reaches_past_the_end_if_asked(volume: Volume, bucket: Ino) -> None:
    ino, _ = make(volume, bucket, b"f", DATA)
    volume.ranges.allocate(ino, ZERO_RANGE | KEEP_SIZE, len(DATA) - 10, 100)
    assert read_file(volume, ino) == DATA[:-10] + bytes(10)
    volume.ranges.allocate(ino, ZERO_RANGE, len(DATA) - 20, 100)
    assert read_file(volume, ino) == DATA[:-20] + bytes(100)
    assert is_consistent(volume)


def test_what_would_move_bytes_or_reach_too_far_is_refused(volume: Volume, bucket: Ino) -> None:
    ino, _ = make(volume, bucket, b"f", DATA)
    collapse, insert = 0x08, 0x20
    for mode in (collapse, insert, PUNCH_HOLE):
        with pytest.raises(NotSupported):
            volume.ranges.allocate(ino, mode, 0, 4096)
    with pytest.raises(TooLarge):
        volume.ranges.allocate(ino, 0, FILE_SIZE_MAX, 1)
    with pytest.raises(NotSupported):
        volume.ranges.allocate(bucket, 0, 0, 1)


def test_holes_and_data_are_found(volume: Volume, bucket: Ino, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of 4 KiB, as everywhere: tools take what is told of a smaller granularity for a mistake."""
    monkeypatch.setattr(ranges, "PAGE", 2)
    k = 4096
    ino, handle = make(volume, bucket, b"f")
    for i in range(
        7
    ):  # 7 extents in a row that are not one, up to the second block, then two blocks of nothing
        now(volume.content.write, handle, 6000 - 1000 * i, b"x" * 1000)
    now(volume.content.write, handle, 4 * k + 100, b"x" * 10)
    volume.ranges.allocate(ino, 0, 0, 7 * k + 10)
    seek = volume.ranges.seek
    for at, hole in (
        (0, 2 * k), (35, 2 * k), (7000, 2 * k), (2 * k, 2 * k), (3 * k + 5, 3 * k + 5), (4 * k, 5 * k), (4 * k + 500, 5 * k),
        (5 * k + 1, 5 * k + 1), (7 * k + 9, 7 * k + 9),
    ):  # fmt: skip
        assert seek(ino, at, os.SEEK_HOLE) == hole
    for at, data in ((0, 0), (7000, 7000), (2 * k, 4 * k), (4 * k - 1, 4 * k), (4 * k + 1, 4 * k + 1)):
        assert seek(ino, at, os.SEEK_DATA) == data
    for whence, at in ((os.SEEK_DATA, 5 * k), (os.SEEK_DATA, 7 * k + 10), (os.SEEK_HOLE, 7 * k + 10)):
        with pytest.raises(BeyondEnd):
            seek(ino, at, whence)
    with pytest.raises(BeyondEnd):
        seek(ino, -1, os.SEEK_HOLE)
    volume.attributes.truncate(volume.core.inode(ino), 4 * k + 105)
    assert seek(ino, 4 * k, os.SEEK_HOLE) == 4 * k + 105


# --- copies


def test_a_copy_takes_no_space_and_outlives_its_source(volume: Volume, bucket: Ino) -> None:
    source, from_handle = make(volume, bucket, b"source", DATA)
    target, to_handle = make(volume, bucket, b"target")
    before = stored_bytes(volume)
    assert copy(volume, from_handle, to_handle, 10**9) == len(DATA)
    assert stored_bytes(volume) == before
    now(volume.content.write, from_handle, 0, b"changed")
    assert read_file(volume, target) == DATA
    volume.content.release(from_handle)
    volume.names.unlink(bucket, b"source")
    assert volume.store.inodes.cached(source) is None
    assert read_file(volume, target) == DATA
    assert is_consistent(volume)


def test_an_object_is_garbage_when_the_last_file_that_shares_it_is_gone(volume: Volume, bucket: Ino) -> None:
    handles = [make(volume, bucket, name, data)[1] for name, data in ((b"source", DATA), (b"target", b""))]
    copy(volume, *handles, len(DATA))
    for handle in handles:
        volume.content.release(handle)
    volume.segments.seal_all()
    for name, live in ((b"source", 2 * len(DATA)), (b"target", len(DATA))):
        volume.store.commit()
        assert volume.store.objects.totals()[2] == live
        assert volume.store.objects.garbage() == []
        volume.names.unlink(bucket, name)
    volume.store.commit()
    assert volume.store.objects.totals()[2] == 0
    assert is_consistent(volume)


def test_holes_are_copied_as_holes_over_what_was_there(volume: Volume, bucket: Ino) -> None:
    source, from_handle = make(volume, bucket, b"source", DATA)
    volume.ranges.allocate(source, PUNCH_HOLE | KEEP_SIZE, 1000, 2000)
    volume.ranges.allocate(source, 0, 0, len(DATA) + 500)
    target, to_handle = make(volume, bucket, b"target", b"y" * 9000)
    assert copy(volume, from_handle, to_handle, 10**9, at=500, to=7) == len(DATA)
    content = read_file(volume, source)
    assert read_file(volume, target) == b"y" * 7 + content[500:]
    assert volume.attributes.getattr(target).allocated == 7 + len(DATA) - 2000 - 500
    assert is_consistent(volume)


def test_ranges_of_one_file_are_copied_within_it(volume: Volume, bucket: Ino) -> None:
    ino, handle = make(volume, bucket, b"f", DATA)
    assert copy(volume, handle, handle, 300, at=0, to=5000) == 300
    assert copy(volume, handle, handle, 300, at=5100, to=len(DATA) - 10) == 300
    expected = DATA[:5000] + DATA[:300] + DATA[5300:]
    assert read_file(volume, ino) == expected[:-10] + expected[5100:5400]
    assert is_consistent(volume)


def test_appending_after_a_copy_leaves_the_source_alone(volume: Volume, bucket: Ino) -> None:
    """The copy ends where the log does: what is written next lies behind it there, and belongs to the writer only."""
    source, from_handle = make(volume, bucket, b"source", DATA)
    target, to_handle = make(volume, bucket, b"target")
    copy(volume, from_handle, to_handle, len(DATA))
    now(volume.content.write, to_handle, len(DATA), b"tail")
    assert read_file(volume, source) == DATA
    assert read_file(volume, target) == DATA + b"tail"
    assert is_consistent(volume)


def test_a_fragmented_file_is_copied_in_pieces(
    volume: Volume, bucket: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "COPY_EXTENTS_MAX", 4)
    source, from_handle = make(volume, bucket, b"source")
    for i in reversed(range(20)):
        now(volume.content.write, from_handle, i * 10, b"%010d" % i)
    volume.ranges.allocate(source, 0, 0, 250)
    target, to_handle = make(volume, bucket, b"target")
    at, steps = 0, 0
    while count := copy(volume, from_handle, to_handle, 1000, at=at, to=at):
        at, steps = at + count, steps + 1
    assert steps > 5
    assert read_file(volume, target) == read_file(volume, source)
    assert is_consistent(volume)


def test_copies_between_buckets_are_left_to_reading_and_writing(volume: Volume, bucket: Ino) -> None:
    _, from_handle = make(volume, bucket, b"source", DATA)
    _, to_handle = make(volume, make_bucket(volume, b"other"), b"target")
    with pytest.raises(CrossesBuckets):
        copy(volume, from_handle, to_handle, 10)


def test_copies_and_room_count_for_the_quota(volume: Volume, bucket: Ino) -> None:
    source, from_handle = make(volume, bucket, b"source", DATA)
    target, to_handle = make(volume, bucket, b"target")
    quota = volume.store.buckets.get(bucket)
    assert quota is not None
    quota.quota_bytes = len(DATA) + 100
    with pytest.raises(QuotaExceeded):
        copy(volume, from_handle, to_handle, 101)
    assert copy(volume, from_handle, to_handle, 100) == 100
    assert copy(volume, from_handle, to_handle, 100) == 100  # over itself: nothing more
    with pytest.raises(QuotaExceeded):
        volume.ranges.allocate(target, 0, 0, 101)
    volume.ranges.allocate(source, 0, 0, len(DATA))
    assert read_file(volume, target) == DATA[:100]


# --- what df shows


def test_a_bucket_with_a_quota_is_as_large_as_it_for_df(volume: Volume, bucket: Ino) -> None:
    ino, _ = make(volume, bucket, b"f", DATA)
    whole = volume.space()
    assert volume.space(ino) == whole
    quota = volume.store.buckets.get(bucket)
    assert quota is not None
    quota.quota_bytes, quota.quota_inodes = 100_000, 10
    shown = volume.space(ino)
    assert (shown.total_bytes, shown.free_bytes) == (100_000, 100_000 - len(DATA))
    assert (shown.inodes, shown.free_inodes) == (2, 8)
    quota.quota_bytes, quota.quota_inodes = 10, 1
    assert volume.space(bucket)[1::2] == (0, 0)
    assert volume.space(1) == volume.space() == whole


def test_the_umask_is_applied_unless_a_default_acl_stands_for_it(volume: Volume, bucket: Ino) -> None:
    """The kernel leaves the umask to the file system (FUSE_DONT_MASK)."""
    careful = ROOT._replace(umask=0o027)
    made = [
        volume.names.create(bucket, b"file", 0o666, careful),
        volume.names.mkdir(bucket, b"dir", 0o777, careful),
        volume.names.mknod(bucket, b"fifo", 0o010666, 0, careful),
        volume.names.mkdir(1, b"bucket2", 0o777, careful),
    ]
    assert [inode.mode & 0o7777 for inode in made] == [0o640, 0o750, 0o640, 0o750]
    assert volume.names.symlink(bucket, b"link", b"x", careful).mode & 0o7777 == 0o777
