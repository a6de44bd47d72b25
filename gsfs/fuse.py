"""pyfuse3 to file system and back. Translates; decides nothing. The one door through which errors leave.

An error of gsfs becomes its errno; anything that nobody foresaw is logged once with its traceback and
becomes EIO, because an exception that escapes a handler would end the mount.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields

from gsfs import further
from gsfs.errors import GsfsError
from gsfs.filesystem.attributes import Changes
from gsfs.filesystem.core import SUPERUSER, Caller
from gsfs.filesystem.directories import DOTS
from gsfs.model import KIB
from gsfs.namespace.inodes import Inode
from gsfs.volume import Volume

log = logging.getLogger(__name__)

CACHE_FOREVER_S = 86_400.0
"""One mount owns the namespace: what the kernel has cached stays true until we say otherwise."""
IO_SIZE = 128 * KIB

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def door(handler: F) -> F:
    """Let only FUSEError out."""

    @functools.wraps(handler)
    async def through(self: Operations, *args: Any) -> Any:
        try:
            return await handler(self, *args)
        except GsfsError as error:
            if error.errno == errno.EIO:
                log.error("%s: %s", handler.__name__, error)
            raise FUSEError(error.errno) from None
        except FUSEError:
            raise
        except Exception:
            log.exception("%s%r failed", handler.__name__, args)
            raise FUSEError(errno.EIO) from None

    return cast(F, through)


class Operations(pyfuse3.Operations):
    """Requests of the kernel."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, volume: Volume) -> None:
        super().__init__()
        self._with_xattrs = volume.config.mount.xattr
        self.enable_acl = volume.config.mount.acl and self._with_xattrs
        self._volume = volume
        self.further: further.Further | None = None
        """Handlers outside pyfuse3, kept here for as long as libfuse may call them."""
        self._names = volume.names
        self._attributes = volume.attributes
        self._content = volume.content
        self._directories = volume.directories
        self._inodes = volume.store.inodes
        self._known_entry = KnownEntry() if KnownEntry.possible() else None
        self._negative = EntryAttributes()
        self._negative.st_ino = 0
        self._negative.entry_timeout = CACHE_FOREVER_S

    # --- translation

    def _entry(self, inode: Inode) -> EntryAttributes:
        """What the kernel is told; made again only when the inode changed."""
        attributes = inode.attributes
        if attributes is None:
            attributes = inode.attributes = _translate(inode)
        return cast(EntryAttributes, attributes)

    def _looked_up(self, inode: Inode) -> EntryAttributes:
        inode.lookups += 1
        return self._entry(inode)

    # --- names

    @door
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        inode = self._names.lookup(parent_inode, name)
        if inode is None:
            return self._negative
        if inode.pending is not None:
            self._attributes.getattr(inode.ino)
        return self._looked_up(inode)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        try:
            for ino, count in inode_list:
                self._inodes.forget(ino, count)
        except Exception:
            log.exception("forget failed")

    @door
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._looked_up(self._names.mkdir(parent_inode, name, mode, _caller(ctx)))

    @door
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._looked_up(self._names.mknod(parent_inode, name, mode, rdev, _caller(ctx)))

    @door
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._looked_up(self._names.symlink(parent_inode, name, target, _caller(ctx)))

    @door
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self._names.readlink(inode)

    @door
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._looked_up(self._names.link(inode, new_parent_inode, new_name))

    @door
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._names.unlink(parent_inode, name)

    @door
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._names.rmdir(parent_inode, name)

    @door
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        self._names.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, _caller(ctx))

    # --- attributes

    @door
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._attributes.getattr(inode))

    @door
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._entry(self._attributes.setattr(inode, changes, _caller(ctx)))

    @door
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        result = pyfuse3.StatvfsData()
        further.fill(result, self._volume.space())
        return result

    @door
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        self._refuse_without_xattrs()
        return self._attributes.getxattr(inode, name)

    def _refuse_without_xattrs(self) -> None:
        """Switched off, the kernel is told once and never asks again: not at each write, not at each ls -l."""
        if not self._with_xattrs:
            raise FUSEError(errno.ENOSYS)

    @door
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        self._refuse_without_xattrs()
        return self._attributes.listxattr(inode, _caller(ctx))

    @door
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._refuse_without_xattrs()
        self._attributes.setxattr(inode, name, value, _caller(ctx))

    @door
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self._refuse_without_xattrs()
        self._attributes.removexattr(inode, name, _caller(ctx))

    # --- content

    @door
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        inode = self._names.create(parent_inode, name, mode, _caller(ctx))
        handle = self._content.open_inode(inode, flags)
        return FileInfo(fh=handle, keep_cache=True), self._looked_up(inode)

    @door
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        handle, keep = self._content.open(inode, flags, _caller(ctx) if flags & os.O_TRUNC else SUPERUSER)
        return FileInfo(fh=handle, keep_cache=keep)

    @door
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # pyfuse3 takes anything with a contiguous buffer, though its type says bytes.
        return cast(bytes, await self._content.read(fh, off, size))

    @door
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._content.write(fh, off, buf)

    @door
    async def flush(self, fh: int) -> None:
        await self._content.flush(fh)

    @door
    async def release(self, fh: int) -> None:
        self._content.release(fh)

    @door
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._content.fsync(fh)

    # --- directories

    @door
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return self._directories.opendir(inode)

    @door
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        reply, known = pyfuse3.readdir_reply, self._known_entry
        for name, inode, cookie in self._directories.listing(fh, start_id):
            if known is not None and inode.lookups > 0:
                if not reply(token, name, known.of(inode), cookie):
                    break
                continue
            if not reply(token, name, self._entry(inode), cookie):
                break
            if cookie > DOTS:
                inode.lookups += 1

    @door
    async def releasedir(self, fh: int) -> None:
        self._directories.releasedir(fh)

    @door
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._content.sync_inode(self._directories.inode_of(fh))

    def stacktrace(self) -> None:
        log.warning("stack traces are written on SIGUSR1")


class KnownEntry:
    """A listed entry of an inode that the kernel holds already: its name and number, no attributes.

    The kernel then leaves the inode it has alone. Attributes sent again would also make it forget that the
    inode has no ACL, and ask anew for each file of an ``ls -l``. FUSE_READDIRPLUS says so by a node id of 0
    beside the true d_ino; pyfuse3 sets both by one attribute, so the node id is cleared in the structure.
    """

    NODE_ID_AT = object.__basicsize__
    """Where EntryAttributes keeps fuse_entry_param, whose first member is the node id."""

    def __init__(self) -> None:
        self._entry = EntryAttributes()
        self._node_id = ctypes.c_uint64.from_address(id(self._entry) + self.NODE_ID_AT)

    def of(self, inode: Inode) -> EntryAttributes:
        """Valid until the next call."""
        entry = self._entry
        entry.st_ino = inode.ino
        entry.st_mode = inode.mode
        self._node_id.value = 0
        return entry

    @classmethod
    def possible(cls) -> bool:
        """Whether the node id really is where this version of pyfuse3 had it."""
        probe, number = EntryAttributes(), 0x6773_6673_1234_5678
        if EntryAttributes.__basicsize__ < cls.NODE_ID_AT + 8:
            return False
        node_id = ctypes.c_uint64.from_address(id(probe) + cls.NODE_ID_AT)
        probe.st_ino = number
        if node_id.value != number:
            return False
        node_id.value = 0
        return probe.st_ino == 0


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def _translate(inode: Inode) -> EntryAttributes:
    e = EntryAttributes()
    e.st_ino = inode.ino
    e.entry_timeout = e.attr_timeout = CACHE_FOREVER_S
    e.st_mode = inode.mode
    e.st_nlink = inode.nlink
    e.st_uid = inode.uid
    e.st_gid = inode.gid
    e.st_rdev = inode.rdev
    e.st_size = inode.size
    e.st_blksize = IO_SIZE
    e.st_blocks = (inode.allocated + 511) // 512
    e.st_atime_ns = inode.atime_ns
    e.st_mtime_ns = inode.mtime_ns
    e.st_ctime_ns = inode.ctime_ns
    return e


# --- the session


def mount_options(volume: Volume, extra: Sequence[str]) -> set[str]:
    """What libfuse is asked for."""
    options = {"default_permissions", f"fsname={_escaped(volume.config.path)}", "subtype=gsfs", *extra}
    if volume.config.mount.allow_other:
        options.add("allow_other")
    if os.geteuid() == 0:
        options |= {"dev", "suid"} - {o for o in ("dev", "suid") if f"no{o}" in extra}
    return options


def _escaped(value: str) -> str:
    """libfuse splits options at commas that no backslash precedes."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def start(volume: Volume, mountpoint: str, extra: Sequence[str] = ()) -> None:
    """Attach to the mount point. Raises RuntimeError when the kernel refuses."""
    volume.core.keeps_access_times = not {"ro", "noatime"}.intersection(extra)
    operations = Operations(volume)
    pyfuse3.init(operations, mountpoint, mount_options(volume, extra))
    operations.further = further.install(volume, mountpoint)


TASKS_MAX = 256
"""Requests answered at once; twice as many as the reads that the kernel may have under way (see daemon)."""


async def serve() -> None:
    """Answer requests until unmounted or ``stop``."""
    await pyfuse3.main(min_tasks=4, max_tasks=TASKS_MAX)


def stop() -> None:
    """Let ``serve`` return."""
    pyfuse3.terminate()


def finish(*, unmount: bool) -> None:
    """Give the session back."""
    pyfuse3.close(unmount=unmount)


def forget_entry(parent: int, name: bytes) -> None:
    """The kernel's idea of a name is out of date (a bucket was made or removed from the command line)."""
    pyfuse3.invalidate_entry_async(parent, name, ignore_enoent=True)


def forget_attributes(ino: int) -> None:
    """The kernel's idea of an inode's attributes is out of date. Touches no page, so it waits for nobody."""
    try:
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=True)
    except OSError as error:
        if error.errno != errno.ENOENT:  # it does not know the inode
            log.warning("inode %d: the kernel's attributes stay: %s", ino, error)
