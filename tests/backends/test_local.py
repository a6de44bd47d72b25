"""Claims about a directory as a location beyond the contract: names on disk, crashes, other processes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsfs.backends.base import BytesSource, list_all
from gsfs.backends.checksum import crc32c
from gsfs.backends.local import LocalBackend
from gsfs.errors import BackendCorrupt, Misconfigured, ObjectExists, ObjectNotFound, Unavailable


def source(data: bytes) -> BytesSource:
    return BytesSource(data, crc32c(data))


@pytest.fixture
def local(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path)


def keys_of(local: LocalBackend, prefix: str = "") -> list[str]:
    return [info.key for info in list_all(local, prefix, 7)]


def test_a_sensible_key_is_a_file_of_that_name(local: LocalBackend, tmp_path: Path) -> None:
    local.put("photos/2024/a picture.jpg", source(b"jpeg"))
    assert (tmp_path / "photos/2024/a picture.jpg").read_bytes() == b"jpeg"


def test_files_that_were_there_before_are_objects(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/100%.txt").write_bytes(b"old")
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")
    local = LocalBackend(tmp_path)
    assert keys_of(local) == ["deep/er/100%.txt"]
    assert local.get_range("deep/er/100%.txt", 0, 10) == b"old"
    assert local.head("deep/er/100%.txt").crc32c is None
    for odd in ("link", "fifo", "deep"):
        with pytest.raises(ObjectNotFound):
            local.get_range(odd, 0, 10)


@pytest.mark.parametrize("key", ["../escape", "/etc/passwd", "a/../../escape", "..", "a/..", "./x", "a\0b"])
def test_no_key_leaves_the_directory(tmp_path: Path, key: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    local = LocalBackend(root)
    local.put(key, source(b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert local.get_range(key, 0, 10) == b"x"
    assert keys_of(local) == [key]


KEYS = st.text(st.sampled_from("ab./%~=+é\0 "), min_size=1, max_size=8) | st.sampled_from(
    ["a", "a/a", "a/a/a", "x" * 300, "x" * 300 + "/y", "x" * 600, ".gsfs-tmp", ".gsfs-tmp/a", ".gsfs=a", "a/"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(KEYS, st.booleans()), max_size=25))
def test_any_keys_together_behave_like_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bool]]
) -> None:
    local = LocalBackend(tmp_path_factory.mktemp("any"))
    model: dict[str, bytes] = {}
    for number, (key, removes) in enumerate(steps):
        if removes:
            local.delete_many([key])
            model.pop(key, None)
        else:
            data = f"{number} {key}".encode("utf-8", "replace")
            local.put(key, source(data))
            model[key] = data
    assert keys_of(local) == sorted(model, key=os.fsencode)
    for key, data in model.items():
        assert local.get_range(key, 0, 10_000) == data
        assert local.head(key).size_bytes == len(data)
    local.delete_many(list(model))
    assert keys_of(local) == []
    local.close()


def test_emptied_directories_are_removed_and_the_root_is_not(local: LocalBackend, tmp_path: Path) -> None:
    local.put("a/b/c/d", source(b"x"))
    local.put("a/x", source(b"x"))
    local.delete_many(["a/b/c/d"])
    assert not (tmp_path / "a/b").exists()
    local.delete_many(["a/x"])
    assert not (tmp_path / "a").exists()
    assert tmp_path.exists()


def test_an_object_that_must_make_room_for_a_directory_is_found_all_the_while(local: LocalBackend) -> None:
    stop = threading.Event()
    missed: list[str] = []

    def read() -> None:
        while not stop.is_set():
            try:
                local.head("a")
            except ObjectNotFound as error:
                missed.append(str(error))

    local.put("a", source(b"x"))
    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        for _ in range(100):
            local.put("a/b", source(b"y"))  # moves a aside
            local.delete_many(["a/b"])
            local.put("a", source(b"x"))  # back under its plain name
        stop.set()
        for reader in readers:
            reader.result()
    assert missed == []


def test_what_a_crash_left_behind_is_not_listed_and_is_cleaned(tmp_path: Path) -> None:
    local = LocalBackend(tmp_path)
    leftover = tmp_path / ".gsfs-tmp" / "leftover"
    leftover.write_bytes(b"half")
    in_use = tmp_path / ".gsfs-tmp" / "in-use"
    in_use.write_bytes(b"half")
    with in_use.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert keys_of(local) == []
        LocalBackend(tmp_path).close()  # another process that opens the same directory
        assert not leftover.exists()
        assert in_use.exists()
    LocalBackend(tmp_path).close()
    assert not in_use.exists()


CRASHES = """
import os, sys
from pathlib import Path
from gsfs.backends import local
from gsfs.backends.base import BytesSource
from gsfs.backends.checksum import crc32c
backend = local.LocalBackend(Path(sys.argv[1]))
backend.put("kept", BytesSource(b"kept", crc32c(b"kept")))
calls = 0
def crash(*args, **kwargs):
    os._exit(9)
setattr(os, sys.argv[2], crash)
backend.put("kept/below", BytesSource(b"new", crc32c(b"new")), if_absent=sys.argv[2] == "link")
"""


@pytest.mark.parametrize("call", ["fsync", "link", "rename", "mkdir"])
def test_a_crash_at_any_step_leaves_all_or_nothing(tmp_path: Path, call: str) -> None:
    done = subprocess.run([sys.executable, "-c", CRASHES, str(tmp_path), call], check=False, timeout=60)
    assert done.returncode == 9
    local = LocalBackend(tmp_path)
    assert set(keys_of(local)) == {"kept"}
    assert local.get_range("kept", 0, 10) == b"kept"
    assert list((tmp_path / ".gsfs-tmp").iterdir()) == []


def test_bytes_are_durable_before_they_have_a_name_and_the_name_before_put_returns(
    local: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "rename")}

    def traced(name: str) -> None:
        def call(*args: object) -> object:
            kind = ""
            if name == "fsync":
                kind = " directory" if os.path.isdir(f"/proc/self/fd/{args[0]}") else " file"
            calls.append(name + kind)
            return real[name](*args)

        monkeypatch.setattr(os, name, call)

    traced("fsync")
    traced("rename")
    local.put("new/key", source(b"x"))
    assert calls == ["fsync file", "rename", "fsync directory", "fsync directory"]


def test_what_the_disk_gave_back_wrong_is_not_stored(
    local: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: real(*args)[:-1] + b"?")
    with pytest.raises(BackendCorrupt):
        local.put("a", source(b"12345"))
    monkeypatch.undo()
    assert keys_of(local) == []


def test_a_full_disk_is_unavailable_and_leaves_nothing(
    local: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unavailable, match="No space left"):
        local.put("a", source(b"12345"))
    monkeypatch.undo()
    assert list((tmp_path / ".gsfs-tmp").iterdir()) == []


def test_two_processes_agree_on_who_was_first(tmp_path: Path) -> None:
    first, second = LocalBackend(tmp_path), LocalBackend(tmp_path)
    first.put("lock", source(b"first"), if_absent=True)
    with pytest.raises(ObjectExists):
        second.put("lock", source(b"second"), if_absent=True)
    assert second.get_range("lock", 0, 10) == b"first"


def test_a_large_directory_is_listed_from_where_it_was_left(local: LocalBackend) -> None:
    for number in range(300):
        local.put(f"d{number % 3}/{number:03}", source(b"x"))
    whole = keys_of(local)
    assert len(whole) == 300
    assert [info.key for info in local.list_page("", whole[150], 10)] == whole[151:161]
    assert keys_of(local, "d1/") == [key for key in whole if key.startswith("d1/")]


def test_objects_of_a_directory_whose_disk_is_not_mounted_are_not_missing(tmp_path: Path) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    root.mkdir()
    local = LocalBackend(root)
    local.put("a", source(b"1"))
    root.rename(away)
    for empty in (False, True):
        if empty:
            root.mkdir()  # a mount point without its mount
        for operation in (
            lambda: local.head("a"),
            lambda: local.get_range("a", 0, 1),
            lambda: local.put("b", source(b"2")),
            lambda: local.delete_many(["a"]),
            lambda: local.list_page(""),
            local.check,
        ):
            with pytest.raises(Unavailable, match="is its disk mounted"):
                operation()
    root.rmdir()
    away.rename(root)
    assert local.get_range("a", 0, 1) == b"1"


def test_a_directory_that_is_not_there_yet_may_come_and_a_file_in_its_place_may_not(tmp_path: Path) -> None:
    """A mount at boot ended for good, as by a mistake in its configuration, when the disk came a second later."""
    with pytest.raises(Unavailable, match="mount its disk"):
        LocalBackend(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="is not a directory"):
        LocalBackend(tmp_path / "file")
