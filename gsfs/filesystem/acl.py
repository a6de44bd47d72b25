"""POSIX access control lists as the kernel hands them over: the binary form, its rules, nothing else. Pure.

The kernel enforces ACLs; the file system keeps the mode bits in step and lets new inodes inherit.
Format and rules: acl(5); linux/posix_acl_xattr.h (version 2, little-endian).
"""

from __future__ import annotations

import stat
import struct

from gsfs.errors import InvalidArgument

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
VERSION = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
UNDEFINED_ID = 0xFFFFFFFF
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")

Entry = tuple[int, int, int]  # tag, permissions, id


def decode(value: bytes) -> list[Entry]:
    """Entries of an ACL. Raises InvalidArgument."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise InvalidArgument("ACL: wrong length")
    if _HEADER.unpack_from(value)[0] != VERSION:
        raise InvalidArgument("ACL: unknown version")
    return [_ENTRY.unpack_from(value, at) for at in range(_HEADER.size, len(value), _ENTRY.size)]


def encode(entries: list[Entry]) -> bytes:
    return _HEADER.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def is_minimal(entries: list[Entry]) -> bool:
    """Whether mode bits say the same."""
    return all(tag in (USER_OBJ, GROUP_OBJ, OTHER) for tag, _, _ in entries)


def mode_bits(entries: list[Entry]) -> int:
    """The nine permission bits that go with the ACL."""
    by_tag = {tag: perm for tag, perm, _ in entries}
    group = by_tag.get(MASK, by_tag.get(GROUP_OBJ, 0))
    return by_tag.get(USER_OBJ, 0) << 6 | group << 3 | by_tag.get(OTHER, 0)


def with_mode(entries: list[Entry], mode: int) -> list[Entry]:
    """The ACL after chmod: owner, mask (else owning group) and others follow the mode."""
    group_tag = MASK if any(tag == MASK for tag, _, _ in entries) else GROUP_OBJ
    new = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    return [(tag, new.get(tag, perm), id_) for tag, perm, id_ in entries]


def inherit(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """(mode, access ACL or None) of something made with ``mode`` in a directory with that default ACL."""
    group_tag = MASK if any(tag == MASK for tag, _, _ in decode(default)) else GROUP_OBJ
    limit = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    entries = [(tag, perm & limit.get(tag, 7), id_) for tag, perm, id_ in decode(default)]
    new_mode = stat.S_IFMT(mode) | (mode & 0o7000) | mode_bits(entries)
    return new_mode, None if is_minimal(entries) else encode(entries)
