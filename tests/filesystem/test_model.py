"""The file system against a model, with kills, power cuts, restarts and a failing location among the steps.

The claim, after whatever happened: the tree is one that it really was, not older than what was promised.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gsfs.errors import CrossesBuckets, GsfsError, InputOutput, NoSpace
from gsfs.filesystem.attributes import Changes
from gsfs.filesystem.core import Caller
from gsfs.filesystem.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from gsfs.model import KIB, MIB, ROOT_INO
from gsfs.namespace.inodes import Inode
from tests.support.fsmodel import Frozen, Model, Node, Refused
from tests.support.looking import difference, tree
from tests.support.worlds import World, fast_directory

ROOT = Caller(0, 0)
PUNCH = PUNCH_HOLE | KEEP_SIZE
BUCKETS = (b"b0", b"b1")
NAMES = st.sampled_from([b"f0", b"f1", b"f2", b"d0", b"d1", b"\xff\n"])
SPOTS = st.integers(0, 1000)
"""Picks one of what there is at the time."""
SIZES = st.sampled_from([1, 700, 4 * KIB, 70 * KIB, 300 * KIB])
OFFSETS = st.sampled_from([0, 1, 4 * KIB, 100 * KIB, MIB + 17])


class FileSystem(RuleBasedStateMachine):
    """Every rule does one thing to both, and compares what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Path(tempfile.mkdtemp(prefix="gsfs-model-", dir=fast_directory())))
        self.world.on_commit = self._committed
        self.model = Model()
        self.history: list[Frozen] = [{}]
        self.committed = self.durable = 0
        self.handles: list[tuple[int, Node]] = []
        self.stamp = itertools.count(1)
        self.volume = self.world.start()

    def _committed(self) -> None:
        self.committed = len(self.history) - 1

    @initialize()
    def buckets(self) -> None:
        for name in BUCKETS:
            self._both(
                lambda m, name=name: m.make((), name, "dir"),
                lambda name=name: self._names().mkdir(ROOT_INO, name, 0o755, ROOT),
            )
        self.fsync(0)

    def teardown(self) -> None:
        try:
            if not self.world.deaths:
                self._compare(self.model.freeze())
        finally:
            self.world.end()
        assert not self.world.deaths

    # --- both

    def _names(self) -> Any:
        return self.volume.names

    def _call(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            result = work()
            return await result if isinstance(result, Awaitable) else result

        return self.world.call(run)

    def _both(self, on_model: Callable[[Model], Any], on_volume: Callable[[], Any]) -> Any:
        """Do it to both; they agree on success or errno. NoSpace is true only while the location fails."""
        expected: int | None = None
        before = self.history[-1]
        try:
            answer = on_model(self.model)
        except Refused as refused:
            expected, answer = refused.errno, None
        try:
            self._call(on_volume)
        except GsfsError as error:
            assert error.errno == expected, f"{error!r}, where the model says {expected}"
        else:
            assert expected is None, f"done, where the model says {os.strerror(expected or 0)}"
        state = self.model.freeze()
        if state != before:
            self.history.append(state)
        return answer

    def _inode(self, path: tuple[bytes, ...]) -> Inode:
        inode = self.volume.store.inodes.get(ROOT_INO)
        for name in path:
            found = self.volume.names.lookup(inode.ino, name)
            assert found is not None, f"{path}: {name!r} is not there"
            inode = found
        return inode

    def _ino(self, path: tuple[bytes, ...]) -> int:
        return self._inode(path).ino

    def _directory(self, spot: int) -> tuple[bytes, ...]:
        directories = self.model.directories()
        return directories[spot % len(directories)]

    def _pick(self, spot: int, *kinds: str) -> tuple[bytes, ...] | None:
        found = [
            (*path, name)
            for path in self.model.directories()
            for name, node in sorted(self.model.at(path).entries.items())
            if node.kind in kinds
        ]
        return found[spot % len(found)] if found else None

    # --- names

    @rule(spot=SPOTS, name=NAMES, kind=st.sampled_from(["file", "file", "dir", "link"]))
    def make(self, spot: int, name: bytes, kind: str) -> None:
        parent = self._directory(spot)
        target = b"../t%d" % next(self.stamp)

        def on_volume() -> object:
            ino, names = self._ino(parent), self._names()
            if kind == "dir":
                return names.mkdir(ino, name, 0o755, ROOT)
            if kind == "link":
                return names.symlink(ino, name, target, ROOT)
            return names.create(ino, name, 0o644, ROOT)

        self._both(lambda m: m.make(parent, name, kind, target if kind == "link" else b""), on_volume)

    @rule(spot=SPOTS, other=SPOTS, name=NAMES)
    def link(self, spot: int, other: int, name: bytes) -> None:
        path, parent = self._pick(spot, "file", "link"), self._directory(other)
        if path is None:
            return
        self._both(
            lambda m: m.link(m.at(path), path[0], parent, name),
            lambda: self._names().link(self._ino(path), self._ino(parent), name),
        )

    @rule(spot=SPOTS, name=NAMES)
    def unlink(self, spot: int, name: bytes) -> None:
        parent = self._directory(spot)
        self._both(lambda m: m.unlink(parent, name), lambda: self._names().unlink(self._ino(parent), name))

    @rule(spot=SPOTS, name=NAMES)
    def rmdir(self, spot: int, name: bytes) -> None:
        parent = self._directory(spot)
        self._both(lambda m: m.rmdir(parent, name), lambda: self._names().rmdir(self._ino(parent), name))

    @rule(spot=SPOTS, name=NAMES, other=SPOTS, to=NAMES, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, spot: int, name: bytes, other: int, to: bytes, flags: int) -> None:
        old, new = self._directory(spot), self._directory(other)
        self._both(
            lambda m: m.rename(old, name, new, to, flags),
            lambda: self._names().rename(self._ino(old), name, self._ino(new), to, flags),
        )

    # --- content

    @rule(spot=SPOTS, truncate=st.booleans())
    def open(self, spot: int, truncate: bool) -> None:
        path = self._pick(spot, "file")
        if path is None or len(self.handles) >= 6:
            return
        node = self.model.at(path)
        flags = os.O_RDWR | (os.O_TRUNC if truncate else 0)
        handles: list[int] = []
        self._both(
            lambda m: m.truncate(node, 0) if truncate else None,
            lambda: handles.append(self.volume.content.open(self._ino(path), flags)[0]),
        )
        self.handles.append((handles[0], node))

    @rule(spot=SPOTS)
    @precondition(lambda self: self.handles)
    def close(self, spot: int) -> None:
        handle, _node = self.handles.pop(spot % len(self.handles))
        self._both(lambda _m: None, lambda: self.volume.content.release(handle))

    @rule(spot=SPOTS, offset=OFFSETS, size=SIZES, append=st.booleans(), times=st.integers(1, 3))
    @precondition(lambda self: self.handles)
    def write(self, spot: int, offset: int, size: int, append: bool, times: int) -> None:
        handle, node = self.handles[spot % len(self.handles)]
        for _ in range(times):
            at = len(node.content) if append else offset
            data = (b"%08d" % next(self.stamp) * (size // 8 + 1))[:size]
            try:
                self._call(lambda at=at, data=data: self.volume.content.write(handle, at, data))
            except NoSpace:
                assert self.world.backend.down, "no space, while everything can be uploaded"
                return
            self.model.write(node, at, data)
            self.history.append(self.model.freeze())

    @rule(spot=SPOTS, size=OFFSETS)
    def truncate(self, spot: int, size: int) -> None:
        path = self._pick(spot, "file")
        if path is None:
            return
        self._both(
            lambda m: m.truncate(m.at(path), size),
            lambda: self.volume.attributes.setattr(self._ino(path), Changes(size=size), ROOT),
        )

    @rule(spot=SPOTS, offset=OFFSETS, size=SIZES, mode=st.sampled_from([0, KEEP_SIZE, ZERO_RANGE, PUNCH]))
    def allocate(self, spot: int, offset: int, size: int, mode: int) -> None:
        path = self._pick(spot, "file")
        if path is None:
            return

        def on_model(m: Model) -> None:
            node = m.at(path)
            end = offset + size if mode in (0, ZERO_RANGE) else len(node.content)
            m.truncate(node, max(len(node.content), end))
            if mode in (ZERO_RANGE, PUNCH):
                hole = bytes(max(0, min(size, len(node.content) - offset)))
                node.content = node.content[:offset] + hole + node.content[offset + len(hole) :]

        self._both(on_model, lambda: self.volume.ranges.allocate(self._ino(path), mode, offset, size))

    @rule(spot=SPOTS, other=SPOTS, offset=OFFSETS, to=OFFSETS, size=SIZES)
    @precondition(lambda self: self.handles)
    def copy(self, spot: int, other: int, offset: int, to: int, size: int) -> None:
        (source, from_node), (target, to_node) = (self.handles[i % len(self.handles)] for i in (spot, other))
        if from_node is to_node and abs(offset - to) < size:
            return  # the kernel refuses it
        data = from_node.content[offset : offset + size]
        try:
            copied = self._call(lambda: self.volume.ranges.copy(source, offset, target, to, size))
        except CrossesBuckets:
            return
        assert copied == len(data)
        if data:
            self.model.write(to_node, to, data)
            self.history.append(self.model.freeze())

    @rule(spot=SPOTS, offset=OFFSETS, size=SIZES)
    @precondition(lambda self: self.handles)
    def read(self, spot: int, offset: int, size: int) -> None:
        handle, node = self.handles[spot % len(self.handles)]

        async def work() -> bytes:
            return bytes(await self.volume.content.read(handle, offset, size))

        try:
            data = self._call(work)
        except InputOutput:
            assert self.world.backend.down, "unreadable, while the location answers"
            return
        assert data == node.content[offset : offset + size]

    @rule(
        spot=SPOTS,
        name=st.sampled_from([b"user.a", b"user.b"]),
        value=st.binary(max_size=20),
        remove=st.booleans(),
    )
    def xattr(self, spot: int, name: bytes, value: bytes, remove: bool) -> None:
        path = self._pick(spot, "file", "dir")
        if path is None:
            return
        node = self.model.at(path)
        if remove and name not in node.xattrs:
            return

        def on_model(_m: Model) -> None:
            if remove:
                del node.xattrs[name]
            else:
                node.xattrs[name] = value

        attributes = self.volume.attributes
        self._both(
            on_model,
            lambda: (
                attributes.removexattr(self._ino(path), name)
                if remove
                else attributes.setxattr(self._ino(path), name, value, ROOT)
            ),
        )

    # --- promises

    @rule(spot=SPOTS)
    def fsync(self, spot: int) -> None:
        parent = self._directory(spot)
        index = len(self.history) - 1

        async def work() -> None:
            await self.volume.content.sync_inode(self._inode(parent))

        self._call(work)
        self.durable = index

    # --- what the movers do

    @rule(seconds=st.sampled_from([0.1, 3.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.let_pass(seconds)

    @rule()
    def seal(self) -> None:
        self._call(self.volume.segments.seal_all)
        self.world.let_pass(1.0)

    @rule()
    def evict(self) -> None:
        self._call(lambda: self.volume.cache.make_room(5 * MIB, look_at_disk=False))

    @rule()
    def compact(self) -> None:
        self._call(lambda: self.volume.compaction.compact(0))

    @rule()
    def fold(self) -> None:
        self._call(self.volume.committer.fold)

    @rule()
    @precondition(lambda self: not self.world.backend.down)
    def settle(self) -> None:
        """Everything uploaded, all garbage gone: the location has what the namespace names, and nothing else."""
        self.world.settle()
        assert self.world.strays() == []

    @rule(down=st.booleans(), lies=st.integers(0, 2))
    def location(self, down: bool, lies: int) -> None:
        self.world.backend.down = down
        self.world.backend.lies = lies

    # --- ends

    @rule(
        how=st.sampled_from(["stop", "kill", "kill", "power", "power", "power"]), seed=st.integers(0, 2**16)
    )
    def restart(self, how: str, seed: int) -> None:
        if how == "stop":
            for handle, _node in self.handles:
                self._call(lambda handle=handle: self.volume.content.release(handle))
            self.world.stop()
            least = len(self.history) - 1
        elif how == "kill":
            self.world.kill()
            least = self.committed
        else:
            self.world.cut_power(seed)
            least = self.durable
        self.handles.clear()
        self.volume = self.world.start()
        assert self.volume.recovered.damaged == []
        self.world.backend.lies = 0
        self._go_on_from(self._seen(), least)

    def _go_on_from(self, seen: Frozen, least: int) -> None:
        """The tree must be one that it was; what comes after it in the history never happened."""
        for index in range(len(self.history) - 1, least - 1, -1):
            if self.history[index] == seen:
                break
        else:
            raise AssertionError(
                f"a tree that never was since step {least}: {difference(self.history[least], seen)}"
            )
        self.model = _thaw(seen)
        self.history = [seen]
        self.committed = self.durable = 0

    # --- looking

    def _seen(self) -> Frozen:
        down, self.world.backend.down = self.world.backend.down, False
        try:
            return self.world.call(lambda: tree(self.volume))
        finally:
            self.world.backend.down = down

    def _compare(self, expected: Frozen) -> None:
        seen = self._seen()
        assert seen == expected, difference(expected, seen)

    @invariant()
    def movers_live(self) -> None:
        assert not self.world.deaths

    @rule()
    def look(self) -> None:
        self._compare(self.model.freeze())
        assert self.world.fsck() == []


def _thaw(state: Frozen) -> Model:
    model = Model()
    nodes: dict[object, Node] = {}
    for path, (kind, same, content, xattrs) in sorted(state.items()):
        *parent, name = path.split(b"/")[1:]
        if same in nodes:
            node = nodes[same]
            node.names += 1
        else:
            node = nodes[same] = Node(str(kind), bytes(content), xattrs=dict(xattrs), names=1)  # type: ignore[call-overload]
        model.at(tuple(parent)).entries[name] = node
    return model


FileSystem.TestCase.settings = settings(
    max_examples=int(os.environ.get("GSFS_MODEL_EXAMPLES", "40")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestFileSystem = FileSystem.TestCase
