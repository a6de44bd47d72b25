"""The cache of object files: what it keeps, what it lets go, and what it never trusts."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from gsfs.data.cache import BLOCK, ObjectCache, ObjectFile, crc_of_file
from gsfs.errors import PermissionRefused
from gsfs.model import MIB, ObjectId

ONE, TWO = ObjectId(1), ObjectId(0x1_0002)


def cache(directory: Path, capacity: int = 10 * MIB, floor: int = 0) -> ObjectCache:
    return ObjectCache(directory, capacity, floor)


def test_what_was_stored_is_found_again_by_the_next_run_and_not_yet_trusted(tmp_path: Path) -> None:
    first = cache(tmp_path)
    first.store_block(TWO, 2, b"x" * BLOCK)
    used = first.used_bytes
    first.close()
    second = cache(tmp_path)
    assert second.ids() == [TWO]
    assert second.used_bytes == used == BLOCK
    file = second.get(TWO)
    assert file is not None and (file.present, file.verified) == (0b100, 0)
    second.close()


def test_files_go_least_recently_used_first_and_only_as_many_as_needed(tmp_path: Path) -> None:
    made = cache(tmp_path, capacity=4 * MIB)
    for number in range(4):
        made.store_block(ObjectId(number), 0, b"x" * BLOCK)
    made.get(ObjectId(0))
    assert made.make_room(BLOCK, look_at_disk=False)
    assert made.ids() == [2, 3, 0]
    made.close()


def test_what_is_held_or_in_use_is_never_evicted(tmp_path: Path) -> None:
    made = cache(tmp_path, capacity=2 * MIB)
    for number in range(2):
        made.store_block(ObjectId(number), 0, b"x" * BLOCK)
    held, used = made.get(ObjectId(0)), made.get(ObjectId(1))
    assert held is not None and used is not None
    held.held, used.users = True, 1
    assert not made.make_room(1, look_at_disk=False)
    assert len(made.ids()) == 2
    made.close()


def test_the_owner_can_refuse_an_eviction(tmp_path: Path) -> None:
    made = cache(tmp_path, capacity=MIB)
    made.store_block(ONE, 0, b"x" * BLOCK)
    made.on_evict = lambda _id: False
    assert not made.make_room(1, look_at_disk=False)
    assert ONE in made
    made.close()


def test_the_floor_of_free_space_is_kept_whatever_the_cap_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cache(tmp_path, capacity=100 * MIB, floor=20 * MIB)
    made.store_block(ONE, 0, b"x" * BLOCK)
    monkeypatch.setattr(made, "free_bytes", lambda: 20 * MIB if ONE in made else 21 * MIB)
    assert made.make_room(MIB // 2, look_at_disk=True)
    assert ONE not in made
    made.close()


def test_a_block_that_was_dropped_and_fetched_again_counts_once(tmp_path: Path) -> None:
    made = cache(tmp_path)
    file = made.store_block(ONE, 0, b"x" * BLOCK)
    made.drop_block(file, 0)
    made.store_block(ONE, 0, b"y" * BLOCK)
    assert made.used_bytes == BLOCK
    made.close()


def test_a_directory_that_cannot_be_written_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_more: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(PermissionRefused, match="Read-only file system"):
        cache(tmp_path)


def test_checksums_of_a_file_are_those_of_its_blocks_and_a_short_file_has_none(tmp_path: Path) -> None:
    made = cache(tmp_path)
    data = os.urandom(BLOCK + 1000)
    file = made.create(ONE)
    os.pwrite(file.fd, data, 0)
    sums = crc_of_file(file.fd, len(data))
    assert sums is not None
    assert sums[0] == google_crc32c.value(data)
    assert sums[1] == b"".join(
        google_crc32c.value(part).to_bytes(4, "big") for part in (data[:BLOCK], data[BLOCK:])
    )
    assert crc_of_file(file.fd, len(data) + 1) is None
    made.close()


# --- regressions


def test_a_new_file_is_durable_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cache(tmp_path)
    flushed: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (flushed.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1]
    )
    file = made.create(ONE)
    file.sync()
    file.sync()
    assert flushed == [str(file.path.parent)]
    made.close()


def test_after_a_failed_flush_the_next_one_writes_the_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cache(tmp_path)
    file = made.create(ONE)
    os.pwrite(file.fd, b"precious", 0)
    with monkeypatch.context() as patch:

        def fail(_fd: int) -> None:
            raise OSError(errno.EIO, "the disk failed")

        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="the disk failed"):
            file.sync()
    written: list[bytes] = []
    real = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, at: (written.append(bytes(data)), real(fd, data, at))[1]
    )
    file.sync()
    assert written == [b"precious"]
    file.sync()
    assert written == [b"precious"], "written again although the flush succeeded"
    made.close()


def test_bytes_written_past_the_cache_are_seen_when_it_looks_again(tmp_path: Path) -> None:
    made = cache(tmp_path)
    file = made.create(ONE)
    assert isinstance(file, ObjectFile)
    assert (file.present, made.used_bytes) == (0, 0)
    os.pwrite(file.fd, b"x" * 5000, 0)
    made.look_again(file)
    assert (file.present, made.used_bytes) == (1, 5000)
    made.close()


def test_a_block_that_the_disk_takes_only_part_of_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up writes what fits, and refuses the rest: the block was once taken for whole."""
    made = cache(tmp_path)
    room = [BLOCK // 2]
    really = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(room[0], len(data))
        room[0] -= taken
        return really(fd, data[:taken], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left"):
        made.store_block(ONE, 0, b"x" * BLOCK)
    file = made.get(ONE)
    assert file is not None
    assert not file.present
    assert not file.verified
    room[0] = 2 * BLOCK
    assert os.pread(made.store_block(ONE, 0, b"y" * BLOCK).fd, 2 * BLOCK, 0) == b"y" * BLOCK
