"""Strays at a location are found by a listing on demand, and by nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.support.mounting import Mount


def stored(mount: Mount) -> list[Path]:
    """Physical objects in the location's directory."""
    return [f for f in (mount.home / "store").rglob("*") if f.is_file() and "meta" not in f.parts]


def test_sweep_removes_an_upload_that_landed_after_its_deletion_and_nothing_else(mount: Mount) -> None:
    (mount.bucket / "kept").write_bytes(os.urandom(100_000))
    (mount.bucket / "gone").write_bytes(os.urandom(100_000))
    mount.run("flush", str(mount.root))
    (before,) = stored(mount)
    number, _, epoch = before.name.partition("-")
    stray = before.with_name(f"{int(number, 16) + 0x100:012x}-{epoch}")
    stray.write_bytes(b"landed too late")
    young = json.loads(mount.run("gc", "--sweep", "--json", str(mount.root)).stdout)
    assert young["swept"]["local:store"]["removed"] == 0
    swept = json.loads(mount.run("gc", "--sweep", "--age", "0", "--json", str(mount.root)).stdout)
    assert swept["swept"]["local:store"]["removed"] == 1
    assert stored(mount) == [before]
    mount.remount()
    assert len((mount.bucket / "kept").read_bytes()) == 100_000


def test_gc_without_sweep_lists_nothing(mount: Mount) -> None:
    (mount.bucket / "file").write_bytes(b"x")
    mount.run("flush", str(mount.root))
    mount.run("gc", str(mount.root))
    assert "list" not in mount.status()["locations"][0]["requests"]
