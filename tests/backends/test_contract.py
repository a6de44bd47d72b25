"""The contract of a backend, claim by claim. Every backend joins by one entry in ``joined``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gsfs.backends.base import Backend, BytesSource, FileSource, list_all
from gsfs.backends.checksum import crc32c
from gsfs.backends.registry import open_backend
from gsfs.backends.secret import Secret
from gsfs.backends.spec import LocationSpec
from gsfs.errors import (
    BackendCorrupt,
    BackendError,
    BackendPermission,
    Misconfigured,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    Unavailable,
)
from tests.backends.joined import Joined
from tests.support.servers import free_port

MIB = 1 << 20
MakeSpec = Callable[..., LocationSpec]


def source(data: bytes) -> BytesSource:
    return BytesSource(data, crc32c(data))


def pattern(size_bytes: int) -> bytes:
    """Bytes in which every place looks different, so that a shifted answer cannot pass."""
    return b"".join(number.to_bytes(4, "big") for number in range(size_bytes // 4 + 1))[:size_bytes]


def everything(backend: Backend, key: str) -> bytes:
    return backend.get_range(key, 0, 64 * MIB)


# --- put and get


@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 65537, 9 * MIB + 3])
def test_bytes_come_back_as_they_were_put(backend: Backend, size_bytes: int) -> None:
    data = pattern(size_bytes)
    info = backend.put("segments/1", source(data))
    assert (info.key, info.size_bytes, info.crc32c) == ("segments/1", size_bytes, crc32c(data))
    assert everything(backend, "segments/1") == data


def test_a_run_of_a_file_is_stored_and_nothing_around_it(backend: Backend, tmp_path: Path) -> None:
    data = pattern(3 * MIB)
    (tmp_path / "segment").write_bytes(data)
    run = data[1000 : 1000 + MIB]
    backend.put("run", FileSource(tmp_path / "segment", len(run), crc32c(run), offset=1000))
    assert everything(backend, "run") == run


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 1),
        (0, 100_000),
        (1, 1),
        (99_999, 1),
        (99_990, 500),
        (50_000, 25_000),
        (100_000, 10),
        (200_000, 10),
    ],
)
def test_a_range_is_exact_and_shorter_only_at_the_end(backend: Backend, offset: int, length: int) -> None:
    data = pattern(100_000)
    backend.put("object", source(data))
    assert backend.get_range("object", offset, length) == data[offset : offset + length]


def test_a_range_of_an_empty_object_is_empty(backend: Backend) -> None:
    backend.put("empty", source(b""))
    assert backend.get_range("empty", 0, 10) == b""
    assert backend.head("empty").size_bytes == 0


def test_a_put_replaces_the_whole_object_and_its_tag(backend: Backend) -> None:
    first = backend.put("object", source(b"a" * 1000))
    second = backend.put("object", source(b"b" * 10))
    assert everything(backend, "object") == b"b" * 10
    assert first.etag != second.etag


def test_a_range_of_one_version_is_never_of_another(backend: Backend) -> None:
    backend.put("object", source(b"a" * 1000))
    old = backend.head("object").etag
    assert backend.get_range("object", 0, 10, if_match=old) == b"a" * 10
    backend.put("object", source(b"b" * 1000))
    with pytest.raises((ObjectExists, ObjectChanged)):
        backend.get_range("object", 0, 10, if_match=old)


def test_many_threads_read_what_each_asked_for(backend: Backend) -> None:
    data = pattern(2 * MIB)
    backend.put("object", source(data))
    offsets = [number * 61_001 for number in range(32)]
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda offset: backend.get_range("object", offset, 70_000), offsets)
    assert list(answers) == [data[offset : offset + 70_000] for offset in offsets]


@pytest.mark.slow
def test_an_object_of_more_than_64_mib_is_streamed(backend: Backend, tmp_path: Path) -> None:
    piece = pattern(MIB)
    with (tmp_path / "large").open("wb") as file:
        for _ in range(66):
            file.write(piece)
    checksum = crc32c(piece * 66)
    size_bytes = 66 * MIB
    large = FileSource(tmp_path / "large", size_bytes, checksum)
    info = backend.put("large", large, if_absent=True)
    assert (info.size_bytes, info.crc32c) == (size_bytes, checksum)
    assert backend.get_range("large", 65 * MIB - 10, 20) == piece[-10:] + piece[:10]
    assert crc32c(backend.get_range("large", 0, size_bytes)) == checksum
    with pytest.raises(BackendCorrupt):
        backend.put("other", FileSource(tmp_path / "large", size_bytes, checksum ^ 1))
    with pytest.raises(ObjectNotFound):
        backend.head("other")


# --- what is wrong is refused


def test_bytes_that_differ_from_their_checksum_are_not_stored(backend: Backend) -> None:
    with pytest.raises(BackendCorrupt):
        backend.put("object", BytesSource(b"these bytes", crc32c(b"those bytes")))
    with pytest.raises(ObjectNotFound):
        backend.head("object")


def test_a_source_that_is_too_short_is_an_error_that_no_retry_hides(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"12345")
    with pytest.raises(BackendError) as caught:
        backend.put("object", FileSource(tmp_path / "short", 100, 0))
    assert not caught.value.retryable
    with pytest.raises(ObjectNotFound):
        backend.head("object")


def test_what_is_not_there_is_not_found(backend: Backend) -> None:
    with pytest.raises(ObjectNotFound):
        backend.head("nothing")
    with pytest.raises(ObjectNotFound):
        backend.get_range("nothing", 0, 10)
    with pytest.raises(ObjectNotFound):
        backend.copy("nothing", "copy")


# --- if-absent


def test_put_if_absent_stores_once_and_changes_nothing_afterwards(backend: Backend) -> None:
    backend.put("object", source(b"first"), if_absent=True)
    with pytest.raises(ObjectExists):
        backend.put("object", source(b"second"), if_absent=True)
    assert everything(backend, "object") == b"first"


def test_put_if_absent_has_one_winner(backend: Backend) -> None:
    start = threading.Barrier(8)

    def attempt(number: int) -> bytes | None:
        data = f"writer {number}".encode()
        start.wait()
        try:
            backend.put("object", source(data), if_absent=True)
        except (ObjectExists, Unavailable):  # S3 may answer a race by "conflict, try again"
            return None
        return data

    with ThreadPoolExecutor(8) as threads:
        winners = [data for data in threads.map(attempt, range(8)) if data is not None]
    assert [everything(backend, "object")] == winners


# --- facts


def test_head_tells_size_checksum_tag_and_time(backend: Backend) -> None:
    before = time.time()
    put = backend.put("object", source(b"some bytes"))
    head = backend.head("object")
    assert (head.key, head.size_bytes, head.etag) == ("object", 10, put.etag)
    assert head.crc32c == crc32c(b"some bytes")
    assert abs(head.mtime_ns / 1e9 - before) < 60
    assert '"' not in head.etag


# --- delete


def test_deleting_removes_what_is_there_and_ignores_what_is_not(backend: Backend) -> None:
    keys = [f"d/{number:03}" for number in range(30)]
    for key in keys:
        backend.put(key, source(key.encode()))
    backend.put("kept", source(b"kept"))
    backend.delete_many([*keys, "never/there"])
    assert [info.key for info in list_all(backend, "")] == ["kept"]
    backend.delete_many(["kept"])
    backend.delete_many(["kept"])
    backend.delete_many([])
    assert list(list_all(backend, "")) == []


# --- list


def test_a_listing_is_complete_in_pages_of_any_size(backend: Backend) -> None:
    keys = {f"list/{number:02}/{letter}" for number in range(4) for letter in "abc"} | {"list/01", "other/x"}
    for key in keys:
        backend.put(key, source(key.encode()))
    wanted = {key for key in keys if key.startswith("list/")}
    whole = [info.key for info in list_all(backend, "list/")]
    assert len(whole) == len(wanted)
    assert set(whole) == wanted
    for limit in (1, 3, 5, 13):
        assert [info.key for info in list_all(backend, "list/", limit)] == whole


def test_a_short_page_is_the_last(backend: Backend) -> None:
    for number in range(5):
        backend.put(f"p/{number}", source(b"x"))
    assert len(backend.list_page("p/", "", 3)) == 3
    assert [info.key for info in backend.list_page("p/", "p/2", 3)] == ["p/3", "p/4"]
    assert list(backend.list_page("p/", "p/4", 3)) == []
    assert [info.key for info in backend.list_page("p/", "p/1", 10)] == ["p/2", "p/3", "p/4"]


def test_a_listing_goes_on_when_its_keys_are_deleted_behind_it(backend: Backend) -> None:
    keys = [f"gc/{number:02}" for number in range(10)]
    for key in keys:
        backend.put(key, source(b"x"))
    seen: list[str] = []
    while page := backend.list_page("gc/", seen[-1] if seen else "", 3):
        seen += [info.key for info in page]
        backend.delete_many([info.key for info in page])
    assert seen == keys


def test_a_prefix_is_text_not_a_folder(backend: Backend) -> None:
    for key in ("ab", "abc/d", "abd", "b"):
        backend.put(key, source(b"x"))
    assert {info.key for info in list_all(backend, "ab")} == {"ab", "abc/d", "abd"}
    assert {info.key for info in list_all(backend, "abc")} == {"abc/d"}
    assert {info.key for info in list_all(backend, "")} == {"ab", "abc/d", "abd", "b"}


def test_a_listing_tells_sizes_and_tags(backend: Backend) -> None:
    put = backend.put("object", source(b"12345"))
    (listed,) = list_all(backend, "object")
    assert (listed.key, listed.size_bytes, listed.etag) == ("object", 5, put.etag)
    assert listed.mtime_ns > 0


# --- copy


def test_a_copy_has_the_bytes_and_the_checksum(backend: Backend) -> None:
    data = pattern(100_000)
    backend.put("object", source(data))
    info = backend.copy("object", "folder/copy")
    assert (info.key, info.size_bytes) == ("folder/copy", len(data))
    assert everything(backend, "folder/copy") == data
    assert backend.head("folder/copy").crc32c == crc32c(data)


# --- keys


def test_a_key_may_go_on_below_another(backend: Backend) -> None:
    for key in ("a/b/c", "a", "a/b", "a/b/d"):
        backend.put(key, source(key.encode()))
    assert {info.key for info in list_all(backend, "a")} == {"a", "a/b", "a/b/c", "a/b/d"}
    for key in ("a", "a/b", "a/b/c", "a/b/d"):
        assert everything(backend, key) == key.encode()
    backend.delete_many(["a", "a/b/c"])
    assert {info.key for info in list_all(backend, "a")} == {"a/b", "a/b/d"}


ODD_KEYS = {
    "space": "with space",
    "plus": "a+b",
    "percent": "100%25 %41",
    "query": "a?b=c&d#e",
    "quotes": 'it\'s "quoted"',
    "accents": "grün/naïve/日本語",
    "emoji": "😀/🎉",
    "brackets": "[x]{y}<z>|~^`",
    "backslash": "a\\b",
    "long": "x" * 200 + "/" + "y" * 200,
    "trailing-slash": "folder/",
    "double-slash": "a//b",
    "dots": "a/../b",
    "dot": "./a",
    "long-component": "z" * 700,
    "reserved": ".gsfs-tmp/x",
}


@pytest.mark.parametrize("kind", ODD_KEYS)
def test_an_odd_key_works_or_is_refused_but_is_never_another_key(
    backend: Backend, joined: Joined, kind: str
) -> None:
    key, data = ODD_KEYS[kind], b"the bytes of an odd key"
    if kind in joined.refuses:
        pytest.skip(f"{joined.name} loses such keys")
    try:
        backend.put(key, source(data))
    except Misconfigured:
        assert list(list_all(backend, "")) == []
        pytest.skip(f"{joined.name} refuses such keys")
    assert everything(backend, key) == data
    assert [info.key for info in list_all(backend, "")] == [key]
    backend.delete_many([key])
    assert list(list_all(backend, "")) == []


# --- configuration


def test_check_passes_on_a_location_that_works(backend: Backend) -> None:
    backend.check()


def test_a_missing_bucket_is_misconfigured(make_spec: MakeSpec, joined: Joined) -> None:
    """A missing directory is not: its disk may be mounted later (``test_local``)."""
    if joined.name in ("memory", "local"):
        pytest.skip(f"{joined.name} has no bucket")
    with pytest.raises(Misconfigured):
        open_backend(make_spec(bucket="gsfs-no-such-bucket")).check()
    with pytest.raises(Misconfigured):
        open_backend(make_spec(bucket="gsfs-no-such-bucket")).put("key", source(b"x"))


def test_wrong_credentials_are_denied_and_not_shown(make_spec: MakeSpec, joined: Joined) -> None:
    if not joined.checks_credentials:
        pytest.skip(f"{joined.name} accepts any credentials")
    wrong = Secret("d3Jvbmctc2VjcmV0LXdyb25nLXNlY3JldA==")
    name = "account_key" if joined.name == "azurite" else "secret_key"
    with pytest.raises(BackendPermission) as caught:
        open_backend(make_spec(**{name: wrong})).check()
    assert wrong.reveal() not in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable(make_spec: MakeSpec, joined: Joined) -> None:
    if joined.name in ("memory", "local"):
        pytest.skip(f"{joined.name} has no server")
    with pytest.raises(Unavailable):
        open_backend(make_spec(endpoint=f"http://127.0.0.1:{free_port()}/account")).check()
