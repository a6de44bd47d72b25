"""Real tools on a real mount: what works on a local disk works here, with the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounting import Mount
from tests.support.trees import assert_same, make_tree

TOOL_S = 120
NO_SOCKETS = [b"odd/socket"]
"""What tar leaves out."""


def run(*command: object, cwd: Path | None = None) -> str:
    """Standard output of a tool that must succeed."""
    done = subprocess.run(
        [str(word) for word in command], check=False, cwd=cwd, capture_output=True, text=True, errors="surrogateescape", timeout=TOOL_S,
        env={**os.environ, "LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
             "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every kind of file, on a local disk."""
    return make_tree(tmp_path_factory.mktemp("tree") / "tree", seed=1)


# --- copying


def test_cp_a_copies_in_and_out_with_everything(mount: Mount, tree: Path, tmp_path: Path) -> None:
    run("cp", "-a", tree, mount.bucket / "tree")
    assert_same(tree, mount.bucket / "tree")
    mount.remount()
    run("cp", "-a", mount.bucket / "tree", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


def test_a_second_rsync_has_nothing_to_do(mount: Mount, tree: Path, tmp_path: Path) -> None:
    first = run("rsync", "-aHAX", "--itemize-changes", f"{tree}/", mount.bucket / "tree")
    assert len(first.splitlines()) > 50
    assert run("rsync", "-aHAX", "--itemize-changes", f"{tree}/", mount.bucket / "tree") == ""
    assert_same(tree, mount.bucket / "tree")
    mount.remount()
    assert run("rsync", "-aHAXc", "--itemize-changes", f"{tree}/", mount.bucket / "tree") == ""
    run("rsync", "-aHAX", f"{mount.bucket}/tree/", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


def test_rsync_changes_files_in_place_and_removes_what_is_gone(
    mounted: Path, tree: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    run("cp", "-a", tree, source)
    run("rsync", "-aHAX", f"{source}/", mounted / "tree")
    files = sorted(path for path in (source / "files").rglob("*") if path.is_file())
    for path in files[::7]:
        with open(path, "r+b") as file:
            file.write(b"changed")
    for path in files[3::11]:
        path.unlink()
    for directory, _, _ in os.walk(source):
        os.utime(directory, (1_000_000_000, 1_000_000_000))
    change = ["rsync", "-aHAX", "--delete", "--inplace", "--no-whole-file", "--checksum"]
    for _ in range(2):  # the second time for the times of directories, which rsync sets before it deletes
        run(*change, f"{source}/", mounted / "tree")
    assert_same(source, mounted / "tree")


def test_tar_goes_both_ways(mount: Mount, tree: Path, tmp_path: Path) -> None:
    flags = ("--acls", "--xattrs", "--xattrs-include=user.*", "--sparse")
    run("tar", *flags, "-C", tree.parent, "-cf", tmp_path / "in.tar", "tree")
    run("tar", *flags, "-C", mount.bucket, "-xpf", tmp_path / "in.tar")
    assert_same(tree, mount.bucket / "tree", but=NO_SOCKETS)
    mount.remount()
    run("tar", *flags, "-C", mount.bucket, "-cf", mount.bucket / "out.tar", "tree")
    (tmp_path / "out").mkdir()
    run("tar", *flags, "-C", tmp_path / "out", "-xpf", mount.bucket / "out.tar")
    assert_same(tree, tmp_path / "out/tree", but=NO_SOCKETS)


def test_zip_goes_both_ways(mounted: Path, tree: Path, tmp_path: Path) -> None:
    run("zip", "-qry", mounted / "tree.zip", "files", cwd=tree)
    run("unzip", "-q", mounted / "tree.zip", "-d", mounted / "unzipped")
    assert zipfile.ZipFile(mounted / "tree.zip").testzip() is None
    run("diff", "-r", tree / "files", mounted / "unzipped/files")


def test_dd_writes_and_reads_in_every_way(mounted: Path, tmp_path: Path) -> None:
    data = os.urandom(5 * (1 << 20) + 12345)
    source = tmp_path / "source"
    source.write_bytes(data)
    for number, flags in enumerate(
        (["bs=4k"], ["bs=1M", "conv=fsync"], ["bs=777", "conv=fdatasync"], ["bs=64k", "oflag=sync"])
    ):
        run("dd", f"if={source}", f"of={mounted}/{number}", "status=none", *flags)
        assert (mounted / str(number)).read_bytes() == data
    run(
        "dd",
        f"if={source}",
        f"of={mounted}/0",
        "bs=1000",
        "skip=3",
        "seek=7",
        "count=11",
        "conv=notrunc",
        "status=none",
    )
    expected = data[:7000] + data[3000:14000] + data[18000:]
    assert (mounted / "0").read_bytes() == expected
    run("dd", f"if={mounted}/0", f"of={tmp_path}/direct", "iflag=direct", "bs=1M", "status=none")
    assert (tmp_path / "direct").read_bytes() == expected


def test_dd_of_a_sparse_file_takes_no_space(mounted: Path) -> None:
    run("dd", "if=/dev/null", f"of={mounted}/sparse", "bs=1", "seek=1T", "status=none")
    assert (mounted / "sparse").stat().st_size == 1 << 40
    assert (mounted / "sparse").stat().st_blocks == 0
    run("cp", "--sparse=always", "/etc/passwd", mounted / "copy")
    assert (mounted / "copy").read_bytes() == Path("/etc/passwd").read_bytes()


def test_find_and_du_see_what_they_see_on_a_local_disk(mount: Mount, tree: Path) -> None:
    run("cp", "-a", tree, mount.bucket / "tree")
    mount.remount()
    there = mount.bucket / "tree"

    def seen(*question: str) -> tuple[list[str], list[str]]:
        return tuple(sorted(run("find", ".", *question, cwd=root).split("\0")) for root in (tree, there))  # type: ignore[return-value]  # two trees

    for question in (
        ["-print0"],
        ["-type", "l", "-printf", "%p %l\\0"],
        ["-type", "f", "-printf", "%p %s %m %T@ %n\\0"],
        ["-empty", "-print0"],
        ["-size", "+100k", "-print0"],
        ["-perm", "-111", "-print0"],
        ["-newermt", "2001-01-01", "-print0"],
    ):
        local, mounted = seen(*question)
        assert local == mounted and len(local) > 1, question
    local, mounted = (
        run("du", "-s", "--apparent-size", "--block-size=1", root / "files").split()[0]
        for root in (tree, there)
    )
    directories = sum(1 for _ in (tree / "files").rglob("*/")) + 1
    assert abs(int(local) - int(mounted)) <= 4096 * directories, "they differ by the size of directories only"


# --- git


def test_git_clones_commits_collects_and_checks(mount: Mount, tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", mount.bucket / "clone"
    run("git", "init", "-q", "-b", "main", origin)
    for number in range(30):
        (origin / f"file{number}").write_text(f"{number}\n" * number)
        if number % 10 == 9:
            run("git", "add", ".", cwd=origin)
            run("git", "commit", "-qm", f"commit {number}", cwd=origin)
    run("git", "clone", "-q", origin, clone)
    for number in range(0, 30, 3):
        (clone / f"file{number}").write_text("changed\n")
    assert len(run("git", "status", "--porcelain", cwd=clone).splitlines()) == 10
    run("git", "commit", "-qam", "changed", cwd=clone)
    run("git", "checkout", "-q", "-b", "branch", "HEAD~1", cwd=clone)
    run("git", "merge", "-q", "main", cwd=clone)
    run("git", "gc", "-q", "--aggressive", "--prune=now", cwd=clone)
    run("git", "fsck", "--strict", cwd=clone)
    mount.remount()
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    run("git", "fsck", "--strict", cwd=clone)
    run("git", "push", "-q", "origin", "branch", cwd=clone)
    assert run("git", "log", "--oneline", "branch", cwd=origin).count("\n") == 4


# --- sqlite


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_sqlite_keeps_its_promises(mount: Mount, mode: str) -> None:
    path = mount.bucket / "data.db"
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
    for start in range(0, 1000, 100):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?)", [(k, bytes([k % 256]) * k) for k in range(start, start + 100)]
        )
        connection.execute("COMMIT" if start % 200 == 0 else "ROLLBACK")
    connection.execute("DELETE FROM t WHERE k % 3 = 0")
    connection.execute("VACUUM")
    expected = connection.execute("SELECT count(*), sum(length(v)) FROM t").fetchone()
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*), sum(length(v)) FROM t").fetchone() == expected
    other.close()
    connection.close()
    mount.remount()
    answers = run(
        "sqlite3", path, "PRAGMA integrity_check; SELECT count(*), sum(length(v)) FROM t"
    ).splitlines()
    assert answers == ["ok", f"{expected[0]}|{expected[1]}"]
    assert expected[0] > 300


def test_sqlite_writers_in_two_processes_exclude_each_other(mounted: Path) -> None:
    path = mounted / "data.db"
    sqlite3.connect(path).execute("CREATE TABLE t (k INTEGER PRIMARY KEY, who TEXT)").connection.close()
    program = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
        "for _ in range(40):\n"
        "    c.execute('BEGIN IMMEDIATE'); c.execute('INSERT INTO t(who) VALUES (?)', sys.argv[2:]); c.execute('COMMIT')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, path, who]) for who in "ab"]
    assert [writer.wait(TOOL_S) for writer in writers] == [0, 0]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT who, count(*) FROM t GROUP BY who").fetchall() == [("a", 40), ("b", 40)]
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


# --- editors


def save_like_vim(path: Path, data: bytes) -> None:
    """Backup by rename, write anew, fsync, same mode, backup removed (backupcopy=no)."""
    probe = path.parent / "4913"
    probe.touch()
    probe.unlink()
    mode = path.stat().st_mode
    backup = path.with_name(path.name + "~")
    os.rename(path, backup)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, data)
    os.fsync(fd)
    os.fchmod(fd, stat.S_IMODE(mode))
    os.close(fd)
    backup.unlink()


def save_like_emacs(path: Path, data: bytes) -> None:
    """A lock that is a dangling link, a backup that is a copy, the file itself overwritten in place."""
    lock = path.with_name(f".#{path.name}")
    lock.symlink_to(f"user@host.{os.getpid()}:1")
    shutil.copy2(path, path.with_name(path.name + "~"))
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    lock.unlink()


def save_like_a_desktop(path: Path, data: bytes) -> None:
    """A temporary file beside it, fsync, renamed over the file, fsync of the directory."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


@pytest.mark.parametrize("save", [save_like_vim, save_like_emacs, save_like_a_desktop])
def test_editors_save(mount: Mount, save: Callable[[Path, bytes], None]) -> None:
    path = mount.bucket / "document"
    path.write_bytes(b"first\n")
    path.chmod(0o640)
    for turn in range(20):
        reader = open(path, "rb")  # noqa: SIM115  # somebody has the old one open meanwhile
        save(path, b"line\n" * (turn + 1))
        reader.close()
        assert path.read_bytes() == b"line\n" * (turn + 1)
    mount.remount()
    assert path.read_bytes() == b"line\n" * 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert {p.name for p in mount.bucket.iterdir()} <= {"document", "document~"}


# --- building


def test_a_python_environment_is_built_and_used(mount: Mount) -> None:
    environment = mount.bucket / "venv"
    run(sys.executable, "-m", "venv", environment)
    package = mount.bucket / "package"
    (package / "hello").mkdir(parents=True)
    (package / "hello/__init__.py").write_text("def greet():\n    return 'hello from the mount'\n")
    site = next((environment / "lib").glob("python3*/site-packages"))
    shutil.copytree(package / "hello", site / "hello")
    mount.remount()
    python = environment / "bin/python"
    assert run(python, "-c", "import hello; print(hello.greet())").strip() == "hello from the mount"
    assert run(python, "-m", "pip", "--version").startswith("pip ")
    run(python, "-m", "compileall", "-q", "-f", site / "pip/_internal/cli")


def test_make_builds_a_c_program_and_then_has_nothing_to_do(mount: Mount) -> None:
    source = mount.bucket / "program"
    source.mkdir()
    for number in range(8):
        (source / f"part{number}.c").write_text(f"int part{number}(void) {{ return {number}; }}\n")
    calls = " + ".join(f"part{n}()" for n in range(8))
    declarations = " ".join(f"int part{n}(void);" for n in range(8))
    (source / "main.c").write_text(
        f'#include <stdio.h>\n{declarations}\nint main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
    )
    objects = " ".join(["main.o", *(f"part{n}.o" for n in range(8))])
    (source / "Makefile").write_text(f"program: {objects}\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -c -o $@ $<\n")
    run("make", "-j4", cwd=source)
    assert run(source / "program").strip() == "28"
    assert "up to date" in run("make", cwd=source)
    mount.remount()
    assert "up to date" in run("make", cwd=source)
    (source / "part3.c").write_text("int part3(void) { return 100; }\n")
    assert run("make", cwd=source).count("gcc") == 2
    assert run(source / "program").strip() == "125"


# --- large


def test_a_large_file_is_the_same_after_a_remount(mount: Mount, tmp_path: Path) -> None:
    source = tmp_path / "large"
    with open(source, "wb") as file:
        for _ in range(96):
            file.write(os.urandom(1 << 20))
    run("cp", source, mount.bucket / "large")
    mount.remount()
    run("cmp", source, mount.bucket / "large")
    with open(mount.bucket / "large", "rb") as file:
        assert (
            hashlib.file_digest(file, "sha256").hexdigest() == hashlib.sha256(source.read_bytes()).hexdigest()
        )
