"""Names: lookup, creation, links, removal, rename. Owns the rules of directory entries and of the root."""

from __future__ import annotations

import stat

from gsfs.errors import (
    CrossesBuckets,
    EntryExists,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSuchEntry,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    Stale,
    TooManyLinks,
)
from gsfs.filesystem import acl
from gsfs.filesystem.core import SUPERUSER, Caller, Core
from gsfs.model import NAME_MAX, ROOT_INO, Ino
from gsfs.namespace.buckets import Bucket
from gsfs.namespace.inodes import Inode

LINK_MAX = 2**31 - 1
WEIGHED_MAX, WEIGHED_PAGE = 5000, 500
"""Entries counted while a tree moves into a bucket with a quota."""
SYMLINK_MAX = 4095
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
RENAME_FLAGS = (0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT, RENAME_NOREPLACE | RENAME_WHITEOUT)
ROOT_RULE = "the root holds only virtual buckets (directories)"


class Names:
    """Everything that changes or follows a directory entry."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._store = core.store
        self._entries = core.store.entries

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """The inode, or None. A file met below a directory that changed its bucket follows it."""
        inode = self._core.find(parent, name)
        if inode is None:
            return self._dot(parent, name) if name in (b".", b"..") else None
        directory = self._store.inodes.get(parent)
        if inode.bucket != directory.bucket and parent != ROOT_INO:
            self.rebucket(inode, directory)
        return inode

    def _dot(self, ino: int, name: bytes) -> Inode:
        """An inode by its number, or its parent: how the kernel opens file handles (NFS, open_by_handle_at)."""
        inode = self.check_alive(ino)
        return inode if name == b"." else self.check_alive(inode.parent)

    def rebucket(self, inode: Inode, directory: Inode) -> None:
        """Count the inode for its directory's bucket, unless a name in another bucket keeps it."""
        if inode.is_regular and inode.nlink > 1:
            return
        self._store.extents.settle(inode)
        self._store.charge(inode)
        old, new = self._store.buckets.get(inode.bucket), self._core.bucket_of(directory)
        if old is not None:
            old.used_inodes -= 1
            old.used_bytes -= inode.charged
            old.changed = True
        new.used_inodes += 1
        new.used_bytes += inode.charged
        new.changed = True
        inode.bucket = new.ino
        if inode.is_dir:
            self._store.rebucket_add(inode.ino)
        self._store.inodes.touch(inode)
        self._store.changed()

    # --- making things

    def _check_new(self, parent: int, name: bytes) -> Inode:
        """The directory, in which the name must be free."""
        if len(name) > NAME_MAX:
            raise NameTooLong(f"name of {len(name)} bytes; takes at most {NAME_MAX}")
        directory = self._core.directory(parent)
        if self._entries.find(parent, name) is not None:
            raise EntryExists(f"{name!r}: exists")
        return directory

    def _make(self, directory: Inode, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        """A new inode under a free name."""
        store, core = self._store, self._core
        core.count_inode(core.bucket_of(directory), 1)
        is_dir = stat.S_ISDIR(mode)
        mode, gid = _group(directory, mode, caller)
        mode, access, default = self._inherited(directory, mode, caller)
        now = core.now()
        ino = store.new_ino()
        parent = directory.ino if is_dir else 0
        inode = store.inodes.add(
            (
                ino,
                directory.bucket,
                parent,
                mode,
                caller.uid,
                gid,
                rdev,
                2 if is_dir else 1,
                0,
                0,
                now,
                now,
                now,
            )
        )
        self._entries.insert(directory.ino, name, ino, store.new_entry_number())
        self._hand_down(ino, access, default if is_dir else None)
        if is_dir:
            directory.nlink += 1
        elif store.pins:
            core.on_placed(directory, inode)
        core.touch_content(directory, now)
        if core.followers:
            core.note_name(directory, name)
        store.changed()
        return inode

    def _inherited(
        self, directory: Inode, mode: int, caller: Caller
    ) -> tuple[int, bytes | None, bytes | None]:
        """(mode, access ACL, default ACL) of what is made there. A default ACL stands for the umask (acl(5))."""
        if stat.S_ISLNK(mode):
            return mode, None, None
        default = self._store.xattrs.get(directory.ino, acl.DEFAULT) if self._store.xattrs.in_use else None
        if default is None:
            return mode & ~caller.umask, None, None
        return (*acl.inherit(default, mode), default)

    def _hand_down(self, ino: Ino, access: bytes | None, default: bytes | None) -> None:
        if access is not None:
            self._store.xattrs.set(ino, acl.ACCESS, access)
        if default is not None:
            self._store.xattrs.set(ino, acl.DEFAULT, default)

    def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """A regular file."""
        directory = self._check_new(parent, name)
        return self._make(directory, name, stat.S_IFREG | (mode & 0o7777), 0, caller)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        """A regular file, fifo, socket or device."""
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            raise InvalidArgument(f"mknod: type {stat.S_IFMT(mode):#o} is not one that mknod makes")
        return self._make(self._check_new(parent, name), name, mode, rdev, caller)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """A directory; in the root, a virtual bucket with the configuration's defaults."""
        directory = self._check_new(parent, name)
        mode = stat.S_IFDIR | (mode & 0o7777)
        if parent == ROOT_INO:
            return self._make_bucket(directory, name, mode, caller)
        return self._make(directory, name, mode, 0, caller)

    def _make_bucket(self, root: Inode, name: bytes, mode: int, caller: Caller) -> Inode:
        store, now = self._store, self._core.now()
        ino = store.new_ino()
        mode, gid = _group(root, mode, caller)
        mode, access, default = self._inherited(root, mode, caller)
        self._hand_down(ino, access, default)
        inode = store.inodes.add((ino, ino, ROOT_INO, mode, caller.uid, gid, 0, 2, 0, 0, now, now, now))
        d = self._core.defaults
        store.buckets.add(Bucket(ino, d.home, d.durability, d.copies, None, None, 0, 1, d.policy))
        self._entries.insert(ROOT_INO, name, ino, store.new_entry_number())
        root.nlink += 1
        self._core.touch_content(root, now)
        store.changed()
        return inode

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Inode:
        """A symbolic link."""
        if not target:
            raise NoSuchEntry("symlink: the target is empty")
        if len(target) > SYMLINK_MAX:
            raise NameTooLong(f"symlink: target of {len(target)} bytes; takes at most {SYMLINK_MAX}")
        inode = self._make(self._check_new(parent, name), name, stat.S_IFLNK | 0o777, 0, caller)
        inode.size = len(target)
        self._store.symlinks.add(inode.ino, target)
        return inode

    def readlink(self, ino: int) -> bytes:
        target = self._store.symlinks.get(ino)
        if target is None:
            raise InvalidArgument(f"inode {ino}: not a symbolic link")
        return target

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """One more name for a file."""
        directory = self._check_new(parent, name)
        inode = self._core.inode(ino)
        if inode.is_dir:
            raise NotPermitted("a directory has one name only")
        if inode.deleted or inode.nlink == 0:
            raise NoSuchEntry(f"inode {ino}: was removed")
        if inode.bucket != directory.bucket:
            raise CrossesBuckets("a hard link stays within its virtual bucket")
        if inode.nlink >= LINK_MAX:
            raise TooManyLinks(f"inode {ino}: has {LINK_MAX} names")
        now = self._core.now()
        inode.nlink += 1
        self._entries.insert(parent, name, ino, self._store.new_entry_number())
        self._core.touch_inode(inode, now)
        self._core.touch_content(directory, now)
        if self._store.pins:
            self._core.on_placed(directory, inode)
        if self._core.followers:
            self._core.note_name(directory, name)
        self._store.changed()
        return inode

    # --- removing things

    def unlink(self, parent: int, name: bytes) -> Inode:
        """Remove a name; what has no name and no handle goes with it."""
        directory = self._core.directory(parent)
        inode = self._existing(parent, name)
        if inode.is_dir:
            raise IsADirectory(f"{name!r}: is a directory")
        now = self._core.now()
        self._entries.delete(parent, name)
        self._core.touch_content(directory, now)
        if self._core.followers:
            self._core.note_name(directory, name)
        self._core.drop_name(inode, now)
        self._store.changed()
        return inode

    def rmdir(self, parent: int, name: bytes) -> Inode:
        """Remove an empty directory; in the root, an empty bucket."""
        directory = self._core.directory(parent)
        inode = self._existing(parent, name)
        if not inode.is_dir:
            raise NotADirectory(f"{name!r}: is not a directory")
        if self._entries.has_any(inode.ino):
            raise NotEmpty(f"{name!r}: is not empty")
        self._entries.delete(parent, name)
        now = self._core.now()
        directory.nlink -= 1
        self._core.touch_content(directory, now)
        if self._core.followers:
            self._core.note_name(directory, name, tree=True)
        self._bury_directory(inode, now)
        return inode

    def _bury_directory(self, inode: Inode, now_ns: int) -> None:
        inode.nlink = 1  # of which drop_name takes the last
        if inode.parent == ROOT_INO:
            self._store.buckets.remove(inode.ino)
        self._core.drop_name(inode, now_ns)
        self._store.changed()

    def _existing(self, parent: int, name: bytes) -> Inode:
        inode = self._core.find(parent, name)
        if inode is None:
            raise NoSuchEntry(f"{name!r}: does not exist")
        return inode

    # --- rename

    def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, caller: Caller = SUPERUSER
    ) -> Inode | None:
        """Move a name, atomically; returns the inode that lost its name, if one did."""
        if flags not in RENAME_FLAGS:
            raise InvalidArgument(f"rename: flags {flags:#x} are not supported")
        if len(new) > NAME_MAX:
            raise NameTooLong(f"name of {len(new)} bytes; takes at most {NAME_MAX}")
        source, target = self._core.directory(old_parent), self._core.directory(new_parent)
        inode = self._existing(old_parent, old)
        replaced = self._core.find(new_parent, new)
        if flags & RENAME_NOREPLACE and replaced is not None:
            raise EntryExists(f"{new!r}: exists")
        if flags & RENAME_EXCHANGE and replaced is None:
            raise NoSuchEntry(f"{new!r}: does not exist")
        if replaced is inode:
            return None
        self._check_move(inode, source, target)
        self._check_room(inode, target, replaced)
        if flags & RENAME_EXCHANGE:
            assert replaced is not None
            self._check_move(replaced, target, source)
            self._check_room(replaced, source, inode)
            self._exchange((source, old, inode), (target, new, replaced))
            return None
        if replaced is not None:
            self._check_replace(inode, replaced, new)
        self._move((source, old, inode), (target, new, replaced))
        if flags & RENAME_WHITEOUT:  # what overlayfs leaves where a lower name is to stay hidden: device 0,0
            self._make(source, old, stat.S_IFCHR, 0, caller)
        return replaced

    def _check_move(self, inode: Inode, source: Inode, target: Inode) -> None:
        """Rules of the root, of buckets, and against a directory inside itself."""
        if source.ino == target.ino:
            return
        if ROOT_INO in (source.ino, target.ino):
            raise CrossesBuckets(f"{ROOT_RULE}: nothing is moved into or out of it; copy instead")
        if source.bucket != target.bucket and not inode.is_dir and inode.nlink > 1:
            raise CrossesBuckets("a file with several names stays within its virtual bucket")
        if inode.is_dir:
            above = target
            while above.ino != ROOT_INO:
                if above.ino == inode.ino:
                    raise InvalidArgument("a directory cannot be moved into itself")
                above = self._core.inode(above.parent)

    def _check_room(self, inode: Inode, directory: Inode, replaced: Inode | None) -> None:
        """Quotas of a bucket that something is moved to; what it replaces gives its room back.

        Raises QuotaExceeded, and CrossesBuckets for a tree that is too large to be counted on the way: mv copies it.
        """
        bucket = self._store.buckets.get(directory.bucket)
        if bucket is None or inode.bucket == bucket.ino:
            return
        if bucket.quota_bytes is None and bucket.quota_inodes is None:
            return
        size, count = self._weigh(inode)
        if replaced is not None and replaced.nlink == 1 + replaced.is_dir:
            self._store.extents.settle(replaced)
            size, count = size - replaced.allocated, count - 1
        self._core.check_quota(bucket, size)
        self._core.check_inode_quota(bucket, count)

    def _weigh(self, inode: Inode) -> tuple[int, int]:
        """(bytes, inodes) of a file or tree that will count for another bucket."""
        size, count, stack = 0, 0, [inode]
        self._store.flush()
        while stack:
            one = stack.pop()
            self._store.extents.settle(one)
            size, count = size + one.allocated, count + 1
            if not one.is_dir:
                continue
            after = b""
            while page := self._entries.page(one.ino, after, self._store.last_entry_number, WEIGHED_PAGE):
                after = bytes(page[-1][0])
                below = (self._store.inodes.adopt(tuple(row[1:])) for row in page)
                stack += [child for child in below if child.is_dir or child.nlink == 1]
                if count + len(stack) > WEIGHED_MAX:
                    raise CrossesBuckets(
                        f"more than {WEIGHED_MAX} files at once into a bucket with a quota; copy instead"
                    )
        return size, count

    def _check_replace(self, inode: Inode, replaced: Inode, new: bytes) -> None:
        if inode.is_dir and not replaced.is_dir:
            raise NotADirectory(f"{new!r}: is not a directory")
        if replaced.is_dir:
            if not inode.is_dir:
                raise IsADirectory(f"{new!r}: is a directory")
            if self._entries.has_any(replaced.ino):
                raise NotEmpty(f"{new!r}: is not empty")

    def _move(self, old: tuple[Inode, bytes, Inode], new: tuple[Inode, bytes, Inode | None]) -> None:
        (source, old_name, inode), (target, new_name, replaced) = old, new
        now = self._core.now()
        self._entries.delete(source.ino, old_name)
        if replaced is None:
            self._entries.insert(target.ino, new_name, inode.ino, self._store.new_entry_number())
        else:
            self._entries.repoint(target.ino, new_name, inode.ino)
        if inode.is_dir:
            source.nlink -= 1
            target.nlink += 1
            inode.parent = target.ino
        self._arrive(inode, target, now)
        self._core.touch_content(source, now)
        self._core.touch_content(target, now)
        if self._core.followers:
            self._core.note_name(source, old_name, tree=inode.is_dir)
            self._core.note_name(target, new_name, tree=inode.is_dir)
        if replaced is not None:
            if replaced.is_dir:
                target.nlink -= 1
                self._bury_directory(replaced, now)
            else:
                self._core.drop_name(replaced, now)
        self._store.changed()

    def _exchange(self, one: tuple[Inode, bytes, Inode], two: tuple[Inode, bytes, Inode]) -> None:
        now = self._core.now()
        for (directory, name, gone), (_, _, coming) in ((one, two), (two, one)):
            self._entries.repoint(directory.ino, name, coming.ino)
            directory.nlink += int(coming.is_dir) - int(gone.is_dir)
            if coming.is_dir:
                coming.parent = directory.ino
            self._arrive(coming, directory, now)
            self._core.touch_content(directory, now)
            if self._core.followers:
                self._core.note_name(directory, name, tree=coming.is_dir or gone.is_dir)
        self._store.changed()

    def _arrive(self, inode: Inode, directory: Inode, now_ns: int) -> None:
        """What was moved belongs to the bucket it is in now."""
        if self._store.pins:
            self._core.on_placed(directory, inode)
        if directory.ino != ROOT_INO and inode.bucket != directory.bucket:
            self.rebucket(inode, directory)
        self._core.touch_inode(inode, now_ns)

    def check_alive(self, ino: int) -> Inode:
        """The inode, which must not have been removed."""
        inode = self._core.inode(ino)
        if inode.deleted:
            raise Stale(f"inode {ino}: was removed")
        return inode


def _group(directory: Inode, mode: int, caller: Caller) -> tuple[int, int]:
    """(mode, group) of what is made there: a setgid directory hands down its group, to directories the bit as well."""
    if not directory.mode & stat.S_ISGID:
        return mode, caller.gid
    return mode | (stat.S_ISGID if stat.S_ISDIR(mode) else 0), directory.gid
