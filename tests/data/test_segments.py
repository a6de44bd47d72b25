"""The log: where appended bytes go, when segments are sealed, and what is said of them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsfs.data.cache import BLOCK, ObjectCache, crc_of_file
from gsfs.data.segments import POOL_MAX, Segment, SegmentEvents, SegmentLog
from gsfs.model import MIB, Ino, ObjectId

A, B = Ino(2), Ino(3)


class Log:
    """A log with its clock in hand."""

    def __init__(self, directory: Path, size: int = 2 * MIB) -> None:
        self.cache = ObjectCache(directory, 1 << 40, 0)
        self.now = 0.0
        self.sealed: list[Segment] = []
        numbers = itertools.count(1)
        events = SegmentEvents(lambda _s: None, self.sealed.append, lambda: ObjectId(next(numbers)))
        self.log = SegmentLog(self.cache, size, lambda: self.now, events)

    def bytes_of(self, pieces: list[tuple[ObjectId, int, int]]) -> bytes:
        out = b""
        for id_, offset, length in pieces:
            file = self.cache.get(id_)
            assert file is not None
            out += os.pread(file.fd, length, offset)
        return out


@pytest.fixture
def made(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_small_files_of_a_bucket_share_a_segment_and_buckets_do_not(made: Log) -> None:
    pieces = [made.log.append(bucket, None, b"x" * 100)[0] for bucket in (A, A, B)]
    assert pieces[0][0] == pieces[1][0] != pieces[2][0]
    assert [piece[1] for piece in pieces] == [0, 100, 0]


def test_a_long_writer_has_a_segment_of_its_own(made: Log) -> None:
    own = made.log.append(A, Ino(9), b"x" * 100)[0][0]
    assert made.log.append(A, None, b"y")[0][0] != own
    assert made.log.append(A, Ino(9), b"z")[0] == (own, 100, 1)


def test_what_long_writers_leave_is_used_by_others_and_bounded(made: Log) -> None:
    for number in range(POOL_MAX + 3):
        made.log.append(A, Ino(100 + number), b"x" * (number + 1))
        made.log.release(Ino(100 + number))
    assert len(made.log.open_segments()) == POOL_MAX
    assert len(made.sealed) == 3


def test_a_segment_is_sealed_when_it_is_full_and_the_rest_goes_into_the_next(made: Log) -> None:
    data = os.urandom(5 * MIB)
    pieces = made.log.append(A, None, data)
    assert [length for _id, _at, length in pieces] == [2 * MIB, 2 * MIB, MIB]
    assert made.bytes_of(pieces) == data
    assert [s.size for s in made.sealed] == [2 * MIB, 2 * MIB]


def test_idle_and_old_segments_are_sealed_and_busy_ones_are_not(made: Log) -> None:
    made.log.append(A, None, b"idle")
    made.now = 1.0
    made.log.append(B, None, b"busy")
    made.now = 2.5
    assert made.log.seal_idle(2.0, 10.0) == 1
    for second in range(3, 13):
        made.now = float(second)
        made.log.append(B, None, b"busy")
        made.log.seal_idle(2.0, 10.0)
    assert [s.bucket for s in made.sealed] == [A, B]


def test_a_commit_hears_of_each_growth_once(made: Log) -> None:
    made.log.append(A, None, b"abc")
    assert [row[0] for row in made.log.records()] == [3]
    assert list(made.log.records()) == []
    made.log.append(A, None, b"d")
    assert [row[0] for row in made.log.records()] == [4]


def test_a_flush_covers_what_was_there_when_it_began_and_no_more(made: Log) -> None:
    made.log.append(A, None, b"abc")
    [(segment, size)] = made.log.unsynced()
    made.log.append(A, None, b"def")
    assert not made.log.synced(segment, size)
    assert made.log.unsynced() == [(segment, 6)]
    made.log.seal(segment)
    assert made.log.synced(segment, 6)
    assert made.log.unsynced() == []


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.lists(st.sampled_from([1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * MIB]), min_size=1, max_size=8)
)
def test_checksums_told_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    made = Log(tmp_path_factory.mktemp("log"))
    for number, size in enumerate(sizes):
        made.log.append(A, None, bytes([number + 1]) * size)
    made.log.seal_all()
    for segment in made.sealed:
        file = made.cache.get(segment.id)
        assert file is not None
        assert crc_of_file(file.fd, segment.size) == (segment.crc32c, segment.checksums())
        assert not file.growing
    made.cache.close()
    assert google_crc32c.value(b"") == 0


def test_a_segment_is_trusted_while_it_grows_and_by_its_checksums_afterwards(made: Log) -> None:
    id_ = made.log.append(A, None, b"abc")[0][0]
    file = made.cache.get(id_)
    assert file is not None and file.growing and file.held
    made.log.seal_all()
    assert not file.growing and file.verified == 1
