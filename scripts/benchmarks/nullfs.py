"""A FUSE file system that stores nothing in a database: the floor of any Python file system on pyfuse3.

Owns an in-memory tree and one data file to which all contents go. Never survives its process. Its handlers
do the least a correct answer needs, await nothing, and run on the lean loop; `--stock` runs pyfuse3's own.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import ROOT_INODE, EntryAttributes, FileInfo, FUSEError

from gsfs import libfuse, loop

TIMEOUT_S = 3600.0
"""Entry and attribute time-out: nobody else changes the tree."""
READ_AHEAD_KIB = 1024
UNSUPPORTED = {b"security.selinux", b"system.posix_acl_access", b"system.posix_acl_default"}
"""Asked for by `ls -l` for each file, but after this errno never again on the same device."""


class Node:
    """One inode. Extents are [file offset, length, offset in the data file], in file order, not overlapping."""

    __slots__ = ("attr", "entries", "extents", "lookups", "target", "xattrs")

    def __init__(self, attr: EntryAttributes) -> None:
        self.attr = attr
        self.lookups = 0
        self.entries: dict[bytes, Node] = {}
        self.extents: list[list[int]] = []
        self.target = b""
        self.xattrs: dict[bytes, bytes] = {}


def ranges(extents: list[list[int]], start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Cut [start, end) into (offset, length, data offset); a data offset of None is a hole."""
    for at, length, data in extents:
        if at >= end:
            break
        if at + length <= start:
            continue
        if at > start:
            yield start, at - start, None
            start = at
        upto = min(at + length, end)
        yield start, upto - start, data + start - at
        start = upto
    if start < end:
        yield start, end - start, None


class NullFs(pyfuse3.Operations):
    """The handlers. Descriptors handed to the kernel are inode numbers: an open file has no state."""

    def __init__(self, data_file: Path) -> None:
        super().__init__()
        self.data_fd = os.open(data_file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.data_end = 0
        self.nodes: dict[int, Node] = {}
        self.next_ino = int(ROOT_INODE)
        self.listings: dict[int, list[tuple[bytes, Node]]] = {}
        self.listing_serial = 0
        self._node(stat.S_IFDIR | 0o755, 0, 0).attr.st_nlink = 2

    def _node(self, mode: int, uid: int, gid: int, rdev: int = 0) -> Node:
        attr = EntryAttributes()
        attr.st_ino = self.next_ino
        attr.generation = 0
        attr.entry_timeout = attr.attr_timeout = TIMEOUT_S
        attr.st_mode, attr.st_uid, attr.st_gid, attr.st_rdev = mode, uid, gid, rdev
        attr.st_nlink = 1
        attr.st_blksize = 4096
        attr.st_atime_ns = attr.st_mtime_ns = attr.st_ctime_ns = time.time_ns()
        node = self.nodes[self.next_ino] = Node(attr)
        self.next_ino += 1
        return node

    def _add(
        self,
        parent: int,
        name: bytes,
        mode: int,
        ctx: pyfuse3.RequestContext,
        rdev: int = 0,
    ) -> Node:
        directory = self.nodes[parent]
        if name in directory.entries:
            raise FUSEError(errno.EEXIST)
        node = directory.entries[name] = self._node(mode & ~ctx.umask, ctx.uid, ctx.gid, rdev)
        if stat.S_ISDIR(mode):
            node.attr.st_nlink = 2
            directory.attr.st_nlink += 1
        directory.attr.st_mtime_ns = directory.attr.st_ctime_ns = node.attr.st_mtime_ns
        node.lookups = 1
        return node

    def _drop(self, parent: int, name: bytes) -> None:
        node = self.nodes[parent].entries.pop(name)
        node.attr.st_nlink -= 1
        if stat.S_ISDIR(node.attr.st_mode):
            node.attr.st_nlink = 0
            self.nodes[parent].attr.st_nlink -= 1
        self._collect(node)

    def _collect(self, node: Node) -> None:
        if not node.attr.st_nlink and not node.lookups:
            del self.nodes[node.attr.st_ino]

    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        node = self.nodes[parent].entries.get(name)
        if node is None:
            missing = EntryAttributes()
            missing.entry_timeout = TIMEOUT_S
            return missing
        node.lookups += 1
        return node.attr

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            node = self.nodes.get(ino)
            if node is not None:
                node.lookups -= count
                self._collect(node)

    async def getattr(self, ino: int, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return self.nodes[ino].attr

    async def setattr(
        self,
        ino: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        node = self.nodes[ino]
        mine = node.attr
        if fields.update_size:
            self._truncate(node, attr.st_size)
        if fields.update_mode:
            mine.st_mode = attr.st_mode
        if fields.update_uid:
            mine.st_uid = attr.st_uid
        if fields.update_gid:
            mine.st_gid = attr.st_gid
        if fields.update_atime:
            mine.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            mine.st_mtime_ns = attr.st_mtime_ns
        mine.st_ctime_ns = time.time_ns()
        return mine

    def _truncate(self, node: Node, size: int) -> None:
        if size < node.attr.st_size:
            node.extents = [[at, min(n, size - at), data] for at, n, data in node.extents if at < size]
        node.attr.st_size = size

    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        return self._add(parent, name, stat.S_IFDIR | mode, ctx).attr

    async def mknod(
        self,
        parent: int,
        name: bytes,
        mode: int,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        return self._add(parent, name, mode, ctx, rdev).attr

    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        node = self._add(parent, name, stat.S_IFLNK | 0o777, ctx)
        node.target = target
        node.attr.st_size = len(target)
        return node.attr

    async def readlink(self, ino: int, ctx: pyfuse3.RequestContext) -> bytes:
        return self.nodes[ino].target

    async def link(self, ino: int, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        node = self.nodes[ino]
        if name in self.nodes[parent].entries:
            raise FUSEError(errno.EEXIST)
        self.nodes[parent].entries[name] = node
        node.attr.st_nlink += 1
        node.lookups += 1
        return node.attr

    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        if name not in self.nodes[parent].entries:
            raise FUSEError(errno.ENOENT)
        self._drop(parent, name)

    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        node = self.nodes[parent].entries.get(name)
        if node is None:
            raise FUSEError(errno.ENOENT)
        if node.entries:
            raise FUSEError(errno.ENOTEMPTY)
        self._drop(parent, name)

    async def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if flags:
            raise FUSEError(errno.EINVAL)
        source, target = self.nodes[parent], self.nodes[new_parent]
        if name not in source.entries:
            raise FUSEError(errno.ENOENT)
        replaced = target.entries.get(new_name)
        if replaced is not None:
            if replaced.entries:
                raise FUSEError(errno.ENOTEMPTY)
            self._drop(new_parent, new_name)
        node = target.entries[new_name] = source.entries.pop(name)
        if stat.S_ISDIR(node.attr.st_mode):
            source.attr.st_nlink -= 1
            target.attr.st_nlink += 1

    async def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._add(parent, name, stat.S_IFREG | mode, ctx)
        return FileInfo(fh=node.attr.st_ino, keep_cache=True), node.attr

    async def open(self, ino: int, flags: int, ctx: pyfuse3.RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:
            self._truncate(self.nodes[ino], 0)
        return FileInfo(fh=ino, keep_cache=True)

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        node = self.nodes[fh]
        end = min(offset + length, node.attr.st_size)
        if end <= offset:
            return b""
        parts = [
            bytes(n) if data is None else os.pread(self.data_fd, n, data)
            for _at, n, data in ranges(node.extents, offset, end)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        node = self.nodes[fh]
        size = len(data)
        if offset >= node.attr.st_size:
            self._append(node, offset, data)
        else:
            self._overwrite(node, offset, data)
        node.attr.st_size = max(node.attr.st_size, offset + size)
        node.attr.st_blocks = (node.attr.st_size + 511) // 512
        node.attr.st_mtime_ns = node.attr.st_ctime_ns = time.time_ns()
        return size

    def _append(self, node: Node, offset: int, data: bytes) -> None:
        os.pwrite(self.data_fd, data, self.data_end)
        last = node.extents[-1] if node.extents else None
        if last and last[0] + last[1] == offset and last[2] + last[1] == self.data_end:
            last[1] += len(data)
        else:
            node.extents.append([offset, len(data), self.data_end])
        self.data_end += len(data)

    def _overwrite(self, node: Node, offset: int, data: bytes) -> None:
        view = memoryview(data)
        holes = []
        for at, n, place in list(ranges(node.extents, offset, offset + len(data))):
            part = view[at - offset : at - offset + n]
            if place is not None:
                os.pwrite(self.data_fd, part, place)
                continue
            os.pwrite(self.data_fd, part, self.data_end)
            holes.append([at, n, self.data_end])
            self.data_end += n
        if holes:
            node.extents = sorted(node.extents + holes)

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def fsync(self, fh: int, datasync: bool) -> None:
        os.fdatasync(self.data_fd)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        pass

    async def opendir(self, ino: int, ctx: pyfuse3.RequestContext) -> int:
        self.listing_serial += 1
        self.listings[self.listing_serial] = list(self.nodes[ino].entries.items())
        return self.listing_serial

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self.listings[fh]
        for index in range(start_id, len(listing)):
            name, node = listing[index]
            if not pyfuse3.readdir_reply(token, name, node.attr, index + 1):
                break
            node.lookups += 1

    async def releasedir(self, fh: int) -> None:
        del self.listings[fh]

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = 4096
        answer.f_blocks = answer.f_bfree = answer.f_bavail = 1 << 30
        answer.f_files = answer.f_ffree = answer.f_favail = 1 << 30
        answer.f_namemax = 255
        return answer

    async def getxattr(self, ino: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        if name in UNSUPPORTED:
            raise FUSEError(errno.EOPNOTSUPP)
        try:
            return self.nodes[ino].xattrs[name]
        except KeyError:
            raise FUSEError(pyfuse3.ENOATTR) from None

    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self.nodes[ino].xattrs[name] = value

    async def listxattr(self, ino: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        return list(self.nodes[ino].xattrs)


def widen_read_ahead(mountpoint: Path) -> None:
    """Make buffered reads 1 MiB, as gsfs does after mounting. Needs root; without it reads stay 128 KiB."""
    device = os.stat(mountpoint).st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with contextlib.suppress(OSError):
        knob.write_text(str(READ_AHEAD_KIB))


async def serve(mountpoint: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        await trio.to_thread.run_sync(widen_read_ahead, mountpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("data_file", type=Path)
    parser.add_argument("--stock", action="store_true", help="pyfuse3's own loop, to compare with")
    args = parser.parse_args()
    gc.disable()  # nothing here makes cycles, and full collections would grow with the tree
    if not args.stock:
        loop.install()
    options = set(pyfuse3.default_options) | {"fsname=nullfs"}
    pyfuse3.init(NullFs(args.data_file), str(args.mountpoint), options)
    table = None if args.stock else libfuse.find_table(str(args.mountpoint))
    if table is not None:  # the requests that gsfs is spared, too
        table.claim(libfuse.HANDLE_KILLPRIV_V2)
        table.precede(libfuse.Slot.OPEN, lambda _ino, file: libfuse.close_unasked(file))
        table.precede(libfuse.Slot.CREATE, lambda _parent, _name, _mode, file: libfuse.close_unasked(file))
    try:
        trio.run(serve, args.mountpoint)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
