"""Runs of bytes: the algebra of extents. Pure; knows neither tables nor files."""

from __future__ import annotations

from typing import NamedTuple

from gsfs.model import ObjectId


class Run(NamedTuple):
    """A run of a file's bytes in an object."""

    offset: int
    length: int
    object: ObjectId
    object_offset: int

    def clip(self, start: int, end: int) -> Run:
        """The part of it within [start, end)."""
        skip = max(0, start - self.offset)
        length = min(self.offset + self.length, end) - self.offset - skip
        return Run(self.offset + skip, length, self.object, self.object_offset + skip)


class Extent:
    """The newest extent of a file; ``stored`` is the length of its row so far (0: no row)."""

    __slots__ = ("fresh", "length", "object", "object_offset", "offset", "stored")

    def __init__(self, offset: int, length: int, object_: ObjectId, object_offset: int, fresh: bool) -> None:
        self.offset = offset
        self.length = length
        self.object = object_
        self.object_offset = object_offset
        self.stored = 0
        self.fresh = fresh  # nothing was there before: no older extent lies beneath it

    @property
    def end(self) -> int:
        return self.offset + self.length
