"""The power-loss simulation against itself: it must keep what was synced, and must be able to lose the rest."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.powerloss import Op, Record, Recorder, Trace, TraceError
from tests.support.powerlossdisk import Journal, Mode

REPOSITORY = Path(__file__).parents[2]
PROGRAM_WAIT_S = 60
TRANSACTIONS = 25

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="needs gcc, to build the recording library"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def record(root: Path, scratch: Path, program: str) -> tuple[Recorder, Trace]:
    """Run a Python program in `root` (its only argument) and return what it did."""
    recorder = Recorder(root, scratch)
    source = "import os, sys; from tests.support.powerloss import mark\n" + textwrap.dedent(program)
    command = [sys.executable, "-c", source, str(root)]
    subprocess.run(command, env=recorder.env(), cwd=REPOSITORY, check=True, timeout=PROGRAM_WAIT_S)
    return recorder, recorder.trace()


def cuts(
    recorder: Recorder, trace: Trace, points: list[int], modes: tuple[Mode, ...], journal: Journal
) -> Iterator[tuple[int, Path]]:
    """The directory after a cut at each of the points, in each of the modes; removed when it was looked at."""
    target = recorder.initial.parent / "after"
    for point in points:
        for mode in modes:
            trace.materialise(recorder.initial, target, point, mode, seed=point, journal=journal)
            yield point, target
            shutil.rmtree(target)


def contents(root: Path) -> dict[str, object]:
    """A tree as a value: bytes of files, targets of links, and None for directories."""
    tree: dict[str, object] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            tree[name] = os.readlink(path)
        else:
            tree[name] = None if path.is_dir() else path.read_bytes()
    return tree


# --- the recording is faithful

EVERY_CALL = """
import random, threading
os.chdir(sys.argv[1])
rng = random.Random(7)
os.mkdir("d"); os.makedirs("e/f")
fd = os.open("d/a", os.O_RDWR | os.O_CREAT)
os.write(fd, b"one" * 1000); os.pwrite(fd, b"two", 5000); os.writev(fd, [b"x" * 10, b"y" * 700])
os.pwritev(fd, [b"p" * 3, b"q" * 600], 100)
os.ftruncate(fd, 4100); os.posix_fallocate(fd, 4000, 5000)
os.lseek(fd, 0, os.SEEK_SET)
out = os.open("copy", os.O_WRONLY | os.O_CREAT)
os.copy_file_range(fd, out, 3000); os.sendfile(out, fd, 10, 2500)
log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
dup = os.dup(log)
for n in range(5):
    os.write(log if n % 2 else dup, b"line %d\\n" % n)
os.pwrite(log, b"appended all the same", 0)
os.link("log", "d/log2"); os.symlink("no/where", "sym")
os.rename("d/a", "e/f/b"); os.rename("e/f", "g")
os.truncate("copy", 100)
open("gone", "w").write("x"); os.unlink("gone"); os.mkdir("h"); os.rmdir("h")
here = os.open("g", os.O_RDONLY)
os.mkdir("sub", dir_fd=here); os.rename("b", "sub/c", src_dir_fd=here, dst_dir_fd=here)
open("replaced", "w").write("old"); open("new", "w").write("new"); os.replace("new", "replaced")
open("replaced", "w").write("again")
orphan = os.open("orphan", os.O_RDWR | os.O_CREAT); os.unlink("orphan"); os.write(orphan, b"unseen")
def writer(number):
    fd = os.open(f"t{number}", os.O_RDWR | os.O_CREAT)
    for turn in range(50):
        os.pwrite(fd, bytes([number, turn]) * 50, (turn * 37) % 900)
        if turn % 10 == 0:
            os.fsync(fd)
threads = [threading.Thread(target=writer, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
"""


@pytest.mark.parametrize(
    ("mode", "ending"), [(Mode.KEEP_ALL, ""), (Mode.DROP_ALL, "os.sync()"), (Mode.RANDOM, "os.sync()")]
)
def test_every_kind_of_call_is_recorded_and_replayed(
    root: Path, scratch: Path, mode: Mode, ending: str
) -> None:
    (root / "kept").write_bytes(b"from before")
    recorder, trace = record(root, scratch, EVERY_CALL + ending)
    trace.materialise(recorder.initial, scratch / "after", len(trace.records), mode, seed=1)
    assert contents(scratch / "after") == contents(root)
    assert (scratch / "after/log").samefile(scratch / "after/d/log2")


def test_the_same_cut_twice_gives_the_same_disk(root: Path, scratch: Path) -> None:
    recorder, trace = record(root, scratch, EVERY_CALL)
    for name in ("first", "second"):
        trace.materialise(recorder.initial, scratch / name, 60, Mode.RANDOM, seed=5)
    assert contents(scratch / "first") == contents(scratch / "second")


def test_a_mark_stands_between_what_came_before_it_and_after(root: Path, scratch: Path) -> None:
    program = """
    fd = os.open(sys.argv[1] + "/a", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"1"); mark(b"one"); os.write(fd, b"2"); mark(b"two")
    """
    _recorder, trace = record(root, scratch, program)
    kinds = [record.op for record in trace.records if record.op in (Op.WRITE, Op.MARK)]
    assert kinds == [Op.WRITE, Op.MARK, Op.WRITE, Op.MARK]
    assert [trace.marks(point) for point in trace.points(Op.MARK)] == [[b"one"], [b"one", b"two"]]


def test_a_trace_that_ends_within_a_record_is_read_up_to_it(root: Path, scratch: Path) -> None:
    recorder, trace = record(root, scratch, "open(sys.argv[1] + '/a', 'w').write('x')")
    recorder.trace_path.write_bytes(recorder.trace_path.read_bytes()[:-1])
    assert len(recorder.trace().records) == len(trace.records) - 1


def test_a_writable_mapping_is_refused_because_it_cannot_be_seen(root: Path, scratch: Path) -> None:
    program = """
    import mmap
    with open(sys.argv[1] + "/a", "w+b") as file:
        file.truncate(4096)
        mmap.mmap(file.fileno(), 4096)
    """
    recorder, trace = record(root, scratch, program)
    with pytest.raises(TraceError, match="mapping"):
        trace.materialise(recorder.initial, scratch / "after", len(trace.records), Mode.KEEP_ALL, seed=1)


# --- SQLite: the reference for a program that gets it right

SQLITE = """
import sqlite3
database = sqlite3.connect(sys.argv[1] + "/app.db", isolation_level=None)
database.execute("pragma synchronous={level}")
database.execute("pragma wal_autocheckpoint=10")
for number in range({transactions}):
    database.execute("begin immediate")
    database.execute("insert into log values (?, ?)", (number, "x" * 3000))
    database.execute("commit")
    mark(b"%d" % number)
os._exit(0)
"""


def make_database(root: Path) -> None:
    database = sqlite3.connect(root / "app.db", isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("create table log (number integer primary key, line text)")
    database.close()


def rows_after_recovery(root: Path) -> list[int] | None:
    """The rows of a database that was cut off; None where it is damaged."""
    database = sqlite3.connect(root / "app.db", isolation_level=None)
    try:
        if database.execute("pragma integrity_check").fetchone() != ("ok",):
            return None
        return [number for (number,) in database.execute("select number from log order by number")]
    except sqlite3.DatabaseError:
        return None
    finally:
        database.close()


def outcomes(root: Path, scratch: Path, level: str) -> Iterator[tuple[list[int], list[int] | None]]:
    """(transactions that had been promised, those found) for cuts at every point, all modes in turn."""
    make_database(root)
    recorder, trace = record(root, scratch, SQLITE.format(level=level, transactions=TRANSACTIONS))
    assert len(trace.points(Op.MARK)) == TRANSACTIONS
    modes = (Mode.DROP_ALL, Mode.RANDOM, Mode.REORDER_BETWEEN_FILES)
    for point, after in cuts(recorder, trace, trace.points(), modes, Journal.STRICT):
        yield [int(text) for text in trace.marks(point)], rows_after_recovery(after)


def test_sqlite_with_full_sync_keeps_every_committed_transaction(root: Path, scratch: Path) -> None:
    seen = 0
    for promised, found in outcomes(root, scratch, "full"):
        assert found is not None, "damaged"
        assert found[: len(promised)] == promised
        assert len(found) <= len(promised) + 1, "a transaction that had not begun"
        seen += 1
    assert seen > 10 * TRANSACTIONS


def test_sqlite_without_sync_loses_transactions_and_is_damaged(root: Path, scratch: Path) -> None:
    results = list(outcomes(root, scratch, "off"))
    assert any(found is not None and len(found) < len(promised) for promised, found in results)
    assert any(found is None for _promised, found in results)


# --- the save dance: write a new file, rename it over the old

SAVE = """
root = sys.argv[1]
fd = os.open(root + "/new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.write(fd, b"new" * 1000)
if {sync}:
    os.fsync(fd)
os.close(fd)
os.rename(root + "/new", root + "/file")
if {sync}:
    fd = os.open(root, os.O_RDONLY)
    os.fsync(fd)
mark(b"saved")
"""
OLD, NEW = b"old" * 1000, b"new" * 1000


def saved(root: Path, scratch: Path, sync: bool) -> list[tuple[bool, bytes]]:
    (root / "file").write_bytes(OLD)
    recorder, trace = record(root, scratch, SAVE.format(sync=sync))
    modes = (Mode.DROP_ALL, Mode.KEEP_ALL, Mode.RANDOM, Mode.REORDER_BETWEEN_FILES)
    points = trace.points() + trace.points()[-1:] * 80
    found = []
    for seed, point in enumerate(points):
        for mode in modes:
            trace.materialise(recorder.initial, scratch / "after", point, mode, seed)
            found.append((bool(trace.marks(point)), (scratch / "after/file").read_bytes()))
            shutil.rmtree(scratch / "after")
    return found


def test_a_synced_save_is_the_old_file_or_the_new_and_the_new_once_promised(
    root: Path, scratch: Path
) -> None:
    for promised, content in saved(root, scratch, sync=True):
        assert content == NEW or (content == OLD and not promised)


def test_an_unsynced_save_can_leave_the_old_an_empty_or_a_torn_file(root: Path, scratch: Path) -> None:
    promised = [content for was_promised, content in saved(root, scratch, sync=False) if was_promised]
    assert OLD in promised
    assert b"" in promised
    assert any(content not in (OLD, NEW, b"") for content in promised), "torn"


# --- names

MADE = """
fd = os.open(sys.argv[1] + "/made", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"x"); os.fsync(fd)
"""


@pytest.mark.parametrize(("journal", "survives"), [(Journal.STRICT, False), (Journal.EXT4, True)])
def test_a_synced_file_in_an_unsynced_directory_may_vanish(
    root: Path, scratch: Path, journal: Journal, survives: bool
) -> None:
    recorder, trace = record(root, scratch, MADE)
    end = len(trace.records)
    trace.materialise(recorder.initial, scratch / "after", end, Mode.DROP_ALL, seed=1, journal=journal)
    assert (scratch / "after/made").exists() is survives


def test_names_are_lost_from_the_end_and_a_move_is_never_halved(root: Path, scratch: Path) -> None:
    program = """
    os.chdir(sys.argv[1]); os.mkdir("a"); os.mkdir("b"); os.sync()
    for n in range(6):
        open(f"a/{n}", "w").close()
        if n % 2:
            os.rename(f"a/{n}", f"b/{n}")
    """
    recorder, trace = record(root, scratch, program)
    shapes = set()
    for seed in range(60):
        trace.materialise(recorder.initial, scratch / "after", len(trace.records), Mode.RANDOM, seed)
        a, b = (sorted(os.listdir(scratch / "after" / name)) for name in "ab")
        shutil.rmtree(scratch / "after")
        assert not set(a) & set(b)
        assert sorted(a + b) == [str(number) for number in range(len(a + b))], "a gap: not a prefix"
        shapes.add((*a, "|", *b))
    assert len(shapes) > 4


def test_a_write_during_a_sync_is_not_covered_by_it(root: Path, scratch: Path) -> None:
    name = str(root / "a")
    header = Record(Op.ROOT, 0, 0, 0, 0, str(root), "", b"")
    early, late = (Record(Op.WRITE, 0, 9, at, 1, name, "", b"x") for at in (0, 1))
    begin, end = (Record(op, 1, 9, 1, 1, name, "", b"") for op in (Op.SYNC_BEGIN, Op.SYNC_END))
    opened = Record(Op.OPEN, os.O_RDWR, 9, 0, 0o644, name, "", b"")
    (root / "a").touch()
    trace = Trace([header, opened, early, begin, late, end])
    trace.materialise(root, scratch / "after", 6, Mode.DROP_ALL, seed=1)
    assert (scratch / "after/a").read_bytes() == b"x"
