"""The directory that is the home goes away while it is mounted (a disk that was unmounted), and comes back."""

from __future__ import annotations

import os

from tests.support.mounting import Mount


def test_a_mount_whose_home_is_away_serves_and_goes_on_when_it_is_back(mount: Mount) -> None:
    store = mount.home / "store"
    (mount.bucket / "before").write_bytes(b"before")
    mount.run("flush", str(mount.root))
    mount.run("evict", str(mount.bucket / "before"))
    store.rename(mount.home / "away")
    assert os.statvfs(mount.root).f_bavail > 0
    (mount.bucket / "meanwhile").write_bytes(b"meanwhile")
    left = mount.run("flush", "--timeout", "1", str(mount.root), check=False)
    assert left.returncode == 7 and "is its disk mounted" in left.stderr
    (mount.home / "away").rename(store)
    mount.run("flush", "--timeout", "60", str(mount.root))
    assert (mount.bucket / "before").read_bytes() == b"before"
    assert (mount.bucket / "meanwhile").read_bytes() == b"meanwhile"
    assert "Traceback" not in mount.log.read_text()
