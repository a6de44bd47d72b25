"""Rows for tests of the store: the shortest way to a file, an object, a bucket."""

from __future__ import annotations

import stat

from gsfs.model import ROOT_INO, Durability, Ino, LocationId, ObjectId, ObjectState, ReplicaState
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.inodes import Inode
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.store import Store

HERE, THERE = LocationId("cache:here"), LocationId("memory:there")


def bucket(store: Store, name: bytes = b"bucket") -> Inode:
    """A virtual bucket with its directory."""
    ino = store.new_ino()
    inode = store.inodes.add((ino, ino, ROOT_INO, stat.S_IFDIR | 0o755, 0, 0, 0, 2, 0, 0, 1, 1, 1))
    store.buckets.add(Bucket(ino, THERE, Durability.LOCAL, 1, None, None, 0, 1, "{}"))
    store.entries.insert(ROOT_INO, name, ino, store.new_entry_number())
    root = store.inodes.get(ROOT_INO)
    root.nlink += 1
    store.inodes.touch(root)
    return inode


def file(store: Store, parent: Inode, name: bytes) -> Inode:
    """An empty file in a bucket's directory."""
    ino = store.new_ino()
    inode = store.inodes.add((ino, parent.bucket, 0, stat.S_IFREG | 0o644, 0, 0, 0, 1, 0, 0, 1, 1, 1))
    store.entries.insert(parent.ino, name, ino, store.new_entry_number())
    owner = store.buckets.get(parent.bucket)
    assert owner is not None
    owner.used_inodes += 1
    owner.changed = True
    return inode


def object_(
    store: Store, parent: Inode, size: int = 1000, state: ObjectState = ObjectState.SEALED
) -> ObjectId:
    """An object with one available local replica."""
    id_ = store.new_object()
    store.objects.add(PhysicalObject(id_, Ino(parent.bucket), 1, state, size, 0, 0, b"", 1, size))
    store.objects.add_replica(id_, HERE, ReplicaState.AVAILABLE)
    return id_
