"""Power cuts at many points of recorded runs: what was fsynced is there, and the tree is one that it really was."""

from __future__ import annotations

import logging
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from gsfs.backends.local import LocalBackend
from gsfs.config import Config, parse
from gsfs.model import Durability
from gsfs.namespace.fsck import check
from gsfs.namespace.store import create, open_database
from gsfs.volume import Volume
from tests.support.fsmodel import Frozen
from tests.support.looking import difference, tree
from tests.support.powerloss import Op, Recorder, Trace
from tests.support.powerlossdisk import Journal, Mode
from tests.support.script import calls

REPOSITORY = Path(__file__).parents[2]
PLAY_S = 240
STEPS = 160

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to build the recording library"),
    pytest.mark.timeout(1200),
]

TOML = """\
[filesystem]
name = "cut"
[namespace]
url = "sqlite:///{root}/cache/namespace.db"
[cache]
path = "{root}/cache"
size = "4MiB"
min_free = "0"
[transfer]
segment_size = "1MiB"
seal_idle_s = 0.1
[bucket_defaults]
home = "local:store"
durability = "{durability}"
[[location]]
id = "local:store"
kind = "local"
path = "{root}/store"
"""


def configuration(root: Path, durability: Durability) -> Config:
    return parse(tomllib.loads(TOML.format(root=root, durability=durability)), {}, str(root / "cut.toml"))


@dataclass
class Run:
    """A recorded run, its trees and the promises in its trace."""

    recorder: Recorder
    trace: Trace
    trees: list[Frozen]
    durability: Durability

    def cuts(self, count: int, seed: int) -> Iterator[tuple[int, Mode, Journal, int]]:
        """Points, half of them at moments at which something has just become durable or was renamed."""
        rng = random.Random(seed)
        after = self.trace.points(Op.SYNC_END, Op.RENAME, Op.UNLINK, Op.MARK)
        into_database = [
            n
            for n, r in enumerate(self.trace.records)
            if r.op is Op.WRITE and r.path.endswith("namespace.db")
        ]
        anywhere = self.trace.points()
        modes = list(Mode)
        for number in range(count):
            pool = (after, anywhere, into_database or anywhere)[number % 3]
            yield (
                rng.choice(pool),
                modes[number % len(modes)],
                rng.choice(list(Journal)),
                rng.randrange(1 << 20),
            )

    def promised(self, point: int) -> int:
        """The step up to which everything is promised at that point; -1: nothing is."""
        return max((int(text) for text in self.trace.marks(point)), default=-1)


def record(home: Path, durability: Durability, seed: int, steps: int = STEPS) -> Run:
    root, scratch = home / "root", home / "scratch"
    for path in (root / "cache", root / "store", scratch):
        path.mkdir(parents=True)
    config = home / "cut.toml"
    config.write_text(TOML.format(root=root, durability=durability))
    database = open_database(f"sqlite:///{root}/cache/namespace.db", create=True)
    create(database, "cut", uid=0, gid=0)
    database.close()
    LocalBackend(root / "store").close()
    recorder = Recorder(root, scratch)
    command = [sys.executable, "-m", "tests.support.script", str(config), str(seed), str(steps)]
    done = subprocess.run(
        command,
        env=recorder.env(),
        cwd=REPOSITORY,
        check=False,
        timeout=PLAY_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Run(recorder, recorder.trace(), [{}, *(state for _call, state in calls(seed, steps))], durability)


async def found_after(config: Config) -> tuple[Frozen, list[str], Volume]:
    volume = Volume(config)
    try:
        return await tree(volume), _problems(volume), volume
    finally:
        volume.abandon()


def _problems(volume: Volume) -> list[str]:
    volume.store.write_out()
    return [*check(volume.store), *(f"damaged: object {o.id}" for o in volume.recovered.damaged)]


def look(run: Run, target: Path, point: int) -> tuple[int, bool]:
    """Start on what the cut has left; the number of bytes found good, and whether commits were taken back."""
    config = configuration(target, run.durability)
    seen, problems, volume = trio.run(found_after, config)
    assert problems == []
    least = run.promised(point) + 1 if run.durability is not Durability.WRITEBACK else 0
    assert seen in run.trees[least:], (
        f"promised: step {least - 1}; recovered: {volume.recovered}; against the promise: {difference(run.trees[least], seen)}"
    )
    again, problems, _volume = trio.run(found_after, config)
    assert (again, problems) == (seen, []), "a second start after the same cut finds something else"
    checked = sum(len(entry[2]) for entry in seen.values() if isinstance(entry[2], bytes))
    return checked, volume.recovered.rewound_bytes > 0


@pytest.mark.parametrize(
    ("durability", "seed"), [(Durability.LOCAL, 1), (Durability.LOCAL, 2), (Durability.WRITEBACK, 3)]
)
def test_power_cuts_keep_what_was_fsynced_and_show_nothing_that_never_was(
    scratch: Path, durability: Durability, seed: int, cuts: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    home = scratch / str(seed)
    run = record(home, durability, seed)
    checked = rewound = 0
    for point, mode, journal, chance in run.cuts(cuts, seed):
        target = home / "after"
        run.trace.materialise(run.recorder.initial, target, point, mode, chance, journal)
        try:
            found, back = look(run, target, point)
            checked, rewound = checked + found, rewound + back
        except BaseException as error:
            error.add_note(f"cut at {point} of {len(run.trace.records)}, {mode}, {journal}, seed {chance}")
            raise
        shutil.rmtree(target)
    print(f"\npower cuts survived: {cuts}; bytes checked: {checked}; rewound: {rewound}")


def test_the_recorded_run_reaches_every_mover(scratch: Path) -> None:
    """The cuts mean something only if segments, uploads and checkpoints are in the trace."""
    run = record(scratch / "movers", Durability.LOCAL, seed=1)
    written = {record_.path for record_ in run.trace.records if record_.op is Op.WRITE}
    assert any(path.endswith("namespace.db") for path in written), "nothing was folded"
    assert len({path for path in written if "/cache/objects/" in path}) > 2, "one segment only"
    assert any("/store/" in path for path in written), "nothing was uploaded"
    assert run.promised(len(run.trace.records)) == STEPS
