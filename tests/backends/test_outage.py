"""Claims about a real server that is killed and comes back, and about the test servers themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from gsfs.backends.base import BytesSource
from gsfs.backends.checksum import crc32c
from gsfs.backends.health import HealthState
from gsfs.backends.registry import open_location
from gsfs.errors import BackendError
from tests.backends.joined import make_bucket
from tests.support import locations, servers

DATA = bytes(range(256)) * 1000
SOURCE = BytesSource(DATA, crc32c(DATA))


@pytest.mark.slow
def test_work_resumes_by_itself_when_a_killed_server_is_back(tmp_path: Path) -> None:
    port = servers.free_port()

    async def before(url: str) -> None:
        location = open_location(locations.s3_spec("s3", url, "gsfs-outage"))
        await location.put("old", SOURCE)
        await location.aclose()

    async def during(url: str) -> None:
        spec = locations.s3_spec("s3", url, "gsfs-outage", breaker_failures=3, breaker_longest_pause_s=2)
        location = open_location(spec)
        began = time.monotonic()
        with pytest.raises(BackendError):
            await location.get_range("old", 0, 10, deadline_s=2)
        assert time.monotonic() - began < 3
        assert location.health.state is HealthState.DOWN
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_comes_back, tmp_path, port)
            answer = await location.get_range("old", 0, len(DATA), patient=True, deadline_s=60)
            nursery.cancel_scope.cancel()
        assert answer == DATA
        assert location.health.state is HealthState.OK
        await location.aclose()

    with servers.seaweedfs(tmp_path, port) as server:
        make_bucket(locations.s3_spec("s3", server.url, "gsfs-outage"))
        trio.run(before, server.url)
        server.kill()
        trio.run(during, server.url)


async def _comes_back(folder: Path, port: int) -> None:
    """The server again, on the same port with the same data, until cancelled."""
    with servers.seaweedfs(folder, port):
        await trio.sleep_forever()


PARENT = """
import os, signal, sys, tempfile
from pathlib import Path
from tests.support import servers
with servers.fake_gcs(Path(tempfile.mkdtemp())) as server:
    print(server.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_test_server_dies_with_the_test_run() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT], cwd=servers.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < until, "the server outlived its test run"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
