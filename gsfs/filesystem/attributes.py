"""Attributes: stat, chmod, chown, utimes, truncate, statfs, extended attributes. Owns their rules."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass

from gsfs.errors import (
    ArgumentTooBig,
    InvalidArgument,
    IsADirectory,
    NoAttribute,
    NotPermitted,
    NotSupported,
    ResultTooSmall,
    TooLarge,
)
from gsfs.filesystem import acl
from gsfs.filesystem.core import SUPERUSER, Caller, Core
from gsfs.model import FILE_SIZE_MAX, NAME_MAX
from gsfs.namespace.inodes import Inode

XATTR_SIZE_MAX = 65536
XATTR_LIST_MAX = 65536
PREFIXES = (b"user.", b"trusted.", b"security.")
SELINUX = b"security.selinux"
"""Asked for by every ``ls -l`` of every file, unless it is told once that there are no labels here."""
CAPABILITY = b"security.capability"
"""Taken away by the kernel on behalf of whoever changes the file."""
VIRTUAL_PREFIX = b"user.gsfs."
TIME_MIN_NS, TIME_MAX_NS = -(2**63), 2**63 - 1
"""Times that a 64-bit count of nanoseconds can tell: 1677-09-21 to 2262-04-11."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What setattr is asked to change; None: leave as it is. Times in nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


NOTHING = Changes()

VirtualXattr = Callable[[Inode], bytes]


class Attributes:
    """Reading and changing what an inode says of itself."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._store = core.store
        self.virtual: dict[bytes, VirtualXattr] = {}
        """Extended attributes that are computed: ``user.gsfs.*`` tells the truth about a file."""
        self.settable: dict[bytes, Callable[[Inode, bytes], None]] = {}
        """Those of them that can be set, too; removing one sets it to nothing."""

    def getattr(self, ino: int) -> Inode:
        """The inode, its allocated bytes up to date."""
        inode = self._core.inode(ino)
        if inode.pending is not None and not inode.pending.fresh:
            self._store.extents.settle(inode)
        return inode

    def setattr(self, ino: int, changes: Changes, caller: Caller) -> Inode:
        """Change attributes. Who may is the kernel's decision."""
        inode = self._core.inode(ino)
        now = self._core.now()
        if changes == NOTHING:
            self._check_change(inode, caller)
        if changes.size is not None:
            self.truncate(inode, changes.size)
        if changes.size is not None or changes == NOTHING:
            self.drop_privileges(inode, caller)
        if changes.mode is not None:
            self._chmod(inode, changes.mode)
        elif changes.uid is not None or changes.gid is not None:
            self._drop_privileges_of_owner(inode, caller)
        if changes.uid is not None:
            inode.uid = changes.uid
        if changes.gid is not None:
            inode.gid = changes.gid
        if changes.size is not None:
            inode.mtime_ns = now
        if changes.atime_ns is not None:
            inode.atime_ns = _representable(changes.atime_ns)
        if changes.mtime_ns is not None:
            inode.mtime_ns = _representable(changes.mtime_ns)
        self._core.touch_inode(inode, now)
        self._store.changed()
        return inode

    def truncate(self, inode: Inode, size: int) -> None:
        """Cut or lengthen; what is added reads as zeros and takes no space."""
        if inode.is_dir:
            raise IsADirectory(f"inode {inode.ino}: is a directory")
        if not inode.is_regular:
            raise InvalidArgument(f"inode {inode.ino}: not a regular file")
        if size > FILE_SIZE_MAX:
            raise TooLarge(f"size {size}: takes at most {FILE_SIZE_MAX}")
        if size < inode.size:
            self._store.extents.punch(inode, size)
        elif inode.pending is not None:
            self._store.extents.settle(inode)
            inode.pending = None
        inode.size = size
        self._store.charge(inode)
        if self._core.followers:
            self._core.note_content(inode)

    def drop_privileges(self, inode: Inode, caller: Caller) -> None:
        """What a write takes away unless root writes: setuid, and setgid where it means a group to run as.

        Before a write that must take them away the kernel asks for a change of nothing, and learns the mode from the
        answer (or for the new mode, where it did not leave that to us: see ``libfuse.HANDLE_KILLPRIV_V2``).
        """
        if caller.uid != 0 and inode.is_regular:
            self._drop_privileges_of_owner(inode, caller)

    def _drop_privileges_of_owner(self, inode: Inode, caller: Caller) -> None:
        """What a new owner takes away, root or not."""
        if inode.is_dir:
            return
        mode = inode.mode & ~stat.S_ISUID
        if mode & stat.S_ISGID and (mode & stat.S_IXGRP or (caller.uid != 0 and not caller.is_in(inode.gid))):
            mode &= ~stat.S_ISGID
        inode.mode = mode

    def _check_change(self, inode: Inode, caller: Caller) -> None:
        """Whether what the kernel asks can be on behalf of a change of content. Raises NotPermitted.

        chown(2) to nobody and no group (-1, -1) takes privileges away, too, and the kernel lets everybody do it.
        """
        if caller.uid in (0, inode.uid) or inode.writers or self._store.xattrs.get(inode.ino, acl.ACCESS):
            return
        writes = stat.S_IWGRP if caller.is_in(inode.gid) else stat.S_IWOTH
        if not inode.mode & writes:
            raise NotPermitted(f"inode {inode.ino}: belongs to another user, who alone may change it")

    def _chmod(self, inode: Inode, mode: int) -> None:
        inode.mode = stat.S_IFMT(inode.mode) | (mode & 0o7777)
        access = self._store.xattrs.get(inode.ino, acl.ACCESS)
        if access is not None:
            self._store.xattrs.set(inode.ino, acl.ACCESS, acl.encode(acl.with_mode(acl.decode(access), mode)))

    # --- extended attributes

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """The value. Raises NoAttribute."""
        if name.startswith(VIRTUAL_PREFIX) and name in self.virtual:
            return self.virtual[name](self._core.inode(ino))
        value = self._store.xattrs.get(ino, name)
        if value is None:
            _check_namespace(name)
            if name == SELINUX and not self._store.xattrs.has_anywhere(name):
                raise NotSupported("security.selinux: no file has a label")
            raise NoAttribute(f"{name!r}: no such attribute")
        return value

    def listxattr(self, ino: int, caller: Caller = SUPERUSER) -> list[bytes]:
        """The names that are stored; computed ones are not listed, so that copying tools do not copy them.

        ``trusted.*`` shows itself to root only (xattr(7)).
        """
        names = self._store.xattrs.names(ino)
        if caller.uid != 0:
            names = [name for name in names if not name.startswith(b"trusted.")]
        if sum(len(name) + 1 for name in names) > XATTR_LIST_MAX:
            raise ArgumentTooBig("the list of attributes is longer than 64 KiB")
        return names

    def setxattr(self, ino: int, name: bytes, value: bytes, caller: Caller) -> None:
        """Set an attribute."""
        inode = self._core.inode(ino)
        if name in self.settable:
            self.settable[name](inode, value)
            return
        if name in (acl.ACCESS, acl.DEFAULT):
            self._set_acl(inode, name, value, caller)
        else:
            self._check_xattr(inode, name, value)
            self._store.xattrs.set(ino, name, value)
        self._core.touch_inode(inode, self._core.now())
        self._store.changed()

    def _check_xattr(self, inode: Inode, name: bytes, value: bytes) -> None:
        _check_namespace(name)
        if len(name) > NAME_MAX:
            raise ResultTooSmall(f"attribute name of {len(name)} bytes; takes at most {NAME_MAX}")
        if len(value) > XATTR_SIZE_MAX:
            raise ArgumentTooBig(f"value of {len(value)} bytes; takes at most {XATTR_SIZE_MAX}")
        if name.startswith(VIRTUAL_PREFIX):
            raise NotPermitted(f"{name!r}: told by gsfs, not set")
        if name.startswith(b"user.") and not (inode.is_regular or inode.is_dir):
            raise NotPermitted("user.* attributes belong to files and directories only")

    def _set_acl(self, inode: Inode, name: bytes, value: bytes, caller: Caller) -> None:
        entries = acl.decode(value)
        if not entries:
            self._store.xattrs.remove(inode.ino, name)
            return
        if name == acl.DEFAULT:
            if not inode.is_dir:
                raise NotPermitted("only a directory has a default ACL")
            self._store.xattrs.set(inode.ino, name, value)
            return
        keep = inode.mode & ~0o777
        if keep & stat.S_ISGID and caller.uid != 0 and not caller.is_in(inode.gid):
            keep &= ~stat.S_ISGID
        inode.mode = keep | acl.mode_bits(entries)
        if acl.is_minimal(entries):
            self._store.xattrs.remove(inode.ino, name)
        else:
            self._store.xattrs.set(inode.ino, name, value)

    def removexattr(self, ino: int, name: bytes, caller: Caller = SUPERUSER) -> None:
        """Remove an attribute. Raises NoAttribute; NotPermitted (see ``_check_change``)."""
        inode = self._core.inode(ino)
        if name == CAPABILITY:
            self._check_change(inode, caller)
        if name in self.settable:
            self.settable[name](inode, b"")
            return
        if not self._store.xattrs.remove(ino, name):
            _check_namespace(name)
            raise NoAttribute(f"{name!r}: no such attribute")
        self._core.touch_inode(inode, self._core.now())
        self._store.changed()


def _representable(time_ns: int) -> int:
    """The nearest time that can be kept; Linux file systems clamp likewise (timestamp_truncate)."""
    return min(max(time_ns, TIME_MIN_NS), TIME_MAX_NS)


def _check_namespace(name: bytes) -> None:
    """Raises NotSupported for a namespace that does not exist here, InvalidArgument for nothing behind it."""
    if name in (acl.ACCESS, acl.DEFAULT):
        return
    if not name.startswith(PREFIXES):
        raise NotSupported(f"{name!r}: takes user.*, trusted.*, security.* and system.posix_acl_*")
    if name in PREFIXES:
        raise InvalidArgument(f"{name!r}: takes a name behind the prefix")
