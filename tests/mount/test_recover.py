"""The machine is lost: what durability ``remote`` promised is back from the configuration alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.mount.conftest import MakeMount
from tests.support.mounting import Mount

QUIET = {"namespace": {"ship_interval_s": 3600.0}, "transfer": {"seal_idle_s": 3600.0, "seal_age_s": 3600.0}}
"""Nothing travels by itself: what is at the location got there because something waited for it."""


def lose_machine(mount: Mount) -> None:
    """Kill the daemon and take its cache directory, the namespace in it included, away."""
    mount.kill()
    shutil.move(mount.home / "cache", mount.home / "lost")
    (mount.home / "cache").mkdir()


def write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())


def recover(mount: Mount) -> dict[str, object]:
    answer: dict[str, object] = json.loads(mount.run("recover", "--json", str(mount.config)).stdout)
    mount.mount()
    return answer


@pytest.mark.parametrize("knobs", [QUIET])
def test_remote_fsync_survives_the_loss_of_the_machine(mount: Mount) -> None:
    mount.run("bucket", "set", str(mount.bucket), "durability=remote")
    contents = {f"file{n}": os.urandom(50_000 + n) for n in range(5)}
    for name, data in contents.items():
        write_synced(mount.bucket / name, data)
    lose_machine(mount)
    assert recover(mount)["missing"] == []
    for name, data in contents.items():
        assert (mount.bucket / name).read_bytes() == data
    assert "consistent" in mount.run("fsck", str(mount.root)).stdout


@pytest.mark.parametrize("knobs", [{"namespace": {"ship_interval_s": 0.0}}])
def test_remote_fsync_ships_even_where_nothing_is_shipped_by_itself(mount: Mount) -> None:
    mount.run("bucket", "set", str(mount.bucket), "durability=remote")
    write_synced(mount.bucket / "file", b"promised")
    lose_machine(mount)
    recover(mount)
    assert (mount.bucket / "file").read_bytes() == b"promised"


@pytest.mark.parametrize("knobs", [QUIET])
def test_remote_close_survives_the_loss_of_the_machine(mount: Mount) -> None:
    mount.run("bucket", "set", str(mount.bucket), "durability=remote")
    (mount.bucket / "closed").write_bytes(b"only closed, never synced")
    lose_machine(mount)
    recover(mount)
    assert (mount.bucket / "closed").read_bytes() == b"only closed, never synced"


@pytest.mark.parametrize("knobs", [QUIET])
def test_bytes_that_were_never_uploaded_are_listed_and_their_reading_fails(mount: Mount) -> None:
    (mount.bucket / "safe").write_bytes(b"uploaded" * 1000)
    mount.run("flush", str(mount.root))
    mount.run("bucket", "create", str(mount.root / "other"), "durability=remote")
    (mount.bucket / "lost").write_bytes(b"not uploaded" * 10_000)
    # Shipping the namespace for the other bucket also names the file whose bytes stay behind.
    write_synced(mount.root / "other" / "synced", b"there")
    lose_machine(mount)
    answer = recover(mount)
    assert answer["missing"] == [{"path": "/bucket/lost", "bytes": 120_000}]
    assert (mount.home / "cache" / "recover.txt").read_text() == "120000\t/bucket/lost\n"
    assert (mount.bucket / "safe").read_bytes() == b"uploaded" * 1000
    assert (mount.bucket / "lost").stat().st_size == 120_000
    with pytest.raises(OSError) as caught:
        (mount.bucket / "lost").read_bytes()
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("knobs", [QUIET])
def test_small_files_that_travelled_in_the_log_are_recovered_without_an_upload(mount: Mount) -> None:
    mount.run("bucket", "create", str(mount.root / "other"), "durability=remote")
    write_synced(mount.bucket / "small", b"synced, never uploaded")
    write_synced(mount.root / "other" / "synced", b"there")
    lose_machine(mount)
    assert recover(mount)["missing"] == []
    assert (mount.bucket / "small").read_bytes() == b"synced, never uploaded"
    mount.run("flush", str(mount.root))
    shutil.rmtree(mount.home / "lost")
    lose_machine(mount)
    recover(mount)
    assert (mount.bucket / "small").read_bytes() == b"synced, never uploaded"


def test_what_the_log_gained_after_the_snapshot_is_recovered_across_many_checkpoints(
    make_mount: MakeMount,
) -> None:
    mount = make_mount({"namespace": {"ship_interval_s": 0.2}})
    digest = hashlib.sha256()
    for batch in range(12):
        directory = mount.bucket / f"d{batch}"
        directory.mkdir()
        for n in range(150):
            data = os.urandom(200)
            (directory / f"{n}-{'x' * 200}").write_bytes(data)
            digest.update(data)
        if batch % 3 == 2:
            mount.run("flush", str(mount.root))
            shutil.rmtree(mount.bucket / f"d{batch - 1}")
    mount.run("bucket", "set", str(mount.bucket), "durability=remote")
    write_synced(mount.bucket / "last", digest.digest())
    before = sorted(str(p.relative_to(mount.root)) for p in mount.root.rglob("*"))
    lose_machine(mount)
    recover(mount)
    assert sorted(str(p.relative_to(mount.root)) for p in mount.root.rglob("*")) == before
    assert (mount.bucket / "last").read_bytes() == digest.digest()
    assert "consistent" in mount.run("fsck", str(mount.root)).stdout


def test_recover_refuses_where_a_namespace_is(mount: Mount) -> None:
    mount.unmount()
    done = mount.run("recover", str(mount.config), check=False)
    assert done.returncode != 0
    assert "exists; nothing was changed" in done.stderr


def test_an_older_generation_is_deleted_once_a_newer_one_is_whole(mount: Mount) -> None:
    for n in range(3):
        (mount.bucket / f"f{n}").write_bytes(b"x")
        mount.remount()
    mount.unmount()
    generations = list((mount.home / "store").rglob("meta/test/*/*"))
    names = {path.name for path in generations if path.is_dir()}
    assert (
        len([name for name in names if any((p / "00000001").exists() for p in generations if p.name == name)])
        == 1
    )
