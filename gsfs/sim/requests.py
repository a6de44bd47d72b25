"""One request of a trace. Owns the shapes that readers, generators and replays exchange; parses nothing."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

BATCH = 8192
"""Requests per batch: large enough that the loop around batches costs nothing, small enough for a progress bar."""


class Op(enum.IntEnum):
    """What a request does. HEAD, COPY and LIST are ``OTHER``: the namespace answers them, no location is asked."""

    GET = 0
    PUT = 1
    DELETE = 2
    OTHER = 3


GET, PUT, DELETE, OTHER = (int(op) for op in Op)


class Request(NamedTuple):
    """A request as it stands in a trace. Readers yield plain tuples of this shape: they are made five times faster."""

    time_ms: int
    """Since any fixed moment; a replay starts its clock at the first request."""
    op: int
    key: str
    size_bytes: int
    """Of the whole object, as far as the trace tells; 0 for a delete."""
    length_bytes: int
    """Bytes asked for: less than the size in a ranged read."""
    region: str = ""
    """Where the request came from, when the trace says so; otherwise an assignment decides."""


Row = tuple[int, int, str, int, int, str]
"""The shape of ``Request``."""

Placed = tuple[float, int, int, int, int, int]
"""What a replay takes: scaled time in s, op, key as a small integer, size, length, index of the region."""


def batches(rows: Iterable[Row], size: int = BATCH) -> Iterator[list[Row]]:
    """Cut a stream into lists of at most ``size``."""
    stream = iter(rows)
    while batch := list(islice(stream, size)):
        yield batch
