"""What is done to each file system. Owns the workloads, their inputs and their limits; reports nothing."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.targets import Target

FILES = 5000
FILES_PER_DIRECTORY = 50
MEAN_FILE_BYTES = 7 * 1024
BIG_FILE_BYTES = 1 << 30
APPENDS = 300
TRANSACTIONS = 200
GETATTRS = 20_000
CREATES = 3_000
OPENS = 5_000


@dataclass(frozen=True)
class Inputs:
    """What the workloads read: made once, outside every file system that is measured."""

    archive: Path
    big_file: Path

    @classmethod
    def make(cls, directory: Path) -> Inputs:
        inputs = cls(directory / "tree.tar", directory / "big")
        _make_archive(inputs.archive)
        _make_big_file(inputs.big_file)
        return inputs


def _make_archive(path: Path) -> None:
    """FILES files of MEAN_FILE_BYTES on average (exponential sizes, as source trees have), the same each time."""
    rng = random.Random(5000)
    with tarfile.open(path, "w") as archive:
        for number in range(FILES):
            if number % FILES_PER_DIRECTORY == 0:
                directory = tarfile.TarInfo(f"tree/d{number // FILES_PER_DIRECTORY:03}")
                directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(directory)
            member = tarfile.TarInfo(f"{directory.name}/f{number:05}")
            member.size = int(rng.expovariate(1 / MEAN_FILE_BYTES))
            member.mtime = 1_600_000_000 + number
            archive.addfile(member, io.BytesIO(rng.randbytes(member.size)))


def _make_big_file(path: Path) -> None:
    block = random.Random(1).randbytes(16 << 20)
    with path.open("wb") as big:
        for _ in range(BIG_FILE_BYTES // len(block)):
            big.write(block)
        os.fsync(big.fileno())


class Session:
    """One target during one round: remembers which inputs are already in place on it."""

    def __init__(self, target: Target, inputs: Inputs) -> None:
        self.target = target
        self.inputs = inputs
        self.tree = target.work / "tree"
        self.big_file = target.work / "big"

    def need_tree(self) -> None:
        if not self.tree.exists():
            measure.run("tar", "xf", self.inputs.archive, "-C", self.target.work)

    def need_no_tree(self) -> None:
        if self.tree.exists():
            measure.run("rm", "-rf", self.tree)

    def need_big_file(self) -> None:
        if not self.big_file.exists():
            shutil.copyfile(self.inputs.big_file, self.big_file)

    def finish(self) -> None:
        self.need_no_tree()
        self.big_file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Workload:
    """One row of the table. `measure` returns seconds, or microseconds of daemon CPU if `is_cpu`."""

    name: str
    title: str
    measure: Callable[[Session], float]
    limit: float | None = None
    """Most that gsfs may take, in times of ext4 (of the null file system if `is_cpu`)."""
    bytes_moved: int = 0
    min_gb_per_s: float | None = None
    is_cpu: bool = False


def untar(session: Session) -> float:
    session.need_no_tree()
    measure.quiesce(session.inputs.archive.parent)
    measure.touch_free_memory(BIG_FILE_BYTES)
    archive, into = session.inputs.archive, session.target.work
    return measure.wall_s(lambda: measure.run("tar", "xf", archive, "-C", into))


def list_tree(session: Session) -> float:
    session.need_tree()

    def work() -> None:
        measure.run("ls", "-lR", session.tree)
        measure.run("du", "-s", session.tree)

    work()
    return measure.wall_s(work)


def read_tree_cold(session: Session) -> float:
    session.need_tree()
    measure.drop_kernel_caches()
    command: list[str | Path] = ["find", session.tree, "-type", "f", "-exec", "cat", "{}", "+"]
    return measure.wall_s(lambda: measure.run(*command))


def remove_tree(session: Session) -> float:
    session.need_tree()
    measure.quiesce(session.inputs.archive.parent)
    return measure.wall_s(lambda: measure.run("rm", "-rf", session.tree))


def copy_in(session: Session) -> float:
    session.big_file.unlink(missing_ok=True)
    measure.quiesce(session.inputs.archive.parent)
    measure.drop_kernel_caches()
    measure.run("cat", session.inputs.big_file)  # the source comes from memory
    measure.touch_free_memory(2 * BIG_FILE_BYTES)
    return measure.wall_s(lambda: measure.run("cp", session.inputs.big_file, session.big_file))


def read_big_cold(session: Session) -> float:
    session.need_big_file()
    measure.drop_kernel_caches()
    measure.touch_free_memory(2 * BIG_FILE_BYTES)
    return measure.wall_s(lambda: measure.run("cat", session.big_file))


def append_fsync(session: Session) -> float:
    path = session.target.work / "journal"
    block = os.urandom(4096)

    def work() -> None:
        with path.open("ab", buffering=0) as journal:
            for _ in range(APPENDS):
                journal.write(block)
                os.fsync(journal.fileno())

    measure.quiesce(session.inputs.archive.parent)
    seconds = measure.wall_s(work)
    path.unlink()
    return seconds


def sqlite_transactions(session: Session) -> float:
    path = session.target.work / "app.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        seconds = _run_transactions(database, session)
    path.unlink()
    return seconds


def _run_transactions(database: sqlite3.Connection, session: Session) -> float:
    database.execute("create table log (id integer primary key, line text)")

    def work() -> None:
        for number in range(TRANSACTIONS):
            database.execute("begin immediate")
            database.execute("insert into log (line) values (?)", (f"line {number}" * 20,))
            database.execute("commit")

    measure.quiesce(session.inputs.archive.parent)
    return measure.wall_s(work)


def _cpu_us(session: Session, operations: int, work: Callable[[], None]) -> float:
    pids = session.target.pids
    measure.settle(pids)
    with measure.on_one_cpu(pids):
        before = measure.cpu_s(pids)
        work()
        return (measure.cpu_s(pids) - before) / operations * 1e6


def cpu_getattr(session: Session) -> float:
    path = session.target.work / "one"
    path.touch()
    ask = measure.FreshStat(path)

    def work() -> None:
        for _ in range(GETATTRS):
            ask()

    spent = _cpu_us(session, GETATTRS, work)
    path.unlink()
    return spent


def cpu_lookup(session: Session) -> float:
    session.need_tree()
    paths = [path for path in session.tree.rglob("*") if path.is_file()]
    measure.drop_kernel_caches()
    for directory in {path.parent for path in paths}:
        directory.stat()

    def work() -> None:
        for path in paths:
            os.stat(path)

    return _cpu_us(session, len(paths), work)


def cpu_create(session: Session) -> float:
    directory = session.target.work / "created"
    directory.mkdir()
    block = os.urandom(4096)

    def work() -> None:
        for number in range(CREATES):
            descriptor = os.open(directory / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(descriptor, block)
            os.close(descriptor)

    spent = _cpu_us(session, CREATES, work)
    shutil.rmtree(directory)
    return spent


def cpu_open(session: Session) -> float:
    path = session.target.work / "one"
    path.write_bytes(b"x")

    def work() -> None:
        for _ in range(OPENS):
            os.close(os.open(path, os.O_RDONLY))

    spent = _cpu_us(session, OPENS, work)
    path.unlink()
    return spent


WORKLOADS = [
    Workload("untar", "`tar x` of 5,000 files, 7 KB on average", untar, limit=8),
    Workload("list", "`ls -lR` and `du` of them, warm", list_tree, limit=2),
    Workload("read-tree", "reading them all, kernel caches cold", read_tree_cold, limit=3),
    Workload("cpu-lookup", "daemon CPU: lookup", cpu_lookup, limit=1.5, is_cpu=True),
    Workload("rm", "`rm -rf` of them", remove_tree, limit=4),
    Workload("copy-in", "`cp` of 1 GiB in", copy_in, limit=2.5, bytes_moved=BIG_FILE_BYTES),
    Workload(
        "read-big",
        "reading 1 GiB, kernel caches cold",
        read_big_cold,
        limit=3,
        bytes_moved=BIG_FILE_BYTES,
        min_gb_per_s=1.0,
    ),
    Workload("append", f"4 KiB append + fsync, {APPENDS} times", append_fsync, limit=2),
    Workload("sqlite", f"{TRANSACTIONS} sqlite transactions", sqlite_transactions, limit=2),
    Workload("cpu-getattr", "daemon CPU: getattr", cpu_getattr, limit=1.5, is_cpu=True),
    Workload("cpu-create", "daemon CPU: create + 4 KiB + close", cpu_create, limit=2, is_cpu=True),
    Workload("cpu-open", "daemon CPU: open + close", cpu_open, is_cpu=True),
]
"""In the order in which they are run: each leaves to the next what it needs, and finds it if run alone."""
