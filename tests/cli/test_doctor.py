"""``gsfs doctor`` sees what is wrong and says what to do; it changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gsfs import mounts
from gsfs.cli import doctor
from tests.cli.conftest import Run
from tests.support.mounting import Mount
from tests.support.waiting import eventually


def examined(mount: Mount, *target: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """(exit code, finding by its name)."""
    done = mount.run("doctor", "--json", *(target or [str(mount.config)]), check=False)
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    assert report["ok"] == all(check["state"] != "fail" for check in report["checks"])
    for check in report["checks"]:
        assert set(check) == {"check", "state", "detail", "advice"}
        assert check["state"] in ("ok", "warn") or check["advice"] or check["check"] == "namespace", check
    return done.returncode, {check["check"]: check for check in report["checks"]}


def test_all_is_well_mounted_and_not_mounted(mount: Mount) -> None:
    os.chmod(mount.home / "cache", 0o700)
    code, found = examined(mount)
    assert code == 0, found
    assert "checked by the daemon" in found["namespace"]["detail"]
    assert found["location local:store"]["state"] == "ok"
    assert set(found) >= {
        "python",
        "/dev/fuse",
        "fusermount3",
        "libfuse",
        "configuration",
        "allow_other",
        "cache space",
    }
    mount.unmount()
    before = sorted((p, p.stat().st_mtime_ns) for p in mount.home.rglob("*") if p.name != "namespace.db-shm")
    code, found = examined(mount)
    assert code == 0, found
    assert "not mounted" in found["namespace"]["detail"]
    after = sorted((p, p.stat().st_mtime_ns) for p in mount.home.rglob("*") if p.name != "namespace.db-shm")
    changed = {str(p.relative_to(mount.home)) for p, _ in set(before) ^ set(after)}
    assert changed <= {"cache", "cache/namespace.db.lock", "cache/namespace.db-wal"}, (
        "a lock, and a probe that is gone"
    )
    assert (mount.home / "cache/namespace.db-wal").stat().st_size == 0


def test_a_dead_mount_is_found(mount: Mount) -> None:
    os.kill(mount.pid, signal.SIGKILL)
    entry = mounts.at(mount.root)
    assert entry is not None
    eventually(lambda: mounts.is_dead(entry), "it is dead")
    done = mount.run("doctor", str(mount.config), check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fail  mount") and str(mount.root) in line)
    assert f"gsfs umount {mount.root}" in lines[at + 1]


def test_what_is_wrong_with_the_cache_directory_is_found(mount: Mount) -> None:
    mount.unmount()
    os.chmod(mount.home / "cache", 0o755)
    code, found = examined(mount)
    assert (
        code == 0 and found["cache mode"]["state"] == "warn" and "chmod 700" in found["cache mode"]["advice"]
    )
    config = mount.config.read_text()
    mount.config.write_text(config.replace('min_free = "64MiB"', 'min_free = "1PiB"'))
    code, found = examined(mount)
    assert code == 1 and found["cache space"]["state"] == "fail"
    mount.config.write_text(config.replace(f'path = "{mount.home}/cache"', f'path = "{mount.home}/none"'))
    code, found = examined(mount)
    assert code == 1 and "does not exist" in found["cache directory"]["detail"]


def test_a_cache_directory_in_memory_is_warned_of(mount: Mount, tmp_path: Path) -> None:
    mount.unmount()
    memory = tmp_path / "memory"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", memory], check=True)
    try:
        text = mount.config.read_text()
        mount.config.write_text(text.replace(f'path = "{mount.home}/cache"', f'path = "{memory}"'))
        _, found = examined(mount)
    finally:
        subprocess.run(["umount", memory], check=True)
    assert found["cache directory"]["state"] == "warn" and "tmpfs" in found["cache directory"]["detail"]


def test_a_location_that_is_gone_fails(mount: Mount) -> None:
    (mount.home / "store").rename(mount.home / "moved")
    code, found = examined(mount)
    (mount.home / "moved").rename(mount.home / "store")
    assert code == 1 and found["location local:store"]["state"] == "fail"


def test_secrets_that_others_can_read_are_warned_of(mount: Mount) -> None:
    mount.unmount()
    text = mount.config.read_text().partition("[[location]]")[0]
    mount.config.write_text(
        f'{text}[[location]]\nid = "local:store"\nkind = "s3"\nbucket = "b"\nendpoint = "http://127.0.0.1:1"\n'
        'access_key = "a"\nsecret_key = "hidden-word"\nretry_attempts = 1\n'
    )
    mount.config.chmod(0o644)
    code, found = examined(mount)
    assert found["configuration"]["state"] == "warn" and "chmod 600" in found["configuration"]["advice"]
    assert code == 1 and found["location local:store"]["state"] == "fail"
    assert "hidden-word" not in json.dumps(found)


def test_a_database_that_is_broken_fails_and_stays_as_it_is(mount: Mount) -> None:
    mount.unmount()
    for log in mount.home.glob("cache/namespace.db-*"):
        log.unlink()
    (mount.home / "cache/namespace.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 8176)
    before = (mount.home / "cache/namespace.db").read_bytes()
    code, found = examined(mount)
    assert code == 1 and found["namespace"]["state"] == "fail"
    assert (mount.home / "cache/namespace.db").read_bytes() == before


def test_a_configuration_that_is_wrong_fails_with_its_error(gsfs: Run, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[filesystem]\nnaem = 'x'\n")
    done = gsfs("doctor", path)
    assert done.returncode == 1
    assert "fail  configuration" in done.stdout and "naem" in done.stdout
    missing = gsfs("doctor", tmp_path / "missing.toml")
    assert missing.returncode == 1 and "no such configuration file" in missing.stdout


@pytest.mark.parametrize(
    ("governor", "polls", "state"),
    [("haltpoll", "0", "warn"), ("haltpoll", "200000", "ok"), ("menu", "0", None), ("haltpoll", None, None)],
)
def test_processors_that_halt_at_once_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, governor: str, polls: str | None, state: str | None
) -> None:
    (tmp_path / "governor").write_text(f"{governor}\n")
    if polls is not None:
        (tmp_path / "polls").write_text(f"{polls}\n")
    monkeypatch.setattr(doctor, "GOVERNOR", tmp_path / "governor")
    monkeypatch.setattr(doctor, "HALT_POLL", tmp_path / "polls")
    assert [finding.state for finding in doctor._halting()] == ([state] if state else [])
