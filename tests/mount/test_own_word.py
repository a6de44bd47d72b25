"""What users ask of a mount beyond files: keep this here, fetch that, record what happens."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gsfs.model import MIB
from tests.support.mounting import Mount, mounted_namespace


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with mounted_namespace(tmp_path) as made:
        yield made


def answer(mount: Mount, *arguments: str) -> Any:
    return json.loads(mount.run(*arguments, "--json").stdout)


def test_pin_warm_and_evict_do_what_they_say_and_a_pin_survives_a_restart(mount: Mount) -> None:
    best, rest = mount.bucket / "best", mount.bucket / "rest"
    best.mkdir()
    (best / "a").write_bytes(os.urandom(MIB))
    mount.run("flush", str(mount.root))
    rest.write_bytes(os.urandom(MIB))
    mount.run("flush", str(mount.root))
    assert answer(mount, "pin", str(best))["pinned_bytes"] == MIB
    mount.remount()
    assert os.getxattr(best / "a", "user.gsfs.pinned") == b"1"
    assert os.getxattr(rest, "user.gsfs.pinned") == b"0"
    assert answer(mount, "evict", str(mount.bucket)) == {"evicted_bytes": MIB, "kept_objects": {"pinned": 1}}
    assert answer(mount, "warm", str(mount.bucket)) == {"fetched_bytes": MIB}
    os.setxattr(rest, "user.gsfs.pinned", b"1")
    os.setxattr(best / "a", "user.gsfs.pinned", b"0")
    assert answer(mount, "evict", str(mount.bucket)) == {"evicted_bytes": MIB, "kept_objects": {"pinned": 1}}
    assert os.listxattr(rest) == []
    with pytest.raises(OSError) as caught:
        os.setxattr(rest, "user.gsfs.pinned", b"perhaps")
    assert caught.value.errno == errno.EINVAL
    assert "consistent" in mount.run("fsck", str(mount.root)).stdout


def test_a_recorded_trace_holds_every_request_no_name_and_replays(mount: Mount, tmp_path: Path) -> None:
    trace = tmp_path / "week.trace"
    mount.run("trace", "start", str(mount.root), str(trace))
    assert mount.run("trace", "start", str(mount.root), str(trace), check=False).returncode == 4
    for number in range(4):
        (mount.bucket / f"secret-{number}").write_bytes(bytes(1000 + number))
    mount.run("evict", str(mount.bucket))
    (mount.bucket / "secret-1").rename(mount.bucket / "renamed")
    (mount.bucket / "secret-0").unlink()
    told = answer(mount, "trace", "stop", str(mount.root))
    text = trace.read_text()
    rows = [line.split(",") for line in text.splitlines()[2:]]
    assert told["requests"] == len(rows) == 5
    assert [(row[1], row[3]) for row in rows] == [
        *(("put", str(1000 + number)) for number in range(4)),
        ("delete", "0"),
    ]
    assert rows[4][2] == rows[0][2] and len({row[2] for row in rows}) == 4
    assert "secret" not in text and "bucket" not in text.partition("\n")[2].partition("\n")[2]
    assert trace.stat().st_mode & 0o077 == 0
    report = answer(
        mount, "simulate", str(trace), "--regions", "aws:us-east-1,aws:us-west-2", "--policy", "t_even"
    )
    assert report
    assert mount.run("trace", "stop", str(mount.root), check=False).returncode == 3
    inside = mount.run("trace", "start", str(mount.root), str(mount.bucket / "t"), check=False)
    assert inside.returncode == 2
