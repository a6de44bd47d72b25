"""Users other than root mount too, through fusermount3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gsfs.errors import ExitCode

NOBODY = 65534
NAMELESS = 4242
"""A user that is not in /etc/passwd."""
COMMAND_S = 120
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that becomes the user's."""
    path = Path(tempfile.mkdtemp(prefix="gsfs-user-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def as_user(home: Path) -> Script:
    """Runs a shell script as another user, where /dev/fuse is everybody's, in a mount namespace of its own.

    It may read everything, because the Python of the tests may be root's.
    """
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs root and /dev/fuse, to become somebody else who may use it")

    def run(script: str, uid: int = NOBODY) -> subprocess.CompletedProcess[str]:
        os.chown(home, uid, uid)
        user = f"setpriv --reuid {uid} --regid {uid} --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
        gsfs = f"gsfs() {{ {sys.executable} -c 'from gsfs.cli.main import main; main()' \"$@\"; }}"
        (home / "script").write_text(f"{gsfs}\ncd {home}\n{script}")
        outer = f"cp -a /dev/fuse {home}/fuse && chmod 666 {home}/fuse && mount --bind {home}/fuse /dev/fuse && exec {user} sh {home}/script"
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", outer],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    return run


def test_a_user_makes_mounts_uses_and_unmounts(as_user: Script) -> None:
    done = as_user(
        "set -e; gsfs init d.toml --store store --cache cache >/dev/null; mkdir mnt; gsfs mount d.toml mnt\n"
        "mkdir mnt/bucket; echo content > mnt/bucket/file; stat -c %u mnt/bucket/file\n"
        "gsfs doctor d.toml >/dev/null; gsfs umount mnt; gsfs mount d.toml mnt; cat mnt/bucket/file; gsfs umount mnt; ls mnt\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(NOBODY)
    assert "content" in done.stdout


def test_a_dead_mount_of_a_user_is_let_go_by_the_next_mount(as_user: Script) -> None:
    """Its mount point cannot be read, which the parser of arguments took for an error of the user's."""
    done = as_user(
        "set -e; gsfs init d.toml --store store --cache cache >/dev/null; mkdir mnt; gsfs mount d.toml mnt; mkdir mnt/bucket\n"
        "echo content > mnt/bucket/file; sync mnt/bucket/file\n"
        "kill -9 $(gsfs status --json d.toml | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')\n"
        "while stat -f mnt >/dev/null 2>&1; do :; done\n"
        "gsfs mount d.toml mnt; cat mnt/bucket/file; gsfs umount mnt\n"
    )
    assert done.returncode == 0, done.stderr
    assert "content" in done.stdout


def test_mounting_for_others_is_refused_where_root_has_not_allowed_it(as_user: Script) -> None:
    done = as_user(
        "gsfs init d.toml --store store --cache cache >/dev/null; mkdir mnt\n"
        "sed -i 's/allow_other = false/allow_other = true/' d.toml\n"
        "grep -q '^user_allow_other' /etc/fuse.conf 2>/dev/null && exit 100\n"
        "gsfs mount d.toml mnt\n"
    )
    if done.returncode == 100:
        pytest.skip("root has put user_allow_other into /etc/fuse.conf")
    assert done.returncode == ExitCode.DENIED
    assert (
        len(done.stderr.splitlines()) == 1
        and "user_allow_other" in done.stderr
        and "mount.allow_other" in done.stderr
    )


def test_why_fusermount_refuses_is_told(as_user: Script) -> None:
    """It wants a user that has a name."""
    done = as_user(
        "gsfs init d.toml --store store --cache cache >/dev/null; mkdir mnt; gsfs mount d.toml mnt\n",
        NAMELESS,
    )
    assert done.returncode == ExitCode.DENIED, done
    assert len(done.stderr.splitlines()) == 1 and "fusermount3: could not determine username" in done.stderr


def test_a_mount_point_of_somebody_else_is_refused(as_user: Script, home: Path) -> None:
    (home / "other").mkdir()
    done = as_user("gsfs init d.toml --store store --cache cache >/dev/null; gsfs mount d.toml other\n")
    assert done.returncode == ExitCode.DENIED
    assert "other" in done.stderr and "takes a directory of yours" in done.stderr


FURTHER = """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o666)
os.pwrite(fd, b"x" * 16384, 65536)
os.posix_fallocate(fd, 0, 131072)
assert libc.fallocate(fd, 3, ctypes.c_long(65536), ctypes.c_long(4096)) == 0
found = [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 70000, os.SEEK_HOLE)]
with mmap.mmap(fd, 131072) as mapped:
    mapped[:1] = b"m"
    found.append(os.lseek(fd, 0, os.SEEK_DATA))
other = os.open("g", os.O_RDWR | os.O_CREAT, 0o666)
copied = 0
while part := os.copy_file_range(fd, other, 131072 - copied, copied, copied):
    copied += part
print(found, copied, os.pread(other, 5, 77820 - 5) == b"x" * 5, os.statvfs(".").f_blocks * 4096 == 4 << 20)
os.umask(0o027)
os.close(os.open("h", os.O_CREAT | os.O_WRONLY, 0o4666))
os.fchmod(other, 0o6755)
os.write(other, b"x")
print([oct(os.stat(name).st_mode & 0o7777) for name in ("h", "g")])
"""


def test_requests_outside_pyfuse3_work_in_a_users_mount(as_user: Script, home: Path) -> None:
    (home / "further.py").write_text(FURTHER)
    done = as_user(
        "set -e; gsfs init d.toml --store store --cache cache >/dev/null; mkdir mnt; gsfs mount d.toml mnt\n"
        "mkdir mnt/bucket; gsfs bucket set mnt/bucket quota_bytes=4MiB >/dev/null; cd mnt/bucket\n"
        f"{sys.executable} ../../further.py; cd ../..; gsfs fsck mnt; gsfs umount mnt; cat cache/gsfs.log\n"
    )
    assert done.returncode == 0, done.stderr
    assert "libfuse's table" not in done.stdout
    assert done.stdout.splitlines()[:2] == ["[69632, 81920, 0] 131072 True True", "['0o4640', '0o755']"]
    assert "consistent" in done.stdout
