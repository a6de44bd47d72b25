"""What every part of the file system shares: who asks, the stores, and the small rules used everywhere.

Owns no operation of its own. Functions that are not ``async`` run to their end without suspending, which is
what makes an operation atomic; nothing here takes a lock.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from gsfs.data.segments import SegmentLog
from gsfs.errors import NameTooLong, NotADirectory, NotPermitted, QuotaExceeded, Stale
from gsfs.filesystem.recording import Recorder
from gsfs.model import NAME_MAX, ROOT_INO, Durability, Ino, LocationId
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.inodes import Inode
from gsfs.namespace.store import Store
from gsfs.policy.limits import Quota

DAY_NS = 86_400 * 10**9
REAP_INLINE_EXTENTS = 1000
"""Files with more extents than this are removed by the reaper, piece by piece."""


class Caller(NamedTuple):
    """Who asks. Permissions are the kernel's business (default_permissions); ownership of what is made is ours."""

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0

    def is_in(self, gid: int) -> bool:
        """Whether the group is one of the caller's. A request names one group; proc(5) tells the others."""
        return gid == self.gid or gid in supplementary_groups(self.pid)


def supplementary_groups(pid: int) -> list[int]:
    """Groups of a process, or thread; none where it cannot be seen (0: in another pid namespace)."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes() if pid else b""
    except OSError:
        return []
    line = next((line for line in status.splitlines() if line.startswith(b"Groups:")), b":")
    return [int(word) for word in line.partition(b":")[2].split()]


SUPERUSER = Caller(0, 0)


@dataclass(frozen=True, slots=True)
class BucketDefaults:
    """What a bucket made by ``mkdir`` gets."""

    home: LocationId
    durability: Durability = Durability.LOCAL
    copies: int = 1
    policy: str = "{}"


class Follower(Protocol):
    """Wants to know what changes in a bucket. Called within the operation; must be quick and must not raise."""

    def name_changed(self, directory: Inode, name: bytes, *, tree: bool) -> None:
        """The name leads elsewhere, or nowhere, from now on; ``tree``: names below it have other paths."""

    def content_changed(self, inode: Inode) -> None:
        """Bytes of a file changed, and nobody has it open for writing any more."""


class Core:
    """Shared state of the parts of one mounted file system."""

    def __init__(self, store: Store, segments: SegmentLog, defaults: BucketDefaults) -> None:
        self.store = store
        self.segments = segments
        self.defaults = defaults
        self.reap_later: Callable[[Ino], None] = lambda _ino: None
        """Told of files without a name whose removal takes long."""
        self.recorder: Recorder | None = None
        """Where requests are recorded, while they are."""
        self.keeps_access_times = True
        """False under ``noatime`` and ``ro``: the kernel leaves access times to the file system."""

        self.on_placed: Callable[[Inode, Inode], None] = lambda _directory, _inode: None
        """Told of a name that now leads to the inode from this directory, while anything is pinned; not of a new
        directory, in which there is nothing."""
        self.on_entry_changed: Callable[[int, bytes], None] = lambda _parent, _name: None
        """Told of names that changed without the kernel having asked for it: it must look them up anew."""
        self.on_attributes_changed: Callable[[int], None] = lambda _ino: None
        """Told likewise of inodes."""
        self.followers: dict[Ino, Follower] = {}
        """By bucket: who keeps a copy of it current. Empty for nearly every mount, and tested before any call."""

    def now(self) -> int:
        return time.time_ns()

    def inode(self, ino: int) -> Inode:
        """The inode. Raises Stale."""
        return self.store.inodes.get(ino)

    def directory(self, ino: int) -> Inode:
        """The inode, which must be a directory that still has a name."""
        inode = self.store.inodes.get(ino)
        if not stat.S_ISDIR(inode.mode):
            raise NotADirectory(f"inode {ino}: not a directory")
        if inode.nlink == 0:
            raise Stale(f"inode {ino}: the directory was removed")
        return inode

    def find(self, parent: int, name: bytes) -> Inode | None:
        """The inode a name leads to, or None."""
        if len(name) > NAME_MAX:
            raise NameTooLong(f"name of {len(name)} bytes; takes at most {NAME_MAX}")
        ino = self.store.entries.find(parent, name)
        return None if ino is None else self.store.inodes.get(ino)

    def bucket_of(self, inode: Inode) -> Bucket:
        bucket = self.store.buckets.get(inode.bucket)
        if bucket is None:
            raise NotPermitted("the root holds only virtual buckets: make files inside a directory of it")
        return bucket

    def touch_content(self, inode: Inode, now_ns: int) -> None:
        """Its content changed: mtime and ctime."""
        inode.mtime_ns = inode.ctime_ns = now_ns
        self.store.inodes.touch(inode)

    def touch_inode(self, inode: Inode, now_ns: int) -> None:
        """Its attributes changed: ctime."""
        inode.ctime_ns = now_ns
        self.store.inodes.touch(inode)

    def touch_access(self, inode: Inode) -> None:
        """It was read: atime, by the rules of relatime."""
        if self.access_time_is_stale(inode):
            inode.atime_ns = time.time_ns()
            self.store.inodes.touch(inode)
            self.store.booked()  # looking at a tree must not cost a shipment of the namespace

    def access_time_is_stale(self, inode: Inode) -> bool:
        """Whether the next read would change atime."""
        if not self.keeps_access_times:
            return False
        atime = inode.atime_ns
        return atime <= inode.mtime_ns or atime <= inode.ctime_ns or time.time_ns() - atime >= DAY_NS

    def count_inode(self, bucket: Bucket, delta: int) -> None:
        """An inode comes to (or leaves) a bucket. Raises QuotaExceeded."""
        if bucket.quota_inodes is not None:
            self.check_inode_quota(bucket, delta)
        bucket.used_inodes += delta
        bucket.changed = True

    def check_quota(self, bucket: Bucket, more_bytes: int) -> None:
        """Raises QuotaExceeded where the bucket would hold too many bytes."""
        self._check(bucket, Quota("quota_bytes", bucket.quota_bytes, bucket.used_bytes, "bytes"), more_bytes)

    def check_inode_quota(self, bucket: Bucket, more: int) -> None:
        """Raises QuotaExceeded where the bucket would hold too many files and directories."""
        self._check(bucket, Quota("quota_inodes", bucket.quota_inodes, bucket.used_inodes, "inodes"), more)

    def _check(self, bucket: Bucket, quota: Quota, more: int) -> None:
        if not quota.allows(more):
            name = self.store.entries.name_of(ROOT_INO, bucket.ino) or b"?"
            raise QuotaExceeded(quota.refusal(os.fsdecode(name)))

    # --- for those who follow a bucket

    def note_name(self, directory: Inode, name: bytes, *, tree: bool = False) -> None:
        """A name came, went or leads elsewhere."""
        follower = self.followers.get(directory.bucket)
        if follower is not None:
            follower.name_changed(directory, name, tree=tree)

    def note_content(self, inode: Inode) -> None:
        """A file was written to, and is closed."""
        follower = self.followers.get(inode.bucket)
        if follower is not None and not inode.writers:
            follower.content_changed(inode)

    # --- the end of an inode

    def drop_name(self, inode: Inode, now_ns: int) -> None:
        """One name less; without a name and without an open handle the inode goes."""
        inode.nlink -= 1
        self.touch_inode(inode, now_ns)
        if inode.nlink <= 0:
            inode.nlink = 0
            if self.recorder is not None and inode.is_regular:
                self.recorder.deleted(inode)
            if inode.opens:
                self.store.inodes.orphan(inode)
            else:
                self.bury(inode, is_orphan=False)

    def bury(self, inode: Inode, *, is_orphan: bool) -> None:
        """Remove an inode that has neither name nor handle; a very fragmented one goes piece by piece."""
        store = self.store
        if inode.is_regular and store.extents.more_than(inode, REAP_INLINE_EXTENTS):
            if not is_orphan:
                store.inodes.orphan(inode)
            self.reap_later(inode.ino)
            return
        if inode.is_regular:
            store.extents.clear(inode)
            store.charge(inode)
        elif stat.S_ISLNK(inode.mode):
            store.symlinks.remove(inode.ino)
        store.xattrs.clear(inode.ino)
        if store.pins:
            store.pins.remove(inode.ino)
        bucket = store.buckets.get(inode.bucket)
        if bucket is not None:
            self.count_inode(bucket, -1)
        if is_orphan:
            store.inodes.unorphan(inode.ino)
        store.inodes.remove(inode)
        store.changed()
