"""Which region a request comes from, when the trace does not say. Owns the assignment types A to E of SkyStore.

A: every request from a random region. B: one region writes an object, one reads it. C: one region reads the bucket,
another writes it. D: one region writes an object, reads come from anywhere. E: each object after one of A to D.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from gsfs.errors import ConfigError
from gsfs.sim.requests import GET, Placed, Row, batches

TABLE = 1 << 14
"""Random choices made in advance; a request takes the next one, an object the one at its number."""


class Assignment(enum.StrEnum):
    A = "A"
    B = "B"
    C = "C"
    D = "D"
    E = "E"


def _below(end: int, chance: random.Random) -> Iterator[int]:
    """``chance.randrange(end)`` over and over, in a fourth of the time."""
    bits, draw = end.bit_length(), chance.getrandbits
    while True:
        number = draw(bits)
        if number < end:
            yield number


@dataclass(slots=True)
class Assigner:
    """Turns rows of a trace into what a replay takes: numbers for keys and regions, scaled seconds for times."""

    regions: tuple[str, ...]
    assignment: Assignment | None = Assignment.D
    """None: every row must name its region."""
    time_scale: float = 1.0
    seed: int = 1
    keys: dict[str, int] = field(default_factory=dict)
    anywhere: list[int] = field(init=False)
    writers: list[int] = field(init=False)
    readers: list[int] = field(init=False)
    """Of objects; -1 means anywhere."""
    turn: int = 0
    drawn: int = 0
    """Requests so far whose region the trace did not name."""
    start_ms: int | None = None
    names: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        chance, count = random.Random(self.seed), len(self.regions)
        self.names = {region: i for i, region in enumerate(self.regions)}
        anyone, other = _below(count, chance), _below(max(1, count - 1), chance)
        self.anywhere = list(islice(anyone, TABLE))
        kinds = [self._kind(chance) for _ in range(TABLE)]
        bucket_writer = next(anyone)
        bucket_reader = (bucket_writer + 1 + next(other)) % count
        writer_of, reader_of = {"A": -1, "C": bucket_writer}, {"A": -1, "D": -1, "C": bucket_reader}
        self.writers, self.readers = [], []
        for kind in kinds:
            writer = next(anyone)
            reader = (writer + 1 + next(other)) % count
            self.writers.append(writer_of.get(kind, writer))
            self.readers.append(reader_of.get(kind, reader))

    def _kind(self, chance: random.Random) -> str:
        if self.assignment is Assignment.E:
            return chance.choice("ABCD")
        return self.assignment.value if self.assignment else "A"

    def birth_region(self, key: int) -> int:
        """Where an object was written that the trace only reads."""
        writer = self.writers[key % TABLE]
        return writer if writer >= 0 else self.anywhere[key % TABLE]

    def place(self, rows: Iterable[Row]) -> Iterator[list[Placed]]:
        """The requests in batches, in the order of the trace; a time that goes back is taken as the time before."""
        for batch in batches(rows):
            yield self._place_batch(batch)

    def _place_batch(self, batch: list[Row]) -> list[Placed]:
        keys, anywhere, turn = self.keys, self.anywhere, self.turn
        known = keys.get
        start, scale = self.start_ms, self.time_scale
        if start is None:
            start = self.start_ms = batch[0][0]
        placed: list[Placed] = []
        named = 0
        for time_ms, op, name, size, length, where in batch:
            key = known(name)
            if key is None:
                key = keys[name] = len(keys)
            if where or self.assignment is None:
                region = self._named(where)
                named += 1
            else:
                region = (self.readers if op == GET else self.writers)[key % TABLE]
                if region < 0:
                    turn += 1
                    region = anywhere[turn % TABLE]
            placed.append(((time_ms - start) * scale / 1000, op, key, size, length, region))
        self.turn = turn
        self.drawn += len(batch) - named
        return placed

    def _named(self, region: str) -> int:
        try:
            return self.names[region]
        except KeyError:
            got = f"names region {region!r}" if region else "has a request without a region"
            raise ConfigError(f"the trace {got}; takes one of --regions {','.join(self.regions)}") from None
