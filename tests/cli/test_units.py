"""The systemd unit and the helpers of mount(8) and umount(8), for real where this machine allows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gsfs import mounts
from tests.support.mounting import Mount
from tests.support.waiting import eventually, has_ended

ROOT = Path(__file__).parents[2]
HELPERS = ("mount.gsfs", "umount.fuse.gsfs")
TOOL_S = 120


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """``gsfs`` as a program, of this very environment."""
    path = tmp_path / "gsfs"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from gsfs.cli.main import main; main()' \"$@\"\n")
    path.chmod(0o755)
    return path


@contextmanager
def installed(helper: str) -> Iterator[Path]:
    """In /sbin, where mount(8) looks; what is there already stays, and must be the same."""
    place, source = Path("/sbin") / helper, ROOT / "systemd" / helper
    if place.exists():
        assert place.read_text() == source.read_text(), f"{place} is of another version"
        yield place
        return
    place.symlink_to(source)
    try:
        yield place
    finally:
        place.unlink()


@pytest.fixture
def helpers(program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to put the helpers into /sbin")
    monkeypatch.setenv("GSFS", str(program))
    with ExitStack() as stack:
        for helper in HELPERS:
            stack.enter_context(installed(helper))
        yield


def tool(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True, timeout=TOOL_S
    )


def stored_bytes(mount: Mount) -> int:
    return sum(p.stat().st_size for p in (mount.home / "store").rglob("*") if p.is_file())


# --- systemd


def test_systemd_accepts_the_units(tmp_path: Path, program: Path) -> None:
    unit = (ROOT / "systemd/gsfs@.service").read_text()
    (tmp_path / "gsfs@.service").write_text(unit.replace("/usr/local/bin/gsfs", str(program)))
    shutil.copy(ROOT / "systemd/mnt-demo.mount", tmp_path)
    done = tool(
        "systemd-analyze", "verify", "--man=no", tmp_path / "gsfs@demo.service", tmp_path / "mnt-demo.mount"
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in done.stderr, done.stderr


def test_the_unit_gives_the_mount_no_namespace_of_its_own() -> None:
    """Each of these would hide the mount from every other process."""
    unit = (ROOT / "systemd/gsfs@.service").read_text()
    hiding = (
        "PrivateTmp|PrivateDevices|PrivateMounts|PrivateUsers|ProtectSystem|ProtectHome|ProtectKernelTunables|ProtectProc|"
        "ProtectKernelModules|ProtectKernelLogs|ProtectControlGroups|ProtectHostname|ReadOnlyPaths|ReadWritePaths|"
        "InaccessiblePaths|TemporaryFileSystem|BindPaths|DynamicUser|RootDirectory|MountFlags"
    )
    assert not re.search(rf"^({hiding})=", unit, re.MULTILINE)
    for line in ("Type=notify", "SuccessExitStatus=7", "Restart=on-failure"):
        assert f"\n{line}\n" in unit


def test_a_mount_works_with_the_capabilities_of_the_unit_alone(mount: Mount) -> None:
    mount.unmount()
    unit = (ROOT / "systemd/gsfs@.service").read_text()
    found = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert found is not None
    capabilities = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in found[1].split())
    confined = [
        "setpriv",
        "--no-new-privs",
        f"--bounding-set=-all,{capabilities}",
        f"--inh-caps=-all,{capabilities}",
    ]
    code = "from gsfs.cli.main import main; main()"
    done = tool(*confined, sys.executable, "-c", code, "mount", mount.config, mount.root)
    assert done.returncode == 0, done.stderr
    (mount.bucket / "file").write_text("confined")
    os.chown(mount.bucket / "file", 1234, 1234)
    done = tool(*confined, sys.executable, "-c", code, "umount", mount.root)
    assert done.returncode == 0, done.stderr
    mount.mount()
    assert (mount.bucket / "file").stat().st_uid == 1234


# --- mount(8)


def test_mount_and_umount_of_a_line_as_in_fstab(mount: Mount, helpers: None, tmp_path: Path) -> None:
    (mount.bucket / "file").write_text("content")
    mount.unmount()
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{mount.config} {mount.root} gsfs defaults,_netdev,noatime,x-systemd.automount 0 0\n")
    done = tool("mount", "--fstab", fstab, mount.root)
    assert done.returncode == 0, done.stderr
    assert (mount.bucket / "file").read_text() == "content", "mount returns when the mount answers"
    again = tool("mount", "--fstab", fstab, "-a")
    assert again.returncode == 0, again.stderr
    assert sum(entry.mountpoint == mount.root for entry in mounts.table()) == 1
    (mount.bucket / "more").write_bytes(os.urandom(1 << 20))
    pid = mount.pid
    done = tool("umount", mount.root)
    assert done.returncode == 0, done.stderr
    assert mounts.at(mount.root) is None
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z", (
        "the daemon has ended"
    )
    assert sum(p.stat().st_size for p in (mount.home / "store").rglob("*") if p.is_file()) > 1 << 20, (
        "it is uploaded"
    )


def test_mount_with_type_and_options_of_its_own(mount: Mount, helpers: None) -> None:
    mount.unmount()
    done = tool("mount", "-v", "-n", "-t", "gsfs", "-o", "ro,noexec", mount.config, mount.root)
    assert done.returncode == 0, done.stderr
    with pytest.raises(OSError, match="Read-only"):
        (mount.bucket / "file").touch()
    assert tool("umount", mount.root).returncode == 0


def test_mount_refuses_as_mount_does(mount: Mount, helpers: None) -> None:
    mount.unmount()
    unknown = tool("mount", "-t", "gsfs", "-o", "shiny", mount.config, mount.root)
    assert unknown.returncode == 1 and "shiny" in unknown.stderr
    assert tool("mount", "-s", "-t", "gsfs", "-o", "shiny", mount.config, mount.root).returncode == 0
    busy = tool("/sbin/mount.gsfs", mount.config, mount.root)
    assert busy.returncode == 32 and "mounted there already" in busy.stderr
    with open(mount.bucket / "open", "w"):
        refused = tool("umount", mount.root)
        assert refused.returncode == 32 and "busy" in refused.stderr
    assert tool("umount", mount.root).returncode == 0
    fake = tool("mount", "-f", "-t", "gsfs", mount.config, mount.root)
    assert fake.returncode == 0 and mounts.at(mount.root) is None
    assert tool("/sbin/mount.gsfs").returncode == 1


def test_umount_lazily_lets_go_at_once_and_still_uploads(mount: Mount, helpers: None) -> None:
    pid = mount.pid
    with open(mount.bucket / "open", "wb") as file:
        file.write(os.urandom(1 << 20))
        assert tool("umount", "-l", mount.root).returncode == 0
        assert mounts.at(mount.root) is None
        file.write(os.urandom(1 << 20))
    eventually(lambda: has_ended(pid), "the daemon ends once the last file is closed")
    assert stored_bytes(mount) > 2 << 20


# --- scripts/install


def test_install_below_a_directory_puts_everything_in_place(tmp_path: Path) -> None:
    for _ in range(2):
        done = tool(ROOT / "scripts/install", "--root", tmp_path / "root")
        assert done.returncode == 0, done.stderr
    for helper in HELPERS:
        assert os.access(tmp_path / "root/sbin" / helper, os.X_OK)
    assert (tmp_path / "root/etc/systemd/system/gsfs@.service").is_file()
    assert (tmp_path / "root/etc/gsfs").stat().st_mode & 0o777 == 0o700
