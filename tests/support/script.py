"""A fixed play: the same seed makes the same calls, and so the same trees, in the player and in whoever checks.

As a program it plays on a volume: ``python -m tests.support.script CONFIG SEED STEPS``, and marks in the trace
each step whose results a call to fsync has promised.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from gsfs.config import load
from gsfs.filesystem.attributes import Changes
from gsfs.filesystem.core import Caller
from gsfs.model import ROOT_INO, Ino
from gsfs.volume import Volume
from tests.support.fsmodel import Frozen, Model
from tests.support.hasty import hurry
from tests.support.powerloss import mark

CALLER = Caller(0, 0)
BUCKET = b"bucket"
NAMES = [b"f%d" % number for number in range(8)]
SIZES = (1, 900, 5_000, 40_000, 150_000)


@dataclass(frozen=True)
class Call:
    """One step."""

    what: str
    name: bytes
    to: bytes = b""
    offset: int = 0
    data: bytes = b""


def calls(seed: int, steps: int) -> Iterator[tuple[Call, Frozen]]:
    """The calls, each with the tree after it."""
    rng, model = random.Random(seed), Model()
    bucket = model.make((), BUCKET, "dir")
    yield Call("mkdir", BUCKET), model.freeze()
    for _ in range(steps):
        yield _next(rng, model, fsyncs=5 if seed % 2 else 1), model.freeze()
    assert bucket.kind == "dir"


def _next(rng: random.Random, model: Model, fsyncs: int) -> Call:
    there = sorted(model.at((BUCKET,)).entries)
    name, path = rng.choice(NAMES), (BUCKET,)
    what = rng.choices(
        ["write", "write", "append", "rename", "unlink", "truncate", "fsync", "pause"],
        [4, 2, 6, 2, 1, 1, fsyncs, 1],
    )[0]
    if what in ("fsync", "pause"):
        return Call(what, name)
    if name not in there:
        model.make(path, name, "file")
        return Call("create", name)
    node = model.at((*path, name))
    if what == "rename":
        to = rng.choice(NAMES)
        model.rename(path, name, path, to, 0)
        return Call(what, name, to=to)
    if what == "unlink":
        model.unlink(path, name)
        return Call(what, name)
    if what == "truncate":
        size = rng.choice([0, len(node.content) // 2, len(node.content) + 3000])
        model.truncate(node, size)
        return Call(what, name, offset=size)
    offset = len(node.content) if what == "append" else rng.randrange(len(node.content) + 1)
    data = rng.randbytes(rng.choice(SIZES))
    model.write(node, offset, data)
    return Call("write", name, offset=offset, data=data)


class Player:
    """Makes the calls on a volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._bucket = Ino(0)

    def _ino(self, name: bytes) -> Ino:
        inode = self._volume.names.lookup(self._bucket, name)
        assert inode is not None, name
        return inode.ino

    async def make(self, call: Call) -> None:
        """One call, to its end."""
        names, content = self._volume.names, self._volume.content
        match call.what:
            case "mkdir":
                self._bucket = names.mkdir(ROOT_INO, call.name, 0o755, CALLER).ino
            case "create":
                names.create(self._bucket, call.name, 0o644, CALLER)
            case "rename":
                names.rename(self._bucket, call.name, self._bucket, call.to, 0)
            case "unlink":
                names.unlink(self._bucket, call.name)
            case "truncate":
                self._volume.attributes.setattr(self._ino(call.name), Changes(size=call.offset), CALLER)
            case "write":
                handle, _keep = content.open(self._ino(call.name), os.O_RDWR)
                await content.write(handle, call.offset, call.data)
                content.release(handle)
            case "fsync":
                await content.sync_inode(self._volume.store.inodes.get(self._bucket))
            case "pause":
                await trio.sleep(0.15)


async def play(volume: Volume, seed: int, steps: int) -> None:
    """Make all calls, with the movers running; a mark for each fsync that returned, then an orderly end."""
    async with trio.open_nursery() as nursery:
        await nursery.start(volume.run)
        player = Player(volume)
        for index, (call, _tree) in enumerate(calls(seed, steps)):
            await player.make(call)
            if call.what == "fsync":
                mark(b"%d" % index)
        nursery.cancel_scope.cancel()
    await volume.close()
    mark(b"%d" % steps)


if __name__ == "__main__":
    hurry()
    path, seed_, steps_ = sys.argv[1:]
    opened = Volume(load(Path(path), os.environ))
    trio.run(play, opened, int(seed_), int(steps_))
