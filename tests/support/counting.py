"""Counting the requests that a piece of work costs. Owns the comparison; requests are money, so tests hold them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from gsfs.backends.location import Location
from gsfs.backends.request import RequestKind


class Requests:
    """Requests to some locations since they began to be counted, by kind; every attempt counts."""

    def __init__(self, *locations: Location) -> None:
        self._locations = locations
        self._before = self._now()

    def __getitem__(self, kind: RequestKind | str) -> int:
        return (self._now() - self._before)[RequestKind(kind)]

    def by_kind(self) -> dict[str, int]:
        """Kinds that occurred, with their number."""
        return {kind.value: count for kind, count in (self._now() - self._before).items() if count}

    def total(self) -> int:
        return sum(self.by_kind().values())

    def bytes_up(self) -> int:
        """Bytes sent by these locations since they were opened."""
        return sum(location.counters.bytes_up for location in self._locations)

    def _now(self) -> Counter[RequestKind]:
        total: Counter[RequestKind] = Counter()
        for location in self._locations:
            total.update(location.counters.requests)
        return total


@contextlib.contextmanager
def costs(*locations: Location, **most: int) -> Iterator[Requests]:
    """The block costs at most so many requests of each kind named, and none of any other.

    ``with costs(home, put=3): ...``
    """
    requests = Requests(*locations)
    yield requests
    found = requests.by_kind()
    over = {kind: count for kind, count in found.items() if count > most.get(kind, 0)}
    assert not over, f"requests beyond what is allowed: {over}; allowed: {most}; all: {found}"
