"""A real mount whose namespace is on PostgreSQL: killed under load, it keeps its promises, too."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.killing import WAIT_S, Victim
from tests.support.load import Load
from tests.support.mounting import CAN_MOUNT
from tests.support.postgres import Server

pytestmark = [pytest.mark.skipif(not CAN_MOUNT, reason="needs root and /dev/fuse"), pytest.mark.timeout(600)]
KILLS = 2


def test_a_mount_on_postgresql_survives_kills_and_orphans_nothing(scratch: Path) -> None:
    server = Server()
    victim = None
    try:
        victim = Victim(scratch, {"namespace": {"url": server.new_database()}})
        victim.start()
        victim.mount.bucket.mkdir()
        load = Load(victim.mount.bucket, writers=2, seed=3)
        for _ in range(KILLS):
            until = time.monotonic() + 1.5
            load.run(lambda until=until: time.monotonic() > until, WAIT_S)
            victim.kill()
            victim.buried()
            victim.start()
            assert load.check() == []
        victim.stop()
        assert victim.problems() == []
    finally:
        if victim is not None:
            victim.end()
        server.stop()
