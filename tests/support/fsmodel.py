"""The file system as plain Python objects: what it must look like. Owns names, bytes and errors; nothing is stored."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

NOREPLACE, EXCHANGE = 1, 2
Frozen = dict[bytes, tuple[object, ...]]
"""Every path, and what is there; two names of one file say so."""


class Refused(Exception):
    """The operation fails with this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


@dataclass(eq=False)
class Node:
    """A file, directory or symbolic link."""

    kind: str
    content: bytes = b""
    entries: dict[bytes, Node] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: int = 0


class Model:
    """A tree of nodes; the root holds buckets only."""

    def __init__(self) -> None:
        self.root = Node("dir", names=1)

    def directories(self) -> list[tuple[bytes, ...]]:
        """Paths of directories in which things can be made."""
        found: list[tuple[bytes, ...]] = []

        def walk(node: Node, path: tuple[bytes, ...]) -> None:
            for name, child in sorted(node.entries.items()):
                if child.kind == "dir":
                    found.append((*path, name))
                    walk(child, (*path, name))

        walk(self.root, ())
        return found

    def at(self, path: tuple[bytes, ...]) -> Node:
        node = self.root
        for name in path:
            node = node.entries[name]
        return node

    # --- operations

    def make(self, parent: tuple[bytes, ...], name: bytes, kind: str, content: bytes = b"") -> Node:
        directory = self.at(parent)
        if name in directory.entries:
            raise Refused(errno.EEXIST)
        node = directory.entries[name] = Node(kind, content, names=1)
        return node

    def link(self, node: Node, bucket: bytes, parent: tuple[bytes, ...], name: bytes) -> None:
        directory = self.at(parent)
        if name in directory.entries:
            raise Refused(errno.EEXIST)
        if node.kind == "dir":
            raise Refused(errno.EPERM)
        if parent[0] != bucket:
            raise Refused(errno.EXDEV)
        directory.entries[name] = node
        node.names += 1

    def unlink(self, parent: tuple[bytes, ...], name: bytes) -> None:
        node = self._existing(parent, name)
        if node.kind == "dir":
            raise Refused(errno.EISDIR)
        del self.at(parent).entries[name]
        node.names -= 1

    def rmdir(self, parent: tuple[bytes, ...], name: bytes) -> None:
        node = self._existing(parent, name)
        if node.kind != "dir":
            raise Refused(errno.ENOTDIR)
        if node.entries:
            raise Refused(errno.ENOTEMPTY)
        del self.at(parent).entries[name]
        node.names = 0

    def rename(
        self, old: tuple[bytes, ...], name: bytes, new: tuple[bytes, ...], to: bytes, flags: int
    ) -> None:
        source, target = self.at(old), self.at(new)
        node, replaced = self._existing(old, name), target.entries.get(to)
        if flags == NOREPLACE and replaced is not None:
            raise Refused(errno.EEXIST)
        if flags == EXCHANGE and replaced is None:
            raise Refused(errno.ENOENT)
        if node is replaced:
            return
        self._check_move(node, (*old, name), old, new)
        if flags == EXCHANGE:
            assert replaced is not None
            self._check_move(replaced, (*new, to), new, old)
            source.entries[name], target.entries[to] = replaced, node
            return
        if replaced is not None:
            self._check_replace(node, replaced)
            replaced.names -= 1
        del source.entries[name]
        target.entries[to] = node

    def _check_move(
        self, node: Node, path: tuple[bytes, ...], old: tuple[bytes, ...], new: tuple[bytes, ...]
    ) -> None:
        if old == new:
            return
        if old[0] != new[0] and node.kind != "dir" and node.names > 1:
            raise Refused(errno.EXDEV)
        if node.kind == "dir" and new[: len(path)] == path:
            raise Refused(errno.EINVAL)

    @staticmethod
    def _check_replace(node: Node, replaced: Node) -> None:
        if node.kind == "dir" and replaced.kind != "dir":
            raise Refused(errno.ENOTDIR)
        if replaced.kind == "dir":
            if node.kind != "dir":
                raise Refused(errno.EISDIR)
            if replaced.entries:
                raise Refused(errno.ENOTEMPTY)

    def _existing(self, parent: tuple[bytes, ...], name: bytes) -> Node:
        node = self.at(parent).entries.get(name)
        if node is None:
            raise Refused(errno.ENOENT)
        return node

    @staticmethod
    def write(node: Node, offset: int, data: bytes) -> None:
        old = node.content
        node.content = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]

    @staticmethod
    def truncate(node: Node, size: int) -> None:
        node.content = node.content[:size].ljust(size, b"\0")

    # --- as a value

    def freeze(self) -> Frozen:
        """The state as a value; nodes are told apart by the first of their names."""
        found: Frozen = {}
        first: dict[int, bytes] = {}

        def walk(node: Node, path: bytes) -> None:
            for name, child in sorted(node.entries.items()):
                here = path + b"/" + name
                same = first.setdefault(id(child), here)
                found[here] = (child.kind, same, child.content, tuple(sorted(child.xattrs.items())))
                walk(child, here)

        walk(self.root, b"")
        return found
