"""Inodes, entries, attributes, buckets: what is kept in memory and what is in the tables agree."""

from __future__ import annotations

import pytest

from gsfs.errors import Stale
from gsfs.namespace.fsck import check
from gsfs.namespace.store import Store, open_store
from tests.namespace import making


def test_a_changed_inode_is_written_with_the_commit_and_read_back(url: str) -> None:
    store = open_store(url)
    bucket = making.bucket(store)
    inode = making.file(store, bucket, b"f")
    inode.size, inode.mtime_ns = 2**63 - 1, 2**62
    store.inodes.touch(inode)
    store.commit()
    ino = inode.ino
    store.close()
    store = open_store(url)
    again = store.inodes.get(ino)
    assert (again.size, again.mtime_ns) == (2**63 - 1, 2**62)
    store.close()


def test_a_row_from_a_query_never_hides_what_memory_knows_better(store: Store) -> None:
    bucket = making.bucket(store)
    inode = making.file(store, bucket, b"f")
    store.commit()
    row = store.entries.find_inode(bucket.ino, b"f")
    assert row is not None
    inode.uid = 77
    store.inodes.touch(inode)
    assert store.inodes.adopt(row) is inode
    assert store.inodes.adopt(row).uid == 77


def test_trimming_lets_go_of_clean_idle_inodes_only(store: Store) -> None:
    bucket = making.bucket(store)
    clean, changed, opened = (making.file(store, bucket, name) for name in (b"clean", b"changed", b"open"))
    store.commit()
    store.inodes.touch(changed)
    opened.opens = 1
    store.inodes.trim(0)
    assert store.inodes.cached(clean.ino) is None
    assert store.inodes.cached(changed.ino) is changed
    assert store.inodes.cached(opened.ino) is opened
    assert store.inodes.get(clean.ino).ino == clean.ino


def test_a_removed_inode_lives_until_the_kernel_forgets_it(store: Store) -> None:
    bucket = making.bucket(store)
    inode = making.file(store, bucket, b"f")
    store.commit()
    inode.lookups = 2
    store.entries.delete(bucket.ino, b"f")
    store.inodes.remove(inode)
    store.commit()
    assert store.inodes.get(inode.ino).deleted
    store.inodes.forget(inode.ino, 2)
    with pytest.raises(Stale):
        store.inodes.get(inode.ino)


def test_pages_of_a_listing_are_in_order_and_leave_out_what_came_later(store: Store) -> None:
    bucket = making.bucket(store)
    names = [b"%03d" % number for number in range(25)]
    for name in reversed(names):
        making.file(store, bucket, name)
    upto = store.last_entry_number
    making.file(store, bucket, b"0055-later")
    store.flush()
    listed: list[bytes] = []
    while page := store.entries.page(bucket.ino, listed[-1] if listed else b"", upto, 4):
        assert len(page) <= 4
        listed += [bytes(row[0]) for row in page]
    assert listed == names


def test_attributes_are_set_replaced_listed_and_cleared(store: Store) -> None:
    bucket = making.bucket(store)
    for value in (b"1", b"", b"\0\xff" * 100):
        store.xattrs.set(bucket.ino, b"user.x", value)
        assert store.xattrs.get(bucket.ino, b"user.x") == value
    store.xattrs.set(bucket.ino, b"user.a", b"2")
    assert store.xattrs.names(bucket.ino) == [b"user.a", b"user.x"]
    assert store.xattrs.remove(bucket.ino, b"user.a")
    assert not store.xattrs.remove(bucket.ino, b"user.a")
    store.xattrs.clear(bucket.ino)
    assert store.xattrs.names(bucket.ino) == []


def test_a_bucket_counts_the_bytes_of_its_files(store: Store) -> None:
    bucket = making.bucket(store)
    inode, object_ = making.file(store, bucket, b"f"), making.object_(store, bucket)
    store.extents.write(inode, 100, 40, object_, 0)
    inode.size = 140
    store.extents.write(inode, 120, 40, object_, 40)
    inode.size = 160
    store.inodes.touch(inode)
    store.commit()
    row = store.buckets.get(bucket.ino)
    assert row is not None and row.used_bytes == 60
    assert check(store) == []


def test_moved_directories_are_remembered_until_done(url: str) -> None:
    store = open_store(url)
    store.rebucket_add(9)
    store.rebucket_add(9)
    store.close()
    store = open_store(url)
    assert store.rebucket_pending() == [9]
    store.rebucket_done(9)
    assert store.rebucket_pending() == []
    store.close()
