"""The tree of a volume as a value, to be compared with a model's. Owns the walk; changes nothing but access times."""

from __future__ import annotations

import os

from gsfs.model import MIB, ROOT_INO
from gsfs.namespace.inodes import Inode
from gsfs.volume import Volume
from tests.support.fsmodel import Frozen


async def tree(volume: Volume) -> Frozen:
    """Every path with its kind, content and attributes; names of one file say so."""
    found: Frozen = {}
    first: dict[int, bytes] = {}

    async def walk(ino: int, path: bytes) -> None:
        number = volume.directories.opendir(ino)
        listed = [
            (e.name, e.inode) for e in volume.directories.listing(number, 0) if e.name not in (b".", b"..")
        ]
        volume.directories.releasedir(number)
        for name, inode in sorted(listed):
            here = path + b"/" + name
            same = first.setdefault(inode.ino, here)
            xattrs = tuple(
                (n, volume.attributes.getxattr(inode.ino, n)) for n in volume.attributes.listxattr(inode.ino)
            )
            if inode.is_dir:
                found[here] = ("dir", same, b"", xattrs)
                await walk(inode.ino, here)
            elif inode.is_regular:
                found[here] = ("file", same, await content(volume, inode), xattrs)
            else:
                found[here] = ("link", same, volume.names.readlink(inode.ino), xattrs)

    await walk(ROOT_INO, b"")
    return found


async def content(volume: Volume, inode: Inode) -> bytes:
    """All bytes of a file."""
    handle = volume.content.open_inode(inode, os.O_RDONLY)
    data = b""
    while len(data) < inode.size:
        part = bytes(await volume.content.read(handle, len(data), MIB))
        assert part, f"inode {inode.ino}: ends at {len(data)} of {inode.size}"
        data += part
    volume.content.release(handle)
    return data


def difference(expected: Frozen, seen: Frozen) -> str:
    """What differs between two trees, in one line."""
    lines = [f"missing {path!r}" for path in sorted(expected.keys() - seen.keys())]
    lines += [f"unexpected {path!r}" for path in sorted(seen.keys() - expected.keys())]
    for path in sorted(expected.keys() & seen.keys()):
        if expected[path] != seen[path]:
            lines.append(f"{path!r}: {_short(expected[path])} became {_short(seen[path])}")
    return "; ".join(lines)


def _short(value: tuple[object, ...]) -> str:
    return repr(
        tuple(f"{len(v)} bytes, {v[:24]!r}..." if isinstance(v, bytes) and len(v) > 24 else v for v in value)
    )
