"""Quotas of a bucket: growth is refused at the right byte, everything else never is, and what goes gives its room back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gsfs.admin import apply_settings, check_settings, find_bucket
from gsfs.errors import CrossesBuckets, QuotaExceeded
from gsfs.filesystem import names
from gsfs.filesystem.attributes import Changes
from gsfs.filesystem.names import RENAME_EXCHANGE
from gsfs.model import Ino
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.fsck import check
from gsfs.volume import Volume
from tests.support.volumes import ROOT, make_bucket, make_namespace, now, opened, settings, write_file

K = 1024


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    chosen = settings(tmp_path)
    make_namespace(chosen)
    with opened(chosen) as volume:
        yield volume
        volume.store.write_out()
        assert check(volume.store) == []


@pytest.fixture
def bucket(volume: Volume) -> Ino:
    """One that may hold 10 KiB and, itself included, 5 inodes."""
    ino = make_bucket(volume, b"small")
    limits = {"quota_bytes": "10KiB", "quota_inodes": "5"}
    apply_settings(volume.store, of(volume, "small"), "small", check_settings(limits, ["local:store"]))
    return ino


@pytest.fixture
def other(volume: Volume) -> Ino:
    return make_bucket(volume, b"other")


def of(volume: Volume, name: str) -> Bucket:
    return find_bucket(volume.store, name)


def append(volume: Volume, ino: int, offset: int, size: int) -> int:
    handle, _ = volume.content.open(ino, 2)
    try:
        return now(volume.content.write, handle, offset, b"x" * size)
    finally:
        volume.content.release(handle)


def test_the_last_byte_fits_the_next_one_does_not_and_the_error_says_how_to_lift_it(
    volume: Volume, bucket: Ino
) -> None:
    ino = write_file(volume, bucket, b"file", b"x" * (10 * K - 1))
    append(volume, ino, 10 * K - 1, 1)
    with pytest.raises(QuotaExceeded, match="bucket set small quota_bytes="):
        append(volume, ino, 10 * K, 1)
    assert of(volume, "small").used_bytes == 10 * K


def test_a_full_bucket_takes_overwrites_holes_and_shorter_files(volume: Volume, bucket: Ino) -> None:
    ino = write_file(volume, bucket, b"file", b"x" * 10 * K)
    assert append(volume, ino, 3 * K, 5 * K) == 5 * K
    with pytest.raises(QuotaExceeded):
        append(volume, ino, 9 * K, 2 * K)
    volume.attributes.setattr(ino, Changes(size=100 * K), ROOT)
    with pytest.raises(QuotaExceeded):
        append(volume, ino, 50 * K, 1)
    volume.attributes.setattr(ino, Changes(size=4 * K), ROOT)
    assert append(volume, ino, 4 * K, 6 * K) == 6 * K
    assert of(volume, "small").used_bytes == 10 * K


def test_emptying_on_open_gives_the_room_back(volume: Volume, bucket: Ino) -> None:
    ino = write_file(volume, bucket, b"file", b"x" * 10 * K)
    handle, _ = volume.content.open(ino, 0o1001)  # O_WRONLY | O_TRUNC
    now(volume.content.write, handle, 0, b"y" * 10 * K)
    volume.content.release(handle)
    assert of(volume, "small").used_bytes == 10 * K


def test_a_removed_file_gives_its_room_back_when_its_last_name_and_handle_are_gone(
    volume: Volume, bucket: Ino
) -> None:
    ino = write_file(volume, bucket, b"file", b"x" * 10 * K)
    volume.names.link(ino, bucket, b"second")  # no inode, no bytes
    volume.names.unlink(bucket, b"file")
    handle, _ = volume.content.open(ino, 0)
    volume.names.unlink(bucket, b"second")
    assert of(volume, "small").used_bytes == 10 * K
    volume.content.release(handle)
    assert (of(volume, "small").used_bytes, of(volume, "small").used_inodes) == (0, 1)


def test_every_kind_of_inode_counts_and_hard_links_do_not(volume: Volume, bucket: Ino) -> None:
    volume.names.mkdir(bucket, b"directory", 0o755, ROOT)
    volume.names.symlink(bucket, b"symlink", b"target", ROOT)
    volume.names.mknod(bucket, b"fifo", 0o010644, 0, ROOT)
    ino = write_file(volume, bucket, b"file", b"")
    with pytest.raises(QuotaExceeded, match="quota_inodes"):
        volume.names.create(bucket, b"one more", 0o644, ROOT)
    volume.names.link(ino, bucket, b"link")
    volume.names.unlink(bucket, b"fifo")
    volume.names.create(bucket, b"one more", 0o644, ROOT)


def test_a_file_moved_in_from_another_bucket_must_fit(volume: Volume, bucket: Ino, other: Ino) -> None:
    """It used to fit whatever its size."""
    write_file(volume, other, b"fits", b"x" * 6 * K)
    write_file(volume, other, b"large", b"x" * (4 * K + 1))
    volume.names.rename(other, b"fits", bucket, b"fits", 0)
    with pytest.raises(QuotaExceeded):
        volume.names.rename(other, b"large", bucket, b"large", 0)
    assert volume.names.lookup(other, b"large") is not None
    volume.names.rename(other, b"large", bucket, b"fits", 0)  # what it replaces gives its room back
    assert of(volume, "small").used_bytes == 4 * K + 1
    assert of(volume, "other").used_bytes == 0


def test_two_files_are_exchanged_where_both_fit(volume: Volume, bucket: Ino, other: Ino) -> None:
    write_file(volume, other, b"large", b"x" * 11 * K)
    write_file(volume, bucket, b"small", b"x" * 9 * K)
    with pytest.raises(QuotaExceeded):
        volume.names.rename(other, b"large", bucket, b"small", RENAME_EXCHANGE)
    write_file(volume, other, b"ten", b"x" * 10 * K)
    volume.names.rename(other, b"ten", bucket, b"small", RENAME_EXCHANGE)
    assert of(volume, "small").used_bytes == 10 * K


def test_a_tree_moved_in_must_fit_with_all_that_is_in_it(
    volume: Volume, bucket: Ino, other: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = volume.names.mkdir(other, b"tree", 0o755, ROOT).ino
    deep = volume.names.mkdir(tree, b"deep", 0o755, ROOT).ino
    write_file(volume, deep, b"a", b"x" * 6 * K)
    write_file(volume, tree, b"b", b"x" * 5 * K)
    with pytest.raises(QuotaExceeded, match="quota_bytes"):
        volume.names.rename(other, b"tree", bucket, b"tree", 0)
    volume.names.unlink(tree, b"b")
    monkeypatch.setattr(names, "WEIGHED_MAX", 2)
    with pytest.raises(CrossesBuckets):  # mv copies, and meets the quota on the way
        volume.names.rename(other, b"tree", bucket, b"tree", 0)
    monkeypatch.setattr(names, "WEIGHED_MAX", 100)
    volume.names.rename(other, b"tree", bucket, b"tree", 0)
    for ino in volume.store.rebucket_pending():
        now(volume.rebucket.walk, ino)
    for ino in volume.store.rebucket_pending():
        now(volume.rebucket.walk, ino)
    assert (of(volume, "small").used_bytes, of(volume, "small").used_inodes) == (6 * K, 4)
    write_file(volume, other, b"c", b"")
    volume.names.mkdir(bucket, b"fifth", 0o755, ROOT)
    with pytest.raises(QuotaExceeded, match="quota_inodes"):
        volume.names.rename(other, b"c", bucket, b"c", 0)
