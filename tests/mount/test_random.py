"""The same random operations on a real mount and on a local directory: the same answers, the same trees.

``GSFS_SOAK_MINUTES`` makes each test go on for so long, with a new seed each round; a failure names the seed.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Mount
from tests.support.trees import assert_same

SOAK_S = 60 * int(os.environ.get("GSFS_SOAK_MINUTES", "0"))


def rounds(seeds: int) -> Iterator[int]:
    """Seeds: so many, and while the soak goes on, more."""
    end = time.monotonic() + SOAK_S
    seed = 0
    while seed < seeds or time.monotonic() < end:
        yield seed
        seed += 1


# --- a tree


class Twin:
    """Does everything in two directories and compares the answers."""

    def __init__(self, local: Path, mounted: Path, dice: random.Random) -> None:
        self.roots = (os.fsencode(local), os.fsencode(mounted))
        self.dice = dice
        self.done: list[str] = []

    def both(self, what: str, act: Callable[[bytes], object]) -> None:
        answers = []
        for root in self.roots:
            try:
                answers.append(act(root))
            except OSError as error:
                answers.append(errno.errorcode[error.errno or 0])
        self.done.append(what)
        assert answers[0] == answers[1], (
            f"{what}: {answers[0]!r} locally, {answers[1]!r} mounted\n" + "\n".join(self.done[-20:])
        )

    def path(self) -> bytes:
        """Few names, so that operations meet."""
        depth = self.dice.choice([1, 1, 1, 2, 2, 3])
        return b"/".join(self.dice.choice([b"a", b"b", b"c", b"d\xff"]) for _ in range(depth))

    def step(self) -> None:
        operations = [self.write, self.write, self.append, self.truncate, self.make_directory, self.make_directory, self.unlink,
                      self.rmdir, self.rename, self.rename, self.link, self.symlink, self.read, self.look, self.listing,
                      self.chmod, self.set_times, self.set_xattr, self.held_open]  # fmt: skip
        self.dice.choice(operations)()

    def write(self) -> None:
        path, data = self.path(), self.dice.randbytes(self.dice.choice([0, 1, 500, 4096, 30_000]))
        offset = self.dice.choice([0, 0, 1, 4095, 100_000])

        def act(root: bytes) -> object:
            fd = os.open(root + b"/" + path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                return os.pwrite(fd, data, offset)
            finally:
                os.close(fd)

        self.both(f"write {path!r} {len(data)} bytes at {offset}", act)

    def append(self) -> None:
        path, data = self.path(), self.dice.randbytes(777)

        def act(root: bytes) -> object:
            with open(root + b"/" + path, "ab") as file:
                return file.write(data)

        self.both(f"append {path!r}", act)

    def truncate(self) -> None:
        path, size = self.path(), self.dice.choice([0, 1, 4096, 10_000, 200_000])
        self.both(f"truncate {path!r} {size}", lambda root: os.truncate(root + b"/" + path, size))

    def make_directory(self) -> None:
        path = self.path()
        self.both(f"mkdir {path!r}", lambda root: os.mkdir(root + b"/" + path))

    def unlink(self) -> None:
        path = self.path()
        self.both(f"unlink {path!r}", lambda root: os.unlink(root + b"/" + path))

    def rmdir(self) -> None:
        path = self.path()
        self.both(f"rmdir {path!r}", lambda root: os.rmdir(root + b"/" + path))

    def rename(self) -> None:
        one, other = self.path(), self.path()
        self.both(f"rename {one!r} {other!r}", lambda root: os.rename(root + b"/" + one, root + b"/" + other))

    def link(self) -> None:
        one, other = self.path(), self.path()
        self.both(
            f"link {one!r} {other!r}",
            lambda root: os.link(root + b"/" + one, root + b"/" + other, follow_symlinks=False),
        )

    def symlink(self) -> None:
        target, path = self.path(), self.path()
        self.both(f"symlink {target!r} {path!r}", lambda root: os.symlink(target, root + b"/" + path))

    def read(self) -> None:
        path = self.path()

        def act(root: bytes) -> object:
            with open(root + b"/" + path, "rb") as file:
                return hash(file.read())

        self.both(f"read {path!r}", act)

    def look(self) -> None:
        path = self.path()

        def act(root: bytes) -> object:
            status = os.lstat(root + b"/" + path)
            directory = os.path.isdir(root + b"/" + path)
            return status.st_mode, status.st_nlink, -1 if directory else status.st_size

        self.both(f"stat {path!r}", act)

    def listing(self) -> None:
        path = self.path()
        self.both(f"list {path!r}", lambda root: sorted(os.listdir(root + b"/" + path)))

    def chmod(self) -> None:
        path, mode = self.path(), self.dice.choice([0o644, 0o755, 0o600, 0o1777, 0o2755])
        self.both(f"chmod {path!r} {mode:o}", lambda root: os.chmod(root + b"/" + path, mode))

    def set_times(self) -> None:
        path, when = self.path(), self.dice.randrange(2_000_000_000_000_000_000)
        self.both(f"utime {path!r} {when}", lambda root: os.utime(root + b"/" + path, ns=(when, when)))

    def set_xattr(self) -> None:
        path, name, value = self.path(), self.dice.choice(["user.a", "user.b"]), self.dice.randbytes(20)
        if self.dice.random() < 0.3:
            self.both(f"removexattr {path!r} {name}", lambda root: os.removexattr(root + b"/" + path, name))
        else:
            self.both(f"setxattr {path!r} {name}", lambda root: os.setxattr(root + b"/" + path, name, value))

    def held_open(self) -> None:
        """A file that loses its name while it is open goes on to be read and written."""
        path = self.path()

        def act(root: bytes) -> object:
            fd = os.open(root + b"/" + path, os.O_RDWR)
            try:
                os.unlink(root + b"/" + path)
                os.pwrite(fd, b"held", 10)
                return hash(os.pread(fd, 1 << 20, 0)), os.fstat(fd).st_nlink
            finally:
                os.close(fd)

        self.both(f"unlink while open {path!r}", act)


def test_random_operations_do_the_same_as_on_a_local_disk(mount: Mount, tmp_path: Path) -> None:
    for seed in rounds(4):
        local, mounted = tmp_path / f"local{seed}", mount.bucket / f"tree{seed}"
        local.mkdir()
        mounted.mkdir()
        twin = Twin(local, mounted, random.Random(seed))
        try:
            for _ in range(1500):
                twin.step()
            assert_same(local, mounted, times=False)
            mount.remount()
            assert_same(local, mounted, times=False)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None
        assert len(twin.done) == 1500


# --- one file


class Exerciser:
    """One file, its bytes known at every moment: reads, writes, truncates, maps, in the manner of fsx."""

    LARGEST = 3 << 20

    def __init__(self, path: Path, dice: random.Random, remount: Callable[[], None]) -> None:
        self.path = path
        self.dice = dice
        self.remount = remount
        self.bytes = bytearray()
        self.done: list[str] = []
        path.touch()
        self.fd = os.open(path, os.O_RDWR)

    def range(self) -> tuple[int, int]:
        """(offset, length), often at the edges of pages and blocks."""
        at = self.dice.randrange(self.LARGEST)
        if self.dice.random() < 0.4:
            at = at // 4096 * 4096 + self.dice.choice([-1, 0, 0, 1])
        return max(0, at), self.dice.choice([1, 2, 100, 4095, 4096, 4097, 65536, 131_072, 131_073, 500_000])

    def step(self) -> None:
        self.dice.choices(
            [self.write, self.read, self.truncate, self.map_write, self.map_read, self.append, self.sync, self.reopen, self.drop, self.whole],
            [25, 25, 6, 10, 10, 6, 3, 2, 2, 1],
        )[0]()  # fmt: skip

    def write(self) -> None:
        at, length = self.range()
        data = self.dice.randbytes(length)
        self.done.append(f"write {at} {length}")
        assert os.pwrite(self.fd, data, at) == length
        self._put(at, data)

    def append(self) -> None:
        data = self.dice.randbytes(self.dice.choice([1, 1000, 70_000]))
        if len(self.bytes) + len(data) > self.LARGEST * 2:
            return
        self.done.append(f"append {len(data)}")
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        assert os.write(fd, data) == len(data)
        os.close(fd)
        self.bytes += data

    def read(self) -> None:
        at, length = self.range()
        self.done.append(f"read {at} {length}")
        self.same(os.pread(self.fd, length, at), at, length)

    def truncate(self) -> None:
        size = self.dice.choice([0, 1, 4096, self.range()[0], self.range()[0], len(self.bytes) // 2])
        self.done.append(f"truncate {size}")
        os.ftruncate(self.fd, size)
        if size < len(self.bytes):
            del self.bytes[size:]
        else:
            self.bytes.extend(bytes(size - len(self.bytes)))

    def map_write(self) -> None:
        at, length = self.range()
        length = min(length, len(self.bytes) - at)
        if length <= 0:
            return
        self.done.append(f"map write {at} {length}")
        data = self.dice.randbytes(length)
        with mmap.mmap(self.fd, len(self.bytes)) as mapped:
            mapped[at : at + length] = data
            if self.dice.random() < 0.5:
                mapped.flush()
        self._put(at, data)

    def map_read(self) -> None:
        if not self.bytes:
            return
        at, length = self.range()
        self.done.append(f"map read {at} {length}")
        with mmap.mmap(self.fd, len(self.bytes), prot=mmap.PROT_READ) as mapped:
            self.same(mapped[at : at + length], at, length)

    def sync(self) -> None:
        self.done.append("fsync")
        os.fsync(self.fd)

    def reopen(self) -> None:
        self.done.append("close and open")
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def drop(self) -> None:
        """The next reads come from the daemon, not from the kernel's cache."""
        self.done.append("fsync and drop the kernel's cache")
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def whole(self) -> None:
        self.done.append("read all")
        assert os.fstat(self.fd).st_size == len(self.bytes), self.story()
        self.same(os.pread(self.fd, len(self.bytes) + 1, 0), 0, len(self.bytes) + 1)

    def start_afresh(self) -> None:
        self.done.append("remount")
        os.close(self.fd)
        self.remount()
        self.fd = os.open(self.path, os.O_RDWR)

    def _put(self, at: int, data: bytes) -> None:
        if at > len(self.bytes):
            self.bytes.extend(bytes(at - len(self.bytes)))
        self.bytes[at : at + len(data)] = data

    def same(self, got: bytes, at: int, length: int) -> None:
        expected = bytes(self.bytes[at : at + length])
        if got != expected:
            first = next(
                (i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b),
                min(len(got), len(expected)),
            )
            raise AssertionError(
                f"byte {at + first} is wrong ({len(got)} of {len(expected)} bytes came); {self.story()}"
            )

    def story(self) -> str:
        return "before: " + ", ".join(self.done[-25:])


@pytest.mark.parametrize(
    "knobs",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"transfer": {"segment_size": "1MiB", "seal_idle_s": 0.1, "seal_age_s": 0.5}, "cache": {"size": "8MiB"}}, id="a-cache-that-evicts"),
    ],
)  # fmt: skip
def test_random_reads_writes_truncates_and_maps_of_one_file(mount: Mount) -> None:
    for seed in rounds(2):
        exerciser = Exerciser(mount.bucket / f"file{seed}", random.Random(seed), mount.remount)
        try:
            for step in range(900):
                exerciser.step()
                if step % 300 == 299:
                    exerciser.start_afresh()
            exerciser.whole()
        except (AssertionError, OSError) as error:
            raise AssertionError(f"seed {seed}: {error}; {exerciser.story()}") from None
        finally:
            os.close(exerciser.fd)
        assert len(exerciser.done) > 800
