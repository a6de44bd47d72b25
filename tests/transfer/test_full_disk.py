"""The cache on a disk that is really full: writers get ENOSPC, and everything that was taken is there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gsfs.errors import NoSpace
from gsfs.model import MIB
from tests.transfer.conftest import Place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("floor", ["12MiB", "0"])
def test_a_full_disk_gives_enospc_and_nothing_is_lost(small: Path, floor: str) -> None:
    place = Place(small / "place", cache={"size": "200MiB", "min_free": floor})
    place.begin()
    try:
        place.backend.down = True
        written: list[bytes] = []
        with pytest.raises(NoSpace):
            for number in range(80):
                data = os.urandom(MIB)
                place.write(b"f%d" % number, data)
                written.append(data)
        assert len(written) > 5
        place.backend.down = False
        place.let_pass(40)
        for number, data in enumerate(written):
            assert place.read(b"f%d" % number) == data
        place.write(b"more", b"there is room again")
        place.fsync()
        place.kill()
        place.start()
        assert place.read(b"more") == b"there is room again"
        assert place.read(b"f0") == written[0]
        assert place.fsck() == []
        assert place.deaths == []
    finally:
        place.end()
