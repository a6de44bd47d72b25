"""Writers wait for uploads to make room, and only for those."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gsfs.data.cache import ObjectCache
from gsfs.errors import NoSpace
from gsfs.model import GIB, MIB, Ino
from gsfs.transfer.pressure import HOPELESS_S, Pressure

WAIT_S = 60.0
MORE_THAN_ANY_DISK = 1 << 62


def waited_s(held_bytes: int, directory: Path) -> float:
    """How long a writer waits on a disk that is below its floor before it is refused."""

    async def main() -> float:
        pressure = Pressure(ObjectCache(directory, GIB, MORE_THAN_ANY_DISK), lambda: held_bytes, WAIT_S)
        assert not pressure.admits(MIB)
        began = trio.current_time()
        with pytest.raises(NoSpace):
            await pressure.wait(MIB, Ino(2))
        return trio.current_time() - began

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_full_disk_refuses_soon_when_no_upload_can_make_room(tmp_path: Path) -> None:
    assert waited_s(0, tmp_path) == pytest.approx(HOPELESS_S)


def test_a_full_disk_is_waited_for_while_bytes_are_under_way(tmp_path: Path) -> None:
    assert waited_s(MIB, tmp_path) == pytest.approx(WAIT_S)
