"""POSIX semantics on a real mount: one test for each bug that was found, and for each promise of the docs.

The tests share one mount and have a directory of their own in it, except where a test needs its own options.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gsfs.model import MIB
from tests.mount.conftest import MakeMount
from tests.support.mounting import CAN_MOUNT, Mount, mounted_namespace

NOBODY = 65534
OLD_NS = 10**18
LIBC = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    if not CAN_MOUNT:
        pytest.skip("needs root and /dev/fuse")
    with mounted_namespace(tmp_path_factory.mktemp("shared")) as mount:
        yield mount


@pytest.fixture
def place(shared: Mount, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of everybody's in a bucket; the current directory, so that other users need no way to it."""
    path = shared.bucket / request.node.name.translate({ord("/"): "-"})[:200]
    path.mkdir()
    path.chmod(0o777)
    monkeypatch.chdir(path)
    return path


def error_of(function: Callable[..., object], *arguments: object) -> int:
    """The errno it fails with; 0 when it succeeds."""
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno is not None
        return error.errno
    return 0


def as_user(uid: int, function: Callable[[], object], groups: tuple[int, ...] = ()) -> int:
    """What ``error_of`` says when another user does it."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            code = error_of(function)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def renameat2(old: str, new: str, flags: int) -> int:
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) == 0:
        return 0
    return ctypes.get_errno()


def shell(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


# --- times


def test_no_birth_time_is_told(place: Path) -> None:
    Path("f").touch()
    assert shell("stat --format=%w,%W f").strip() == "-,0"


def test_years_beyond_2262_are_clamped_and_the_mount_lives_on(mount: Mount) -> None:
    """A time beyond 64-bit nanoseconds once ended the daemon at its next commit."""
    file = mount.bucket / "f"
    file.touch()
    for seconds in (16_725_225_600, 2**40, -(2**40)):
        os.utime(file, ns=(seconds * 10**9, seconds * 10**9))
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    assert file.stat().st_mtime_ns == -(2**63)


@pytest.mark.parametrize("time_ns", [-1, -500_000_001, 0, 2**31 * 10**9, 2**32 * 10**9 + 123_456_789])
def test_times_keep_their_nanoseconds_before_1970_and_after_2038(place: Path, time_ns: int) -> None:
    Path("f").touch()
    os.utime("f", ns=(time_ns, time_ns + 1))
    status = os.stat("f")
    assert (status.st_atime_ns, status.st_mtime_ns) == (time_ns, time_ns + 1)


def _changed_times(path: str, action: Callable[[], object]) -> str:
    """Which of atime, mtime and ctime the action changes."""
    os.utime(path, ns=(OLD_NS, OLD_NS))
    before = os.stat(path)
    while time.time_ns() <= before.st_ctime_ns:
        os.sched_yield()
    action()
    after = os.stat(path)
    names = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
    return "".join(name[3] for name in names if getattr(before, name) != getattr(after, name))


def test_each_operation_changes_the_times_it_should_and_no_others(place: Path) -> None:
    Path("f").write_bytes(b"content")
    Path("d").mkdir()
    with open("f", "r+b", buffering=0) as file:
        assert _changed_times("f", lambda: os.pwrite(file.fileno(), b"x", 0)) == "mc"
        assert _changed_times("f", lambda: os.pread(file.fileno(), 1, 0)) == "a"
    assert _changed_times("f", lambda: os.truncate("f", 3)) == "mc"
    assert _changed_times("f", lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))) == "mc"
    assert _changed_times("f", lambda: os.chmod("f", 0o600)) == "c"
    assert _changed_times("f", lambda: os.chown("f", 1, 1)) == "c"
    assert _changed_times("f", lambda: os.link("f", "g")) == "c"
    assert _changed_times("f", lambda: os.unlink("g")) == "c"
    assert _changed_times("f", lambda: os.setxattr("f", "user.a", b"1")) == "c"
    assert _changed_times("d", lambda: os.mkdir("d/x")) == "mc"
    assert _changed_times("d", lambda: os.rename("d/x", "d/y")) == "mc"
    assert _changed_times("d", lambda: os.rmdir("d/y")) == "mc"
    assert _changed_times("d", lambda: os.listdir("d")) == "a"


def test_access_times_stay_under_noatime_and_with_o_noatime(make_mount: MakeMount, place: Path) -> None:
    Path("f").write_bytes(b"content")
    quiet = os.open("f", os.O_RDONLY | os.O_NOATIME)
    assert _changed_times("f", lambda: os.pread(quiet, 1, 0)) == ""
    os.close(quiet)
    still = make_mount(options=("noatime",)).bucket / "f"
    still.write_bytes(b"content")
    assert _changed_times(str(still), still.read_bytes) == ""


# --- modes, owners, special files


@pytest.mark.parametrize("how", ["write", "truncate", "open", "chown"])
def test_setuid_and_setgid_go_when_somebody_else_changes_the_file(place: Path, how: str) -> None:
    Path("f").write_bytes(b"content")
    os.chown("f", NOBODY, NOBODY)
    os.chmod("f", 0o6777)
    actions: dict[str, Callable[[], object]] = {
        "write": lambda: os.write(os.open("f", os.O_WRONLY), b"x"),
        "truncate": lambda: os.truncate("f", 1),
        "open": lambda: os.open("f", os.O_WRONLY | os.O_TRUNC),
        "chown": lambda: os.chown("f", NOBODY, NOBODY),
    }
    assert as_user(NOBODY, actions[how]) == 0
    assert stat.S_IMODE(os.stat("f").st_mode) == 0o777


@pytest.mark.parametrize("how", ["write", "truncate", "allocate", "punch", "copy"])
def test_privileges_go_with_the_writer_not_with_who_opened(place: Path, how: str) -> None:
    """Warm: the kernel has written to the file before, and knows that it had nothing to take away."""
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    for _ in range(3):
        os.write(fd, b"content")
    actions: dict[str, Callable[[], object]] = {
        "write": lambda: os.pwrite(fd, b"x", 0),
        "truncate": lambda: os.ftruncate(fd, 1),
        "allocate": lambda: os.posix_fallocate(fd, 0, 100),
        "punch": lambda: LIBC.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(5)) and os.abort(),
        "copy": lambda: os.copy_file_range(fd, fd, 5, 0, 5),
    }
    for mode, left in ((0o6777, 0o777), (0o2767, 0o767), (0o4644, 0o644)):
        os.chmod("f", mode)
        actions[how]()
        assert stat.S_IMODE(os.stat("f").st_mode) == mode  # root may
        assert as_user(NOBODY, actions[how]) == 0
        assert stat.S_IMODE(os.stat("f").st_mode) == left


def test_a_program_that_somebody_changed_no_longer_runs_as_root(place: Path) -> None:
    shutil.copy(shutil.which("id") or "", "program")
    os.chmod("program", 0o4755)
    run = partial(subprocess.run, ["./program", "-u"], stdout=subprocess.PIPE, check=True, user=NOBODY)
    assert run().stdout == b"0\n"
    fd = os.open("program", os.O_WRONLY | os.O_APPEND)
    assert as_user(NOBODY, lambda: os.write(fd, b"x")) == 0
    os.close(fd)
    assert run().stdout == b"%d\n" % NOBODY


@pytest.mark.parametrize("how", ["write", "truncate", "punch"])
def test_setgid_without_execution_stays_when_a_member_of_the_group_changes_the_file(
    place: Path, how: str
) -> None:
    """A member by any of its groups: a request names the first only."""
    Path("f").write_bytes(bytes(100))
    os.chown("f", 0, 1234)
    actions: dict[str, Callable[[], object]] = {
        "write": lambda: os.write(os.open("f", os.O_WRONLY), b"x"),
        "truncate": lambda: os.truncate("f", 1),
        "punch": lambda: (
            LIBC.fallocate(os.open("f", os.O_WRONLY), 3, ctypes.c_long(0), ctypes.c_long(5)) and os.abort()
        ),
    }
    for groups, left in (((1, 1234), 0o2766), ((1,), 0o766)):
        os.chmod("f", 0o6766)
        assert as_user(NOBODY, actions[how], groups) == 0
        assert stat.S_IMODE(os.stat("f").st_mode) == left


def test_nobody_takes_privileges_from_a_file_that_is_not_theirs(place: Path) -> None:
    """chown(2) that changes nothing takes them, and the kernel leaves the question whether it may to the file system."""
    Path("f").write_bytes(b"content")
    capability = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    os.setxattr("f", "security.capability", capability)
    for mode in (0o6755, 0o4711, 0o6775):
        os.chmod("f", mode)
        assert as_user(NOBODY, lambda: os.chown("f", -1, -1)) == errno.EPERM
        assert stat.S_IMODE(os.stat("f").st_mode) == mode
        assert os.getxattr("f", "security.capability") == capability
    os.chown("f", NOBODY, -1)
    os.chmod("f", 0o6755)
    assert as_user(NOBODY, lambda: os.chown("f", -1, -1)) == 0
    assert stat.S_IMODE(os.stat("f").st_mode) == 0o755


def test_chown_to_nobody_is_taken_for_a_write(place: Path) -> None:
    Path("f").touch()
    os.chmod("f", 0o6757)
    os.chown("f", -1, -1)
    assert stat.S_IMODE(os.stat("f").st_mode) == 0o6757
    assert as_user(NOBODY, lambda: os.chown("f", -1, -1)) == 0
    assert stat.S_IMODE(os.stat("f").st_mode) == 0o757


def test_giving_a_file_away_takes_its_privileges_even_from_root(place: Path) -> None:
    Path("f").touch()
    for mode, left in ((0o6777, 0o777), (0o6767, 0o2767)):
        os.chmod("f", mode)
        os.chown("f", 1, -1)
        assert stat.S_IMODE(os.stat("f").st_mode) == left
    os.mkdir("d")
    os.chmod("d", 0o6755)
    os.chown("d", 1, 1)
    assert stat.S_IMODE(os.stat("d").st_mode) == 0o6755


def test_file_capabilities_go_when_the_file_changes(place: Path) -> None:
    for action in (
        lambda: Path("f").write_bytes(b"x"),
        lambda: os.truncate("f", 0),
        lambda: os.chown("f", 1, 1),
    ):
        Path("f").write_bytes(b"content")
        os.setxattr("f", "security.capability", struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0))
        action()
        assert error_of(os.getxattr, "f", "security.capability") == errno.ENODATA
    capability = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    with open("f", "wb", buffering=0) as file:
        for _ in range(3):  # the kernel knows that there is none, until one is set
            file.write(b"x")
            os.setxattr("f", "security.capability", capability)
            file.write(b"x")
            assert error_of(os.getxattr, "f", "security.capability") == errno.ENODATA


def test_sticky_directory_lets_owners_only_remove_and_rename(place: Path) -> None:
    Path("t").mkdir()
    os.chmod("t", 0o1777)
    Path("t/f").touch()
    os.chown("t/f", 1, 1)
    assert as_user(2, lambda: os.unlink("t/f")) == errno.EPERM
    assert as_user(2, lambda: os.rename("t/f", "t/g")) == errno.EPERM
    assert as_user(1, lambda: os.unlink("t/f")) == 0


def test_permissions_hold_for_other_users(place: Path) -> None:
    Path("f").write_bytes(b"secret")
    os.chmod("f", 0o600)
    os.mkdir("d", 0o700)
    assert as_user(NOBODY, lambda: os.open("f", os.O_RDONLY)) == errno.EACCES
    assert as_user(NOBODY, lambda: os.stat("d/x")) == errno.EACCES
    assert as_user(NOBODY, lambda: os.chmod("f", 0o666)) == errno.EPERM
    assert as_user(NOBODY, lambda: os.write(os.open("own", os.O_CREAT | os.O_WRONLY, 0o444), b"x")) == 0
    assert (os.stat("own").st_uid, os.stat("own").st_gid) == (NOBODY, NOBODY)


def test_fifos_sockets_and_devices_work(place: Path) -> None:
    os.mkfifo("fifo")
    reading, writing = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK), os.open("fifo", os.O_WRONLY)
    os.write(writing, b"through")
    assert os.read(reading, 10) == b"through"
    for fd in (reading, writing):
        os.close(fd)
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    Path("null").write_bytes(b"gone")
    os.mknod("big", stat.S_IFBLK | 0o600, os.makedev(4095, 1048575))
    assert os.stat("big").st_rdev == os.makedev(4095, 1048575)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("socket")
        server.listen()
        client.connect("socket")


# --- names


def test_names_of_255_bytes_work_and_longer_ones_do_not(place: Path) -> None:
    for name in (b"n" * 255, b"new\nline", b"\xff\xfe"):
        Path(os.fsdecode(name)).touch()
    assert sorted(os.listdir(b".")) == sorted([b"n" * 255, b"new\nline", b"\xff\xfe"])
    assert error_of(os.mkdir, b"n" * 256) == errno.ENAMETOOLONG
    assert error_of(os.stat, b"n" * 256) == errno.ENAMETOOLONG
    assert error_of(os.rename, b"n" * 255, b"n" * 256) == errno.ENAMETOOLONG


def test_paths_work_up_to_path_max(place: Path) -> None:
    deep = "/".join(["d" * 200] * 20)
    os.makedirs(deep)
    longest = f"{deep}/{'f' * (4095 - len(deep) - 1)}"
    Path(longest).write_bytes(b"deep")
    assert Path(longest).read_bytes() == b"deep"
    assert error_of(os.stat, f"{longest}x") == errno.ENAMETOOLONG


def test_symbolic_links_hold_4095_bytes(place: Path) -> None:
    os.symlink("t" * 4095, "link")
    assert os.readlink("link") == "t" * 4095
    assert os.lstat("link").st_size == 4095
    assert error_of(os.symlink, "t" * 4096, "longer") == errno.ENAMETOOLONG
    os.symlink("loop", "loop")
    assert error_of(os.stat, "loop") == errno.ELOOP


# --- links, removal, rename


def test_open_file_lives_on_after_unlink_with_all_operations(place: Path) -> None:
    Path("f").write_bytes(b"content")
    fd = os.open("f", os.O_RDWR)
    os.unlink("f")
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    os.pwrite(again, b"C", 0)
    assert os.pread(fd, 10, 0) == b"Content"
    os.ftruncate(fd, 3)
    os.fchmod(fd, 0o600)
    os.setxattr(fd, "user.a", b"1")
    assert (os.fstat(fd).st_size, os.fstat(fd).st_nlink, os.getxattr(fd, "user.a")) == (3, 0, b"1")
    assert LIBC.linkat(-100, b"/proc/self/fd/%d" % fd, -100, b"back", 0x400) == -1
    os.close(again)
    os.close(fd)


def test_removed_directory_can_be_listed_and_opened_by_who_holds_it(place: Path) -> None:
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    assert os.listdir(f"/proc/self/fd/{fd}") == []
    assert error_of(lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)) == errno.ENOENT
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_rename_flags(place: Path) -> None:
    Path("a").write_bytes(b"a")
    Path("b").write_bytes(b"b")
    os.mkdir("d")
    assert renameat2("a", "b", NOREPLACE) == errno.EEXIST
    assert renameat2("a", "none", EXCHANGE) == errno.ENOENT
    assert renameat2("a", "d", EXCHANGE) == 0
    assert Path("a").is_dir()
    assert Path("d").read_bytes() == b"a"
    assert renameat2("b", "c", WHITEOUT) == 0
    assert (stat.S_IFMT(os.stat("b").st_mode), os.stat("b").st_rdev) == (stat.S_IFCHR, 0)
    assert renameat2("c", "d", EXCHANGE | NOREPLACE) == errno.EINVAL


def test_rename_replaces_atomically_while_others_read(place: Path) -> None:
    Path("f").write_bytes(b"0" * 5000)
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(Path("f").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for digit in b"123456789":
        Path("new").write_bytes(bytes([digit]) * 5000)
        os.rename("new", "f")
    done.set()
    reader.join()
    assert seen <= {bytes([digit]) * 5000 for digit in b"0123456789"}


def test_link_counts_follow_names_and_subdirectories(place: Path) -> None:
    os.makedirs("d/a")
    os.mkdir("d/b")
    assert os.stat("d").st_nlink == 4
    os.rename("d/b", "b")
    assert (os.stat("d").st_nlink, os.stat("b").st_nlink) == (3, 2)
    Path("f").touch()
    os.link("f", "g")
    assert os.stat("f").st_nlink == 2
    assert error_of(os.link, "d", "e") == errno.EPERM


class _FileHandle(ctypes.Structure):
    """struct file_handle of open_by_handle_at(2)."""

    _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_char * 128))


def test_file_handles_stay_good_across_mounts_and_end_with_the_file(mount: Mount) -> None:
    """What NFS servers and backup programs keep."""
    file = mount.bucket / "f"
    file.write_bytes(b"bytes")
    handle, number = _FileHandle(128), ctypes.c_int()
    assert LIBC.name_to_handle_at(-100, os.fsencode(file), ctypes.byref(handle), ctypes.byref(number), 0) == 0
    mount.remount()
    above = os.open(mount.root, os.O_RDONLY)
    try:
        fd = LIBC.open_by_handle_at(above, ctypes.byref(handle), os.O_RDONLY)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        assert os.read(fd, 10) == b"bytes"
        os.close(fd)
        file.unlink()
        assert LIBC.open_by_handle_at(above, ctypes.byref(handle), os.O_RDONLY) == -1
        assert ctypes.get_errno() == errno.ESTALE
    finally:
        os.close(above)


# --- the root


def test_root_holds_buckets_only(mount: Mount) -> None:
    os.mkdir(mount.root / "other")
    (mount.bucket / "f").write_bytes(b"x")
    assert error_of((mount.root / "f").touch) == errno.EPERM
    assert error_of(os.symlink, "t", mount.root / "l") == errno.EPERM
    assert error_of(os.rename, mount.bucket / "f", mount.root / "f") == errno.EXDEV
    assert error_of(os.link, mount.bucket / "f", mount.root / "other" / "f") == errno.EXDEV
    os.rename(mount.root / "other", mount.root / "renamed")
    assert sorted(os.listdir(mount.root)) == ["bucket", "renamed"]


def test_files_and_trees_move_between_buckets(mount: Mount) -> None:
    os.mkdir(mount.root / "other")
    (mount.bucket / "tree" / "below").mkdir(parents=True)
    (mount.bucket / "tree" / "below" / "f").write_bytes(b"bytes")
    os.rename(mount.bucket / "tree", mount.root / "other" / "tree")
    os.rename(mount.root / "other" / "tree" / "below" / "f", mount.bucket / "f")
    assert (mount.bucket / "f").read_bytes() == b"bytes"


# --- listings


def test_listing_survives_seekdir_and_changes(place: Path) -> None:
    os.mkdir("d")
    for i in range(3000):
        Path(f"d/{i:05}").touch()
    stream = _Stream(b"d")
    seen = []
    while True:
        position, name = stream.tell(), stream.next()
        if not name:
            break
        seen.append((position, name))
    assert len(seen) == 3002
    for at in (5, 0, 2500, 100):
        stream.seek(seen[at][0])
        assert stream.next() == seen[at][1]
    Path("d/later").touch()
    stream.rewind()
    assert b"later" in iter(stream.next, b"")
    stream.close()


class _Stream:
    """opendir(3) and its family."""

    def __init__(self, path: bytes) -> None:
        for name, result in (
            ("opendir", ctypes.c_void_p),
            ("readdir", ctypes.c_void_p),
            ("telldir", ctypes.c_long),
        ):
            getattr(LIBC, name).restype = result
        self._dir = ctypes.c_void_p(LIBC.opendir(path))

    def next(self) -> bytes:
        """The next name; empty at the end."""
        entry = LIBC.readdir(self._dir)
        return ctypes.string_at(entry + 19) if entry else b""

    def tell(self) -> int:
        return int(LIBC.telldir(self._dir))

    def seek(self, position: int) -> None:
        LIBC.seekdir(self._dir, ctypes.c_long(position))

    def rewind(self) -> None:
        LIBC.rewinddir(self._dir)

    def close(self) -> None:
        LIBC.closedir(self._dir)


def test_listing_leaves_no_name_behind_that_was_removed_meanwhile(place: Path) -> None:
    """A name listed after its removal stayed in the kernel's cache, and was found there."""
    os.mkdir("d")
    for i in range(2000):
        Path(f"d/{i:05}").touch()
    Path("kept").mkdir()
    with os.scandir("d") as listing:
        next(listing)
        for i in range(1500, 2000):
            os.rename(f"d/{i:05}", f"kept/{i:05}")
        for entry in listing:
            assert int(entry.name) < 1500
    assert not any(os.path.lexists(f"d/{i:05}") for i in range(1500, 2000))


def test_listings_tell_type_and_inode_number(place: Path) -> None:
    os.mkdir("dir")
    os.symlink("x", "link")
    os.mkfifo("fifo")
    Path("file").touch()
    found = {e.name: (e.inode(), e.is_dir(follow_symlinks=False), e.is_symlink()) for e in os.scandir(".")}
    for name, (ino, is_dir, is_link) in found.items():
        assert (ino, is_dir, is_link) == (os.lstat(name).st_ino, name == "dir", name == "link")


# --- content


def test_sparse_files_reach_the_largest_size(place: Path) -> None:
    with open("f", "w+b", buffering=0) as file:
        os.ftruncate(file.fileno(), 2**63 - 1)
        os.pwrite(file.fileno(), b"end", 2**62)
        assert os.pread(file.fileno(), 5, 2**62 - 1) == b"\0end\0"
        assert os.fstat(file.fileno()).st_blocks <= 8
    os.unlink("f")


def test_holes_are_found_punched_and_kept_by_tools(place: Path) -> None:
    with open("f", "w+b", buffering=0) as file:
        fd = file.fileno()
        os.ftruncate(fd, 10 * MIB)
        os.pwrite(fd, b"x" * MIB, 4 * MIB)
        assert os.lseek(fd, 5, os.SEEK_DATA) == 4 * MIB
        assert os.lseek(fd, 4 * MIB + 5, os.SEEK_HOLE) == 5 * MIB
        assert error_of(os.lseek, fd, 6 * MIB, os.SEEK_DATA) == errno.ENXIO
        assert os.pread(fd, 10, 4 * MIB) == b"x" * 10
        shell("fallocate --punch-hole --offset 4MiB --length 512KiB f")
        assert os.lseek(fd, 5, os.SEEK_DATA) == 4 * MIB + MIB // 2
        assert os.pread(fd, 2, 4 * MIB + MIB // 2 - 1) == b"\0x"
        assert os.fstat(fd).st_blocks == MIB // 1024
        shell(
            "fallocate --zero-range --offset 5242870 --length 20 f && tar -cSf t f && mkdir to && tar -xSf t -C to"
        )
    assert Path("to/f").read_bytes() == Path("f").read_bytes()
    assert os.stat("t").st_size < 2 * MIB
    assert os.stat("to/f").st_blocks == os.stat("f").st_blocks


def test_what_a_mapping_changed_is_data_before_it_is_synced(place: Path) -> None:
    """The kernel asks without sending it before: cp, tar and rsync took it for a hole, and made zeros of it."""
    with open("f", "w+b") as file:
        os.ftruncate(file.fileno(), MIB)
        mapped = mmap.mmap(file.fileno(), MIB)
    with open("f", "rb") as reader:  # the descriptor of the mapping is closed, the mapping is not
        for at, data in ((500_000, b"one"), (4096, b"two"), (MIB - 3, b"end")):
            mapped[at : at + 3] = data
            assert os.lseek(reader.fileno(), at - at % 4096, os.SEEK_DATA) == at - at % 4096
            mapped[at + 1 : at + 2] = b"x"
            shell(
                "cp --sparse=auto --reflink=never f g && tar -cSf t f && cmp f g && tar -xSOf t f | cmp - g"
            )
    assert Path("g").read_bytes()[4096:4099] == b"txo"


def test_room_is_made_without_writing(place: Path) -> None:
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fd, 100, 10 * MIB)
    assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) == (100 + 10 * MIB, 0)
    shell("fallocate --keep-size --length 20MiB f")
    assert os.fstat(fd).st_size == 100 + 10 * MIB
    assert error_of(os.posix_fallocate, fd, 2**63 - 2, 2) == errno.EFBIG
    os.close(fd)
    assert "not supported" in shell("fallocate --collapse-range --length 4096 f 2>&1 || true")


def test_cp_within_a_bucket_shares_the_bytes(place: Path) -> None:
    data = os.urandom(3 * MIB + 5)
    Path("f").write_bytes(data)
    shell("cp f g && sync g")
    with open("f", "r+b") as file:
        file.write(b"changed")
    assert Path("g").read_bytes() == data
    os.unlink("f")
    assert Path("g").read_bytes() == data
    with open("g", "r+b") as file, open("h", "w+b") as other:
        os.pwrite(other.fileno(), b"y" * 100, 0)
        mapped = mmap.mmap(file.fileno(), 0)
        mapped[:3] = b"map"  # not written back yet: the kernel sees to it before it asks
        assert os.copy_file_range(file.fileno(), other.fileno(), 50, 0, 25) == 50
        assert os.pread(other.fileno(), 200, 0) == b"y" * 25 + b"map" + data[3:50] + b"y" * 25
        assert os.copy_file_range(file.fileno(), other.fileno(), 50, len(data), 0) == 0
        assert error_of(lambda: os.copy_file_range(file.fileno(), file.fileno(), 50, 0, 25)) == errno.EINVAL
        mapped.close()


def test_blocks_say_what_is_stored(place: Path) -> None:
    Path("f").write_bytes(b"x" * 4097)
    Path("empty").touch()
    assert os.stat("f").st_blocks * 512 >= 4097
    assert os.stat("empty").st_blocks == 0


def test_appending_writers_never_overwrite_each_other(place: Path) -> None:
    def append(number: int) -> None:
        fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for i in range(200):
            os.write(fd, b"%d-%05d\n" % (number, i))
        os.close(fd)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(Path("log").read_bytes().split())) == 800


def test_one_of_many_wins_an_exclusive_create(place: Path) -> None:
    won: list[int] = []

    def create() -> None:
        for i in range(100):
            if error_of(lambda i=i: os.close(os.open(f"f{i}", os.O_CREAT | os.O_EXCL))) == 0:  # type: ignore[misc]
                won.append(i)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(100))


def test_shared_mapping_and_file_are_the_same_bytes(place: Path) -> None:
    Path("f").write_bytes(b"q" * 20_000)
    with open("f", "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 20_000) as mapped:
        mapped[10_000:10_004] = b"MMAP"
        assert os.pread(file.fileno(), 4, 10_000) == b"MMAP"
        os.pwrite(file.fileno(), b"WRITE", 0)
        assert mapped[:5] == b"WRITE"
        os.unlink("f")
        mapped[15_000:15_001] = b"!"
        mapped.flush()
        assert os.pread(file.fileno(), 1, 15_000) == b"!"


def test_what_a_mapping_wrote_is_there_after_mounting_again(mount: Mount) -> None:
    file = mount.bucket / "f"
    file.write_bytes(bytes(10_000))
    with file.open("r+b", buffering=0) as opened, mmap.mmap(opened.fileno(), 10_000) as mapped:
        mapped[5000:5004] = b"MMAP"
    mount.remount()
    assert file.read_bytes() == bytes(5000) + b"MMAP" + bytes(4996)


def test_access_behind_a_truncated_mapping_is_sigbus_and_growing_again_shows_zeros(place: Path) -> None:
    Path("f").write_bytes(b"a" * 8192)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        fd = os.open("f", os.O_RDWR)
        mapped = mmap.mmap(fd, 8192)
        os.ftruncate(fd, 4096)
        mapped[8000]
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGBUS
    os.truncate("f", 8192)
    assert Path("f").read_bytes() == b"a" * 4096 + bytes(4096)


def test_direct_io_and_the_page_cache_show_the_same_bytes(place: Path) -> None:
    direct = os.open("f", os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o644)
    cached = os.open("f", os.O_RDWR)
    with mmap.mmap(-1, 8192) as aligned:
        aligned[:] = b"d" * 8192
        assert os.write(direct, aligned) == 8192
        assert os.pread(cached, 3, 0) == b"ddd"
        os.pwrite(cached, b"zzz", 0)
        assert os.preadv(direct, [aligned], 0) == 8192
        assert aligned[:4] == b"zzzd"
    os.close(direct)
    os.close(cached)


def test_copying_calls_copy(place: Path) -> None:
    Path("from").write_bytes(b"copy" * 100_000)
    source, target = os.open("from", os.O_RDONLY), os.open("to", os.O_CREAT | os.O_RDWR, 0o644)
    assert os.copy_file_range(source, target, 300_000, 4, 0) == 300_000
    assert os.sendfile(target, source, 0, 1000) == 1000
    assert os.pread(target, 4, 299_996) == b"copy"
    os.close(source)
    os.close(target)


def test_fsync_works_on_files_directories_and_after_unlink(place: Path) -> None:
    file, directory = os.open("f", os.O_CREAT | os.O_RDWR), os.open(".", os.O_RDONLY)
    os.write(file, b"x")
    os.unlink("f")
    for fd in (file, directory):
        os.fsync(fd)
        os.fdatasync(fd)
        os.close(fd)


def test_calls_that_are_not_offered_say_so_and_tools_fall_back(place: Path) -> None:
    Path("f").write_bytes(b"x" * 5000)
    fd = os.open("f", os.O_RDWR)
    assert error_of(os.open, ".", os.O_TMPFILE | os.O_RDWR) == errno.EOPNOTSUPP
    assert error_of(lambda: os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)) == errno.EOPNOTSUPP
    os.close(fd)
    shell("cp --reflink=auto --sparse=always f g && cmp f g")


# --- locks


def test_locks_hold_between_processes_and_handles(place: Path) -> None:
    Path("f").write_bytes(b"x" * 100)
    one, two = os.open("f", os.O_RDWR), os.open("f", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    assert error_of(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB) == errno.EWOULDBLOCK
    fcntl.lockf(one, fcntl.LOCK_EX, 10, 0)
    nonblocking = fcntl.LOCK_EX | fcntl.LOCK_NB
    assert as_user(0, lambda: fcntl.lockf(os.open("f", os.O_RDWR), nonblocking, 5, 5)) == errno.EAGAIN
    assert as_user(0, lambda: fcntl.lockf(os.open("f", os.O_RDWR), nonblocking, 5, 10)) == 0
    open_file_description = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 50, 10, 0)
    fcntl.fcntl(one, 37, open_file_description)
    assert error_of(fcntl.fcntl, two, 37, open_file_description) == errno.EAGAIN
    os.close(one)
    os.close(two)


# --- extended attributes and ACLs


def test_extended_attributes_keep_the_rules_of_linux(place: Path) -> None:
    Path("f").touch()
    os.symlink("f", "l")
    os.setxattr("f", "user.a", b"1", os.XATTR_CREATE)
    assert error_of(os.setxattr, "f", "user.a", b"2", os.XATTR_CREATE) == errno.EEXIST
    assert error_of(os.setxattr, "f", "user.b", b"2", os.XATTR_REPLACE) == errno.ENODATA
    assert error_of(os.getxattr, "f", "user.none") == errno.ENODATA
    assert error_of(os.getxattr, "f", "plain") == errno.EOPNOTSUPP
    assert error_of(os.setxattr, "f", "user.", b"1") == errno.EINVAL
    assert error_of(lambda: os.setxattr("l", "user.a", b"1", follow_symlinks=False)) == errno.EPERM
    os.setxattr("l", "trusted.a", b"1", follow_symlinks=False)
    os.setxattr("f", "user.big", b"v" * 65536)
    assert os.getxattr("f", "user.big") == b"v" * 65536
    assert LIBC.getxattr(b"f", b"user.big", ctypes.create_string_buffer(2), 2) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert error_of(os.setxattr, "f", "user.big", b"v" * 65537) == errno.E2BIG


def test_trusted_attributes_hide_from_others(place: Path) -> None:
    Path("f").touch()
    os.setxattr("f", "trusted.t", b"1")
    os.setxattr("f", "user.u", b"1")

    def check() -> None:
        if os.listxattr("f") != ["user.u"]:
            raise OSError(errno.EBADMSG, "")

    assert as_user(NOBODY, check) == 0
    assert "trusted.t" in os.listxattr("f")


def test_acls_are_enforced_inherited_and_kept_by_tools(place: Path) -> None:
    Path("f").write_bytes(b"x")
    os.chmod("f", 0o600)
    shell(f"setfacl -m u:{NOBODY}:r f")
    assert as_user(NOBODY, lambda: os.open("f", os.O_RDONLY)) == 0
    assert as_user(NOBODY, lambda: os.open("f", os.O_RDWR)) == errno.EACCES
    shell("chmod g-r f")
    assert as_user(NOBODY, lambda: os.open("f", os.O_RDONLY)) == errno.EACCES
    shell("mkdir d && setfacl -d -m u:5:rwx d && mkdir d/s && touch d/f")
    assert "default:user:5:rwx" in shell("getfacl -cn d/s")
    assert "user:5:rwx" in shell("getfacl -cn d/f")
    shell("cp -a d copy")
    assert shell("cd d && getfacl -Rn .") == shell("cd copy && getfacl -Rn .")


def test_a_default_acl_stands_for_the_umask(place: Path) -> None:
    shell("mkdir d && setfacl -d -m u:5:rwx,g::rwx d && umask 077 && touch d/f plain && mkdir d/d")
    assert stat.S_IMODE(os.stat("plain").st_mode) == 0o600
    assert stat.S_IMODE(os.stat("d/f").st_mode) == 0o664
    assert stat.S_IMODE(os.stat("d/d").st_mode) == 0o775


# --- mount options and statfs


def test_noexec_and_read_only_mounts_refuse(make_mount: MakeMount) -> None:
    mount = make_mount(options=("noexec",))
    script = mount.bucket / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert error_of(lambda: os.execv(script, [str(script)])) == errno.EACCES
    mount.unmount()
    mount.options = ("ro",)
    mount.mount()
    assert script.read_text() == "#!/bin/sh\n"
    assert error_of((mount.bucket / "new").touch) == errno.EROFS


def test_mount_options_that_mean_nothing_here_are_refused(shared: Mount, tmp_path: Path) -> None:
    refused = shared.run("mount", "-o", "strictatime", str(shared.config), str(tmp_path), check=False)
    assert refused.returncode == 2
    assert "strictatime" in refused.stderr


def test_statfs_tells_name_length_space_and_inodes(place: Path) -> None:
    status = os.statvfs(".")
    assert status.f_namemax == 255
    assert 0 < status.f_bavail <= status.f_blocks
    assert 0 < status.f_ffree <= status.f_files


def test_df_shows_the_quota_of_a_bucket(make_mount: MakeMount) -> None:
    mount = make_mount()
    (mount.bucket / "f").write_bytes(b"x" * 4 * MIB)
    mount.run("bucket", "set", str(mount.bucket), "quota_bytes=10MiB", "quota_inodes=100")
    for path in (mount.bucket, mount.bucket / "f"):
        status = os.statvfs(path)
        assert status.f_blocks * status.f_frsize == 10 * MIB
        assert status.f_bavail * status.f_frsize == 6 * MIB
        assert (status.f_files, status.f_favail) == (100, 98)
    whole = os.statvfs(mount.root)
    assert whole.f_blocks * whole.f_frsize > 10 * MIB
    with pytest.raises(OSError, match="quota"):
        (mount.bucket / "g").write_bytes(b"x" * 7 * MIB)


# --- deviations that have no better place


def test_ioctls_are_refused(place: Path) -> None:
    Path("f").touch()
    get_flags, fiemap, clone = 0x80086601, 0xC020660B, 0x40049409
    with open("f", "r+b") as file:
        assert error_of(fcntl.ioctl, file, get_flags, bytes(8)) == errno.ENOTTY
        assert error_of(fcntl.ioctl, file, fiemap, bytes(32)) == errno.EOPNOTSUPP
        assert error_of(fcntl.ioctl, file, clone, file.fileno()) in (errno.EOPNOTSUPP, errno.EINVAL)


def test_both_flags_at_once_create(place: Path) -> None:
    Path("f").touch()
    os.setxattr("f", "user.a", b"1", os.XATTR_CREATE | os.XATTR_REPLACE)
    assert os.getxattr("f", "user.a") == b"1"


def test_unaligned_direct_io_works(place: Path) -> None:
    fd = os.open("f", os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o644)
    assert os.pwrite(fd, b"odd", 1) == 3
    assert os.pread(fd, 10, 0) == b"\0odd"
    os.close(fd)
