"""One request of a trace. Owns the types that readers, generators and replays exchange; parses nothing."""

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
    """A request as it stands in a trace; times in ms since the first request of the trace."""

    time_ms: int
    op: int
    key: str | int
    size_bytes: int
    """Of the whole object, as far as the trace tells; 0 for a delete."""
    length_bytes: int
    """Bytes asked for: less than the size in a ranged read."""
    region: str | None = None
    """Where the request came from, when the trace says so; otherwise an assignment decides."""


class Placed(NamedTuple):
    """A request as the replay takes it: key and region are small integers, the time is scaled seconds."""

    time_s: float
    op: int
    key: int
    size_bytes: int
    length_bytes: int
    region: int


def batches(items: Iterable[Request], size: int = BATCH) -> Iterator[list[Request]]:
    """Cut a stream into lists of at most ``size``."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
