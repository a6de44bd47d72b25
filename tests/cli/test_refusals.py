"""Bad days: what cannot be mounted or done is refused in one line with its exit code, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gsfs import mounts
from gsfs.errors import ExitCode
from gsfs.namespace.schema import SCHEMA_VERSION
from tests.cli.conftest import Run
from tests.cli.saying import assert_refused
from tests.mount.conftest import MakeMount
from tests.support.mounting import Mount
from tests.support.waiting import eventually


@contextmanager
def disk(at: Path, size: str) -> Iterator[Path]:
    """A small file system of its own."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", "-o", "ro", path, path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def unmounted(mount: Mount) -> Mount:
    """With a file in it that must still be there afterwards."""
    (mount.bucket / "kept").write_text("kept")
    mount.unmount()
    return mount


def assert_kept(mount: Mount) -> None:
    mount.mount()
    assert (mount.bucket / "kept").read_text() == "kept"


# --- init


def test_init_twice_changes_nothing_and_says_so(mount: Mount) -> None:
    unmounted(mount)
    before = mount.config.read_bytes()
    again = mount.run("init", str(mount.config), check=False)
    assert_refused(again, ExitCode.USAGE, "exists already", "nothing was changed")
    more = ("--store", str(mount.home / "s"), "--cache", str(mount.home / "c"))
    assert_refused(mount.run("init", str(mount.config), *more, check=False), ExitCode.USAGE, "exists already")
    assert mount.config.read_bytes() == before
    assert_kept(mount)


def test_init_makes_directories_that_are_their_owners_only(gsfs: Run, tmp_path: Path) -> None:
    done = gsfs("init", tmp_path / "d.toml", "--store", tmp_path / "a/store", "--cache", tmp_path / "a/cache")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a/store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a/cache").stat().st_mode & 0o777 == 0o700


def test_init_puts_the_namespace_into_the_cache_directory_whatever_its_name(
    gsfs: Run, tmp_path: Path
) -> None:
    cache = tmp_path / "c #?x=%20é[]"
    made = gsfs("init", tmp_path / "in" / "a b.toml", "--store", tmp_path / "s", "--cache", cache)
    assert f"gsfs mount '{tmp_path}/in/a b.toml'" in made.stdout, made
    assert (cache / "namespace.db").is_file()


@pytest.mark.parametrize(
    "name", ['quo"te', "new\nline", "back\\slash", "${HOME}", os.fsdecode(b"no\xfftext")]
)
def test_init_refuses_paths_that_its_file_cannot_hold(gsfs: Run, tmp_path: Path, name: str) -> None:
    config = tmp_path / "demo.toml"
    refused = gsfs("init", config, "--store", tmp_path / name, "--cache", tmp_path / "cache")
    assert_refused(refused, ExitCode.USAGE, "--store", "printable")
    assert os.listdir(tmp_path) == []


def test_init_refuses_a_cache_in_the_store(gsfs: Run, tmp_path: Path) -> None:
    config = tmp_path / "demo.toml"
    for cache in ("s", "s/cache"):
        refused = gsfs("init", config, "--store", tmp_path / "s", "--cache", tmp_path / cache)
        assert_refused(refused, ExitCode.USAGE, "two directories")
    assert os.listdir(tmp_path) == []


def test_init_on_a_small_disk_makes_a_mount_that_can_be_written(gsfs: Run, tmp_path: Path) -> None:
    with disk(tmp_path / "small", "300m") as small:
        config, mountpoint = tmp_path / "small.toml", tmp_path / "mnt"
        mountpoint.mkdir()
        assert gsfs("init", config, "--store", tmp_path / "s", "--cache", small / "c").returncode == 0
        mounting = gsfs("mount", config, mountpoint)
        try:
            assert (mounting.returncode, mounting.stderr) == (0, "")
            (mountpoint / "bucket").mkdir()
            (mountpoint / "bucket/file").write_bytes(bytes(1 << 20))
        finally:
            assert gsfs("umount", mountpoint).returncode == 0


def test_a_mount_without_room_for_writes_says_so(mount: Mount) -> None:
    unmounted(mount)
    config = mount.home / "full.toml"
    config.write_text(mount.config.read_text().replace("64MiB", "900000GiB"))
    mounting = mount.run("mount", str(config), str(mount.root))
    try:
        assert "cache.min_free" in mounting.stderr and len(mounting.stderr.splitlines()) == 1
        assert "cache.min_free" in mount.run("status", str(config)).stdout
    finally:
        mount.run("umount", str(mount.root))


def test_init_takes_store_and_cache_together(gsfs: Run, tmp_path: Path) -> None:
    refused = gsfs("init", tmp_path / "d.toml", "--store", tmp_path / "store")
    assert_refused(refused, ExitCode.USAGE, "--store and --cache go together")
    assert not (tmp_path / "d.toml").exists()


# --- mount points


def test_a_mount_point_that_is_missing_is_named_with_the_remedy(mount: Mount) -> None:
    unmounted(mount)
    missing = mount.home / "missing"
    refused = mount.run("mount", str(mount.config), str(missing), check=False)
    assert_refused(refused, ExitCode.NOT_FOUND, str(missing), "mkdir -p")
    assert_kept(mount)


def test_a_mount_point_that_is_not_empty_is_refused(mount: Mount) -> None:
    unmounted(mount)
    full = mount.home / "full"
    full.mkdir()
    (full / "file").touch()
    refused = mount.run("mount", str(mount.config), str(full), check=False)
    assert_refused(refused, ExitCode.BUSY, str(full), "not empty")
    assert_kept(mount)


def test_a_mount_point_that_is_a_file_is_refused(mount: Mount) -> None:
    unmounted(mount)
    file = mount.home / "file"
    file.touch()
    refused = mount.run("mount", str(mount.config), str(file), check=False)
    assert_refused(refused, ExitCode.NOT_FOUND, str(file), "not a directory")


@pytest.mark.parametrize("place", ["cache", "store"])
def test_a_mount_point_among_the_files_of_the_mount_is_refused(mount: Mount, place: str) -> None:
    unmounted(mount)
    inside = mount.home / place / "mnt"
    inside.mkdir()
    refused = mount.run("mount", str(mount.config), str(inside), check=False)
    assert_refused(refused, ExitCode.USAGE, str(inside), place, "apart")
    assert mounts.at(inside) is None


def test_a_mount_point_in_use_is_refused(make_mount: MakeMount) -> None:
    first, second = make_mount(), make_mount()
    unmounted(second)
    refused = second.run("mount", str(second.config), str(first.root), check=False)
    assert_refused(refused, ExitCode.BUSY, str(first.root), "mounted there already")
    assert first.bucket.is_dir()
    assert_kept(second)


def test_a_second_mount_of_the_same_namespace_is_refused(mount: Mount) -> None:
    (mount.bucket / "kept").write_text("kept")
    second = mount.home / "second"
    second.mkdir()
    refused = mount.run("mount", str(mount.config), str(second), check=False)
    assert_refused(refused, ExitCode.BUSY, "in use by")
    assert mounts.at(second) is None
    assert (mount.bucket / "kept").read_text() == "kept"


def test_a_second_mount_with_a_cache_of_its_own_is_refused_by_the_namespace(mount: Mount) -> None:
    other, second = mount.home / "other.toml", mount.home / "second"
    text = mount.config.read_text()
    other.write_text(text.replace(f'path = "{mount.home}/cache"', f'path = "{mount.home}/cache2"'))
    second.mkdir()
    refused = mount.run("mount", str(other), str(second), check=False)
    assert_refused(refused, ExitCode.BUSY, "namespace", "in use by process", str(mount.pid))


def test_a_dead_mount_left_by_a_kill_is_let_go_by_the_next_mount(mount: Mount) -> None:
    (mount.bucket / "kept").write_text("kept")
    subprocess.run(["sync", mount.bucket / "kept"], check=True)
    os.kill(mount.pid, signal.SIGKILL)
    eventually(
        lambda: mounts.is_dead(mounts.at(mount.root) or pytest.fail("the mount went away")), "it is dead"
    )
    assert_kept(mount)
    assert len([e for e in mounts.table() if e.mountpoint == mount.root]) == 1


def test_umount_of_a_dead_mount_lets_go_of_it_and_says_so(mount: Mount) -> None:
    os.kill(mount.pid, signal.SIGKILL)
    eventually(
        lambda: mounts.is_dead(mounts.at(mount.root) or pytest.fail("the mount went away")), "it is dead"
    )
    done = mount.run("umount", str(mount.root))
    assert "its daemon had ended before" in done.stdout
    assert mounts.at(mount.root) is None
    mount.mount()


def test_an_unknown_mount_option_is_named_with_those_that_are_known(mount: Mount) -> None:
    unmounted(mount)
    refused = mount.run("mount", "-o", "noatime,shiny", str(mount.config), str(mount.root), check=False)
    assert_refused(refused, ExitCode.USAGE, "shiny", "noexec")
    mount.run("mount", "--sloppy", "-o", "noatime,shiny", str(mount.config), str(mount.root))
    assert (mount.bucket / "kept").read_text() == "kept"


# --- the cache directory


def test_a_full_disk_under_the_cache_refuses_the_mount(make_mount: MakeMount, tmp_path: Path) -> None:
    mount = unmounted(make_mount())
    with disk(tmp_path / "small", "1m") as small:
        config = mount.home / "small.toml"
        text = mount.config.read_text()
        config.write_text(text.replace(f'path = "{mount.home}/cache"', f'path = "{small}"'))
        free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        (small / "ballast").write_bytes(bytes(free))
        refused = mount.run("mount", str(config), str(mount.root), check=False)
        assert_refused(refused, ExitCode.NO_SPACE, str(small), "No space left")
    assert_kept(mount)


def test_a_cache_directory_that_is_read_only_refuses_the_mount(mount: Mount) -> None:
    unmounted(mount)
    with read_only(mount.home / "cache"):
        refused = mount.run("mount", str(mount.config), str(mount.root), check=False)
        assert_refused(refused, ExitCode.DENIED, "cache", "Read-only")
    assert mounts.at(mount.root) is None
    assert_kept(mount)


def test_a_cache_directory_that_is_a_file_refuses_the_mount(mount: Mount) -> None:
    unmounted(mount)
    moved = mount.home / "moved"
    (mount.home / "cache").rename(moved)
    (mount.home / "cache").touch()
    refused = mount.run("mount", str(mount.config), str(mount.root), check=False)
    assert_refused(refused, ExitCode.DENIED, str(mount.home / "cache"))
    (mount.home / "cache").unlink()
    moved.rename(mount.home / "cache")
    assert_kept(mount)


# --- the database


def test_a_corrupt_database_is_refused_and_not_touched(mount: Mount) -> None:
    unmounted(mount)
    database = mount.home / "cache/namespace.db"
    aside = mount.home / "aside"
    shutil.copytree(mount.home / "cache", aside)
    for log in mount.home.glob("cache/namespace.db-*"):
        log.unlink()
    database.write_bytes(b"SQLite format 3\0" + b"\xff" * 8176)
    before = database.read_bytes()
    for command in (("mount", str(mount.config), str(mount.root)), ("fsck", str(mount.config))):
        refused = mount.run(*command, check=False)
        assert_refused(refused, ExitCode.CORRUPT, str(database), "nothing was overwritten")
    assert database.read_bytes() == before
    assert mounts.at(mount.root) is None
    shutil.rmtree(mount.home / "cache")
    shutil.copytree(aside, mount.home / "cache")
    assert_kept(mount)


def test_a_database_of_somebody_else_is_refused_and_not_touched(mount: Mount) -> None:
    unmounted(mount)
    for file in mount.home.glob("cache/namespace.db*"):
        file.unlink()
    connection = sqlite3.connect(mount.home / "cache/namespace.db")
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    before = (mount.home / "cache/namespace.db").read_bytes()
    for command in (("init", str(mount.config)), ("mount", str(mount.config), str(mount.root))):
        refused = mount.run(*command, check=False)
        assert_refused(refused, ExitCode.CORRUPT, "not one of gsfs")
    assert (mount.home / "cache/namespace.db").read_bytes() == before


def test_a_namespace_of_a_newer_version_is_refused_and_not_changed(mount: Mount) -> None:
    unmounted(mount)
    database = mount.home / "cache/namespace.db"

    def set_version(version: int) -> None:
        connection = sqlite3.connect(database)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(version),))
        connection.commit()
        connection.close()

    set_version(SCHEMA_VERSION + 1)
    refused = mount.run("mount", str(mount.config), str(mount.root), check=False)
    assert_refused(
        refused, ExitCode.CORRUPT, f"schema {SCHEMA_VERSION + 1}", "upgrade gsfs", "nothing was changed"
    )
    set_version(SCHEMA_VERSION)
    assert_kept(mount)


def test_a_namespace_that_was_never_made_is_refused_with_the_remedy(gsfs: Run, mount: Mount) -> None:
    unmounted(mount)
    for file in mount.home.glob("cache/namespace.db*"):
        file.rename(mount.home / file.name)
    refused = mount.run("mount", str(mount.config), str(mount.root), check=False)
    assert_refused(refused, ExitCode.NOT_FOUND, "namespace.db", "gsfs init")


# --- locations and secrets


def with_location(mount: Mount, location: str) -> Path:
    """A configuration whose location is another."""
    head, _, _ = mount.config.read_text().partition("[[location]]")
    path = mount.home / "other.toml"
    path.write_text(f'{head}[[location]]\nid = "local:store"\n{location}')
    return path


def test_a_secret_file_that_cannot_be_read_is_named(mount: Mount) -> None:
    unmounted(mount)
    missing = mount.home / "key.json"
    config = with_location(mount, f'kind = "gcs"\nbucket = "b"\ncredentials_file = "{missing}"\n')
    refused = mount.run("mount", str(config), str(mount.root), check=False)
    assert_refused(refused, ExitCode.USAGE, str(missing))
    assert mounts.at(mount.root) is None
    assert_kept(mount)


def test_a_secret_is_in_no_output(mount: Mount) -> None:
    unmounted(mount)
    secret = "hush-7f3a9c"
    config = with_location(
        mount,
        'kind = "s3"\nbucket = "b"\nendpoint = "http://127.0.0.1:1"\naccess_key = "AK"\nsecret_key = "${HUSH}"\n'
        "deadline_s = 1\ntimeout_s = 1\nretry_attempts = 1\n",
    )
    outputs = []
    environment = {**os.environ, "HUSH": secret}
    with_secret = Mount(mount.home, environment=environment)
    for command in (
        ["mount", str(config), str(mount.root)],
        ["status", str(config)],
        ["status", "--json", str(config)],
        ["doctor", str(config)],
        ["doctor", "--json", str(config)],
        ["bucket", "list", "--json", str(config)],
        ["flush", "--timeout", "0.5", str(config)],
        ["umount", "--no-drain", str(mount.root)],
    ):
        done = with_secret.run(*command, check=False)
        outputs.append(done.stdout + done.stderr)
    outputs.append(mount.log.read_text())
    config.write_text(
        config.read_text().replace('secret_key = "${HUSH}"', f'secret_key = "{secret}"\nsekret = 1')
    )
    outputs.append(mount.run("mount", str(config), str(mount.root), check=False).stderr)
    assert any("127.0.0.1:1" in text for text in outputs), "the location was never asked"
    for text in outputs:
        assert secret not in text


# --- commands on what is not there


def test_commands_on_a_directory_without_a_mount_say_so(gsfs: Run, tmp_path: Path) -> None:
    for command in ("status", "umount", "flush", "fsck", "gc"):
        assert_refused(gsfs(command, tmp_path), ExitCode.NOT_FOUND, str(tmp_path), "no gsfs is mounted")


def test_status_of_a_namespace_that_is_not_mounted_is_unavailable(mount: Mount) -> None:
    unmounted(mount)
    assert_refused(
        mount.run("status", str(mount.config), check=False), ExitCode.UNAVAILABLE, "no mount answers"
    )


def test_umount_of_a_path_inside_names_the_mount_and_leaves_it(mount: Mount) -> None:
    refused = mount.run("umount", str(mount.bucket), check=False)
    assert_refused(refused, ExitCode.NOT_FOUND, str(mount.bucket), f"in the mount {mount.root}")
    assert mount.bucket.is_dir()


def test_a_flush_of_what_does_not_exist_is_refused(mount: Mount) -> None:
    refused = mount.run("flush", str(mount.bucket / "missing"), check=False)
    assert_refused(refused, ExitCode.NOT_FOUND, "missing")


def test_buckets_are_refused_in_one_line(mount: Mount) -> None:
    (mount.bucket / "file").touch()
    root = str(mount.root)
    for arguments, code, words in (
        (["create", f"{root}/bucket"], ExitCode.USAGE, ["'bucket'", "exists already"]),
        (["create", f"{root}/new", "colour=red"], ExitCode.USAGE, ["colour", "quota_bytes"]),
        (["create", f"{root}/new", "home=moon"], ExitCode.USAGE, ["home=moon", "local:store"]),
        (["create", f"{root}/new", "durability"], ExitCode.USAGE, ["'durability'", "KEY=VALUE"]),
        (["create", root], ExitCode.USAGE, ["takes a bucket in a mount"]),
        (["set", f"{root}/bucket", "durability=remote:9"], ExitCode.USAGE, ["remote:9", "up to 1"]),
        (["show", f"{root}/missing"], ExitCode.NOT_FOUND, ["'missing'", "bucket"]),
        (["rm", f"{root}/bucket"], ExitCode.USAGE, ["'bucket'", "not empty"]),
        (["rm", f"{root}/missing"], ExitCode.NOT_FOUND, ["'missing'"]),
    ):
        assert_refused(mount.run("bucket", *arguments, check=False), code, *words)
    assert sorted(os.listdir(mount.root)) == ["bucket"]


def test_buckets_of_a_namespace_that_crashed_are_not_changed_before_it_is_recovered(mount: Mount) -> None:
    (mount.bucket / "file").write_bytes(b"bytes")
    subprocess.run(["sync", mount.bucket / "file"], check=True)
    mount.kill()
    refused = mount.run("bucket", "create", "new", "-c", str(mount.config), check=False)
    assert_refused(refused, ExitCode.INCOMPLETE, "mount it once")
    mount.mount()
    assert (mount.bucket / "file").read_bytes() == b"bytes"
