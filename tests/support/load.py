"""A load whose promises are known. Owns what each writer was told, and what may be there after a crash.

A writer has a directory to itself and notes what its files are after each call. A tree found later must be
one of those since the last fsync that returned: neither older, nor mixed, nor anything that never was.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

NAMES = [f"f{number}" for number in range(10)]
SIZES = (1, 300, 4096, 50_000, 65_536)
FRAGMENTS = 40
PAST_MAX = 500
PAGE = 4096
Tree = dict[str, bytes]


class Writer:
    """One thread of load. ``states`` are the trees that may be found, oldest first."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self._rng = random.Random(seed)
        self._tree: Tree = {}
        self.states: list[Tree] = [{}]
        self.past: list[Tree] = []
        self.promised = False
        """Whether the directory itself is promised to be there."""
        self.checked_bytes = 0
        self.calls = 0
        self.error: OSError | None = None
        """What ended the last work; the file system is gone, if all is well."""

    def work(self, until: Callable[[], bool]) -> None:
        """Work until told, or until the file system is gone."""
        self.error = None
        try:
            self.directory.mkdir(exist_ok=True)
            self._sync(self.directory)
            self.promised = True
            while not until():
                self._step()
        except OSError as error:
            self.error = error

    def _step(self) -> None:
        rng = self._rng
        name = rng.choice(NAMES)
        step = rng.choices(
            [
                self._overwrite,
                self._append,
                self._replace,
                self._remove,
                self._truncate,
                self._fragment,
                self._move,
            ],
            weights=[5, 7, 4, 2, 1, 1, 2],
        )[0]
        step(name)
        if rng.random() < 0.3:
            self._sync(self.directory)

    # --- calls; each is noted before it is made, for a crash may come before or after its effect

    def _about_to(self, **changes: bytes | None) -> None:
        tree = {name: data for name, data in {**self._tree, **changes}.items() if data is not None}
        self._tree = tree
        self.states.append(tree)
        self.calls += 1

    def _sync(self, path: Path, fd: int | None = None) -> None:
        at = len(self.states) - 1
        own = os.open(path, os.O_RDONLY) if fd is None else fd
        try:
            os.fsync(own)
        finally:
            if fd is None:
                os.close(own)
        self.past += self.states[:at]
        del self.states[:at]
        del self.past[:-PAST_MAX]

    def _data(self) -> bytes:
        return self._rng.randbytes(self._rng.choice(SIZES))

    def _open(self, name: str, flags: int = 0) -> int:
        if name not in self._tree:
            self._about_to(**{name: b""})
        return os.open(self.directory / name, os.O_RDWR | os.O_CREAT | flags, 0o644)

    def _pwrite(self, fd: int, name: str, data: bytes, offset: int) -> None:
        old = self._tree[name]
        self._about_to(**{name: old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]})
        if os.pwrite(fd, data, offset) != len(data):
            raise OSError("short write")

    def _overwrite(self, name: str) -> None:
        fd = self._open(name)
        try:
            self._pwrite(fd, name, self._data(), self._rng.randrange(len(self._tree[name]) + 1))
            if self._rng.random() < 0.4:
                self._sync(self.directory / name, fd)
        finally:
            os.close(fd)

    def _append(self, name: str) -> None:
        fd = self._open(name)
        try:
            for _ in range(self._rng.randint(1, 5)):
                if len(self._tree[name]) < 1_500_000:
                    self._pwrite(fd, name, self._data(), len(self._tree[name]))
            self._sync(self.directory / name, fd)
        finally:
            os.close(fd)

    def _replace(self, name: str) -> None:
        """What editors do: write beside, fsync, rename over."""
        data = self._data()
        fd = self._open("new")
        try:
            if self._tree["new"]:
                self._about_to(new=b"")
                os.ftruncate(fd, 0)
            self._pwrite(fd, "new", data, 0)
            self._sync(self.directory / "new", fd)
        finally:
            os.close(fd)
        self._about_to(**{"new": None, name: data})
        os.rename(self.directory / "new", self.directory / name)

    def _remove(self, name: str) -> None:
        if name in self._tree:
            self._about_to(**{name: None})
            os.unlink(self.directory / name)

    def _truncate(self, name: str) -> None:
        if name in self._tree:
            size = self._rng.choice([0, len(self._tree[name]) // 2, len(self._tree[name]) + 10_000])
            self._about_to(**{name: self._tree[name][:size].ljust(size, b"\0")})
            os.truncate(self.directory / name, size)

    def _move(self, name: str) -> None:
        to = self._rng.choice(NAMES)
        if name in self._tree and to != name:
            self._about_to(**{name: None, to: self._tree[name]})
            os.rename(self.directory / name, self.directory / to)

    def _fragment(self, _name: str) -> None:
        """Many small pieces, then away with it: more than is removed at once."""
        fd = self._open("pieces")
        try:
            for piece in range(FRAGMENTS):
                self._pwrite(fd, "pieces", b"piece", piece * 8192)
        finally:
            os.close(fd)
        self._about_to(pieces=None)
        os.unlink(self.directory / "pieces")

    # --- after a crash

    def check(self) -> str | None:
        """What is wrong with the tree that is there; None when it is one that it may be. Goes on from it."""
        if not self.directory.is_dir():
            return f"{self.directory} is gone" if self.promised else None
        found: Tree = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        self.checked_bytes += sum(map(len, found.values()))
        if found not in self.states and not self._is_within_a_write(found):
            return f"{self.directory}: {self._explain(found)}"
        self._tree, self.states = found, [found]
        return None

    def _is_within_a_write(self, found: Tree) -> bool:
        """Whether the tree is one in the middle of a write(2), which the kernel may send in several requests.

        It splits them where a page ends; a crash may come between two of them.
        """
        for before, after in pairwise(self.states):
            changed = [n for n in before.keys() | after.keys() if before.get(n) != after.get(n)]
            if len(changed) != 1 or changed[0] not in before or changed[0] not in after:
                continue
            (name,) = changed
            if {**before, name: found.get(name)} != found:
                continue
            old, new, seen = before[name], after[name], found[name]
            if any(seen == new[:at] + old[at:] for at in range(PAGE, len(new), PAGE)):
                return True
        return False

    def _explain(self, found: Tree) -> str:
        first, last = self.states[0], self.states[-1]
        told = (
            [f"the tree of {len(self.past) - self.past.index(found)} calls before the last fsync"]
            if found in self.past
            else []
        )
        for name in sorted(found.keys() | first.keys() | last.keys()):
            seen = found.get(name)
            if seen not in (first.get(name), last.get(name)) or first.get(name) != last.get(name):
                known = [index for index, state in enumerate(self.states) if state.get(name) == seen]
                old = [
                    len(self.past) - index for index, state in enumerate(self.past) if state.get(name) == seen
                ]
                told.append(
                    f"{name} ({_sum(seen)}) is as after calls {known[:3]}..{known[-3:]} of {len(self.states)}, or as {old[-1:]} calls "
                    f"before the last fsync; expected {[_sum(state.get(name)) for state in self.states[-3:]]}"
                )
        return "; ".join(told)


def _sum(data: bytes | None) -> str:
    return "absent" if data is None else f"{len(data)} bytes, {hashlib.sha1(data).hexdigest()[:8]}"


class Load:
    """Several writers below one directory."""

    def __init__(self, bucket: Path, writers: int, seed: int) -> None:
        self.writers = [Writer(bucket / f"w{number}", seed * 1000 + number) for number in range(writers)]

    def run(self, until: Callable[[], bool], deadline_s: float) -> None:
        """Run all writers until told. Raises when they hang."""
        threads = [threading.Thread(target=w.work, args=(until,), daemon=True) for w in self.writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(deadline_s)
            assert not thread.is_alive(), "a writer hangs"

    def check(self) -> list[str]:
        return [problem for writer in self.writers if (problem := writer.check()) is not None]

    @property
    def checked_bytes(self) -> int:
        return sum(writer.checked_bytes for writer in self.writers)
