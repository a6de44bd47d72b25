"""The words of gsfs as types. Owns identifiers and enumerations; holds no behaviour and does no I/O."""

from __future__ import annotations

import enum
from typing import NewType

Ino = NewType("Ino", int)
"""Inode number; never reused. 1 is the root of the mount."""

ObjectId = NewType("ObjectId", int)
"""Number of a physical object; never reused."""

LocationId = NewType("LocationId", str)
"""Name of a location, such as ``aws:us-east-1``."""

ROOT_INO = Ino(1)
NAME_MAX = 255
"""Longest name of a directory entry, in bytes (POSIX NAME_MAX)."""
FILE_SIZE_MAX = 2**63 - 1
"""Largest size of a file, in bytes (off_t)."""

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Durability(enum.StrEnum):
    """What ``fsync`` and ``close`` promise (design, section 4)."""

    WRITEBACK = "writeback"
    LOCAL = "local"
    REMOTE = "remote"


class ReplicaState(enum.StrEnum):
    """Where one replica of a physical object stands; the transitions are in ``namespace.replica``."""

    INTENT = "intent"
    TRANSFERRING = "transferring"
    AVAILABLE = "available"
    EXPIRING = "expiring"
    TOMBSTONE = "tombstone"
    GONE = "gone"


class ObjectState(enum.StrEnum):
    """Life of a physical object: appended to, then immutable."""

    OPEN = "open"
    SEALED = "sealed"
