"""Kill -9 at every step, and at any moment, under load: what was promised is there after the next mount."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gsfs import failpoints
from tests.support.killing import WAIT_S, Victim, die_under, wait_for
from tests.support.load import Load
from tests.support.mounting import CAN_MOUNT

pytestmark = [
    pytest.mark.skipif(not CAN_MOUNT, reason="needs root and /dev/fuse"),
    pytest.mark.timeout(1200),
]
ON_UNMOUNT = {"close.before-commit"}
OFTEN = {"commit", "sync", "segment", "upload"}
"""What happens so often that the first time says little: killed some time later."""


class Scene:
    """A victim and its load, which goes on from death to death."""

    def __init__(self, home: Path) -> None:
        self.victim = Victim(home)
        self.load = Load(self.victim.mount.bucket, writers=3, seed=11)

    def begin(self) -> None:
        """A first load, and a first death."""
        self.victim.start()
        self.victim.mount.bucket.mkdir()
        self.load.run(lambda: all(w.calls > 30 for w in self.load.writers), WAIT_S)
        self.victim.kill()
        self.victim.buried()
        self.look()

    def look(self) -> None:
        """Mount again and compare; then die again, so that the next start recovers, too."""
        self.victim.start()
        assert not self.victim.dead, self.victim.log_tail()
        assert self.load.check() == []
        self.victim.kill()
        self.victim.buried()


@pytest.fixture(scope="module")
def scene(scratch: Path) -> Iterator[Scene]:
    made = Scene(scratch)
    try:
        made.begin()
        yield made
    finally:
        made.victim.end()
    print(f"\nkills survived: {made.victim.kills}; bytes checked: {made.load.checked_bytes}")


@pytest.mark.parametrize("name", sorted(failpoints.NAMES))
def test_a_kill_at_this_step_loses_nothing_that_was_promised(scene: Scene, name: str) -> None:
    victim = scene.victim
    count = 4 if name.split(".", maxsplit=1)[0] in OFTEN else 1
    victim.start(f"{name}:{count}")
    if name in ON_UNMOUNT:
        die_under(
            victim, scene.load, after=lambda: all(w.calls % 50 == 49 for w in scene.load.writers) or enough()
        )
        victim.mount.run("umount", str(victim.mount.root), check=False)
        wait_for(lambda: victim.dead, "the daemon ends")
    else:
        until = time.monotonic() + WAIT_S
        die_under(victim, scene.load, after=lambda: time.monotonic() > until)
        ends = [writer.error for writer in scene.load.writers]
        wait_for(lambda: victim.dead, f"{name} is reached by the load; its writers ended with {ends}", 5)
    victim.buried()
    scene.look()


def enough(seconds: float = 1.0, start: list[float] = []) -> bool:  # noqa: B006  # remembers when it was first asked
    start.append(time.monotonic())
    return start[-1] - start[0] > seconds


def test_kills_at_any_moment_lose_nothing_that_was_promised(scene: Scene, kills: int) -> None:
    rng = random.Random(5)
    for _ in range(kills):
        scene.victim.start()
        until = time.monotonic() + rng.uniform(0.05, 1.5)
        scene.load.run(lambda until=until: time.monotonic() > until, WAIT_S)
        scene.victim.kill()
        scene.victim.buried()
        scene.victim.start()
        assert scene.load.check() == []
        scene.victim.kill()
        scene.victim.buried()


def test_after_all_kills_uploads_resume_and_nothing_is_orphaned(scene: Scene) -> None:
    victim = scene.victim
    victim.start()
    scene.load.run(lambda: all(w.calls > 200 for w in scene.load.writers), WAIT_S)
    victim.stop()
    assert victim.problems() == []
    victim.start()
    assert victim.mount.status()["dirty_bytes"] == 0
    assert scene.load.check() == []
    victim.stop()
    assert victim.problems() == []
