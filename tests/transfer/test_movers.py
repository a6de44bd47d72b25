"""Uploads, downloads, garbage, compaction: each byte moves once, arrives verified, and goes when nobody needs it."""

from __future__ import annotations

import os

import pytest
import trio

from gsfs.errors import InputOutput, NoSpace, Unavailable
from gsfs.model import MIB, ReplicaState
from tests.support.worlds import HOME
from tests.transfer.conftest import Place

DATA = os.urandom(300_000)


# --- uploads


def test_many_small_files_travel_as_one_object(place: Place) -> None:
    for number in range(50):
        place.write(b"f%d" % number, b"%d" % number * 100)
    place.settle()
    assert len(place.puts()) == 1


def test_uploads_go_oldest_first(place: Place) -> None:
    place.backend.down = True
    for number in range(3):
        place.write(b"f%d" % number, DATA)
        place.seal()
    place.backend.down = False
    place.backend.calls.clear()
    place.let_pass(90)
    numbers = [int(key.rsplit("/", 1)[1].split("-")[0], 16) for key in dict.fromkeys(place.puts())]
    assert len(numbers) == 3 and numbers == sorted(numbers)


def test_a_location_that_fails_for_a_while_gets_everything_in_the_end(place: Place) -> None:
    place.backend.fail("put", *[Unavailable("not now")] * 7)
    place.write(b"f", DATA)
    place.settle()
    assert place.strays() == []
    place.evict_all()
    assert place.read(b"f") == DATA


def test_an_upload_whose_answer_was_lost_is_not_sent_again_by_the_next_run(place: Place) -> None:
    place.write(b"f", DATA)
    place.backend.fail_after("put", *[Unavailable("the answer is lost")] * 200)
    place.seal()
    place.let_pass(3)
    sent = place.puts()
    place.kill()
    place.backend._after["put"].clear()
    place.backend.calls.clear()
    place.start()
    place.settle()
    assert sent and place.puts() == []
    assert place.strays() == []
    place.evict_all()
    assert place.read(b"f") == DATA


def test_what_was_sealed_but_not_sent_is_sent_by_the_next_run(place: Place) -> None:
    place.backend.down = True
    place.write(b"f", DATA)
    place.seal()
    place.fsync()
    place.kill()
    place.backend.down = False
    place.start()
    place.settle()
    assert place.strays() == []
    place.evict_all()
    assert place.read(b"f") == DATA


# --- downloads


def away(place: Place, name: bytes = b"f", data: bytes = DATA) -> None:
    """The bytes are at the location only."""
    place.write(name, data)
    place.settle()
    place.evict_all()
    assert not place.volume.cache.ids()
    place.backend.calls.clear()


def gets(place: Place) -> int:
    return sum(what == "get" for what, _key in place.backend.calls)


def test_readers_of_the_same_block_share_one_request(place: Place) -> None:
    away(place)

    async def both() -> list[bytes]:
        volume, found = place.volume, []
        inode = volume.names.lookup(place.bucket, b"f")
        assert inode is not None

        async def one() -> None:
            handle, _keep = volume.content.open(inode.ino, os.O_RDONLY)
            found.append(bytes(await volume.content.read(handle, 0, len(DATA))))
            volume.content.release(handle)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        return found

    assert place.call(both) == [DATA] * 5
    assert gets(place) == 1


def test_fetched_blocks_serve_the_next_run_without_a_request(place: Place) -> None:
    away(place)
    assert place.read(b"f") == DATA
    place.stop()
    place.start()
    place.backend.calls.clear()
    assert place.read(b"f") == DATA
    assert gets(place) == 0


def test_a_cached_block_that_went_bad_on_the_disk_is_fetched_again(place: Place) -> None:
    away(place)
    place.read(b"f")
    place.stop()
    [path] = (place.directory / "cache").glob("objects/*/*")
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"rotten")
    place.start()
    place.backend.calls.clear()
    assert place.read(b"f") == DATA
    assert gets(place) == 1


def test_an_answer_with_wrong_bytes_is_never_shown(place: Place) -> None:
    away(place)
    place.backend.lies = 1
    assert place.read(b"f") == DATA
    assert gets(place) == 2


def test_a_location_that_only_lies_gives_an_error_and_not_its_lies(place: Place) -> None:
    away(place)
    place.backend.lies = 10**6
    with pytest.raises(InputOutput):
        place.read(b"f")


# --- space


def test_the_cache_stays_under_its_cap_and_every_byte_can_be_read(place: Place) -> None:
    parts = [os.urandom(MIB) for _ in range(16)]
    for number, part in enumerate(parts):
        place.write(b"f%d" % number, part)
        assert place.volume.cache.used_bytes <= place.volume.cache.capacity_bytes
    for number, part in enumerate(parts):
        assert place.read(b"f%d" % number) == part


def test_a_cache_full_of_bytes_that_cannot_leave_refuses_writers_and_loses_nothing(place: Place) -> None:
    place.backend.down = True
    written = []
    with pytest.raises(NoSpace):
        for number in range(20):
            data = os.urandom(MIB // 2)
            place.write(b"f%d" % number, data)
            written.append(data)
    assert 2 <= len(written) < 20
    place.backend.down = False
    place.let_pass(60)
    place.write(b"more", b"there is room again")
    for number, data in enumerate(written):
        assert place.read(b"f%d" % number) == data


# --- garbage and compaction


def test_what_nobody_needs_is_deleted_everywhere(place: Place) -> None:
    place.write(b"f", DATA)
    place.settle()
    assert [info for info in place.objects() if not info.key.startswith("meta/")]
    place.unlink(b"f")
    place.settle()
    assert [info for info in place.objects() if not info.key.startswith("meta/")] == []
    assert not place.volume.cache.ids()


def test_garbage_that_a_location_would_not_delete_is_deleted_later(place: Place) -> None:
    place.write(b"f", DATA)
    place.settle()
    place.unlink(b"f")
    place.backend.down = True
    place.let_pass(12)
    place.kill()
    place.backend.down = False
    place.start()
    place.settle()
    assert place.strays() == []
    assert [info for info in place.objects() if not info.key.startswith("meta/")] == []


def test_compaction_keeps_every_byte_and_gives_the_rest_back(place: Place) -> None:
    kept = os.urandom(20_000)
    place.write(b"kept", kept)
    place.write(b"gone", DATA)
    place.settle()
    place.unlink(b"gone")
    assert place.call(lambda: place.volume.compaction.compact(0)) == len(kept)
    place.settle()
    assert sum(info.size_bytes for info in place.objects() if not info.key.startswith("meta/")) == len(kept)
    place.evict_all()
    assert place.read(b"kept") == kept
    assert place.fsck() == []


def test_eviction_waits_until_a_power_cut_cannot_undo_the_arrival(place: Place) -> None:
    place.write(b"f", DATA)
    place.seal()
    place.let_pass(1)

    async def state() -> tuple[ReplicaState, bool]:
        [id_] = place.volume.cache.ids()
        replica = place.volume.store.objects.replica(id_, HOME)
        assert replica is not None
        return replica.state, place.volume.uploads.release_local(id_)

    assert place.call(state) == (ReplicaState.AVAILABLE, False)
