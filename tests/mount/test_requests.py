"""Requests are money: what the main workloads ask of a location, counted at the location itself."""

from __future__ import annotations

import math
import subprocess
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.clouds import S3, Clouds, clouds
from tests.support.mounting import CAN_MOUNT
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = [pytest.mark.skipif(not CAN_MOUNT, reason="needs root and /dev/fuse"), pytest.mark.slow]

MIB: Final = 1 << 20
SHIP_S: Final = 1.0
FEW: Final = 8
"""Requests beside those that data costs: the namespace's own shipments, an idle segment sealed early."""
UNPACKED: Final = 5_000


@pytest.fixture
def cloud(tmp_path: Path, seaweedfs_server: Server) -> Iterator[Clouds]:
    """One S3 location; segments of the usual size, sealed as usual; the namespace is shipped every second."""
    usual = {"segment_size": "16MiB", "seal_idle_s": 2.0}
    knobs = {"namespace": {"ship_interval_s": SHIP_S}, "transfer": usual, "cache": {"size": "256MiB"}}
    with clouds(tmp_path / "gsfs", {S3: seaweedfs_server.url}, knobs, timeout_s=30.0) as mount:
        mount.make_buckets()
        yield mount


@pytest.fixture
def bucket(cloud: Clouds) -> Path:
    return cloud.root / "s3"


class Bill:
    """Requests by kind, as the location saw them."""

    def __init__(self, cloud: Clouds) -> None:
        self._requests = cloud.providers[0].proxy.requests
        self._before = Counter(self._requests)

    def so_far(self) -> Counter[str]:
        return Counter(self._requests) - self._before


def settled(cloud: Clouds) -> None:
    """Everything is where it belongs, and what is booked of it is shipped."""
    cloud.flush()
    pause = threading.Event()

    def quiet() -> bool:
        bill = Bill(cloud)
        pause.wait(1.5 * SHIP_S)
        return not bill.so_far()

    eventually(quiet, "no request for more than a shipping interval")


def unpack(bucket: Path, archive: Path) -> int:
    """5,000 small files; their bytes."""
    tree = archive.with_suffix("")
    size = 0
    for number in range(UNPACKED):
        path = tree / f"d{number % 50}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = bytes([number % 256]) * (200 + number * 37 % 8000)
        path.write_bytes(data)
        size += len(data)
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, "tree")
    subprocess.run(["tar", "xf", archive, "-C", bucket], check=True)
    return size


def test_unpacking_5000_small_files_costs_a_put_per_8_mib_and_a_few(
    cloud: Clouds, bucket: Path, tmp_path: Path
) -> None:
    settled(cloud)
    bill = Bill(cloud)
    size = unpack(bucket, tmp_path / "archive.tar")
    cloud.flush()
    requests = bill.so_far()
    print(f"unpack {UNPACKED} files, {size / MIB:.1f} MiB: {dict(requests)}")
    assert set(requests) == {"PUT"}
    assert requests["PUT"] <= math.ceil(size / (8 * MIB)) + FEW


WALKS: Final[dict[str, str]] = {
    "ls -lR": "ls -lR tree",
    "find": "find tree -type f -size +1k -newer /etc/passwd",
    "du": "du -s tree",
    "stat": "stat tree/d1/* >/dev/null",
    "git status": "cd tree && git --no-optional-locks -c safe.directory='*' status --short",
    "getfattr": "getfattr -d -m - -R tree",
    "gsfs status": "true",
}


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "after a remount"])
def test_looking_at_a_tree_costs_nothing(cloud: Clouds, bucket: Path, tmp_path: Path, cold: bool) -> None:
    for number in range(300):
        path = bucket / "tree" / f"d{number % 10}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 3000)
    git = "cd tree && git init -q . && git add . && git -c user.name=n -c user.email=e@x commit -qm m"
    subprocess.run(git, shell=True, cwd=bucket, check=True)
    if cold:
        cloud.cool_down()
        cloud.remount()
    settled(cloud)
    for name, command in WALKS.items():
        bill = Bill(cloud)
        subprocess.run(command, shell=True, cwd=bucket, check=True, stdout=subprocess.DEVNULL)
        cloud.status()
        assert not bill.so_far() or (name == "git status" and cold), name
        if name == "git status" and cold:  # it reads its own index and a few objects of the tree
            assert set(bill.so_far()) <= {"GET"}
            assert bill.so_far()["GET"] <= 4


def test_reading_everything_once_costs_a_get_per_4_mib(cloud: Clouds, bucket: Path) -> None:
    size = 64 * MIB
    (bucket / "large").write_bytes(bytes(size))
    cloud.cool_down()
    settled(cloud)
    bill = Bill(cloud)
    assert len((bucket / "large").read_bytes()) == size
    requests = bill.so_far()
    print(f"read {size / MIB:.0f} MiB once: {dict(requests)}")
    assert set(requests) == {"GET"}
    assert requests["GET"] <= size / (4 * MIB) + 4
    again = Bill(cloud)
    (bucket / "large").read_bytes()
    assert again.so_far()["GET"] == 0


def test_reading_many_small_files_once_costs_less_than_a_get_for_each_mib(
    cloud: Clouds, bucket: Path, tmp_path: Path
) -> None:
    size = unpack(bucket, tmp_path / "archive.tar")
    cloud.cool_down()
    settled(cloud)
    bill = Bill(cloud)
    subprocess.run(
        "cat $(find tree -type f) | wc -c", shell=True, cwd=bucket, check=True, stdout=subprocess.DEVNULL
    )
    requests = bill.so_far()
    print(f"read {UNPACKED} files, {size / MIB:.1f} MiB once: {dict(requests)}")
    assert set(requests) == {"GET"}
    assert requests["GET"] <= math.ceil(size / MIB) + FEW


def test_an_idle_mount_makes_no_request(cloud: Clouds, bucket: Path) -> None:
    (bucket / "file").write_bytes(b"x" * 100_000)
    settled(cloud)
    bill = Bill(cloud)
    threading.Event().wait(7 * SHIP_S)  # also the movers that look around every five seconds
    assert not bill.so_far()


CHANGES: Final[dict[str, Callable[[Path], object]]] = {
    "rename a tree": lambda bucket: (bucket / "tree").rename(bucket / "other"),
    "chmod": lambda bucket: (bucket / "tree").chmod(0o700),
    "make a directory": lambda bucket: (bucket / "new").mkdir(),
    "remove a file": lambda bucket: (bucket / "tree/f1").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_names_costs_one_shipment_of_the_namespace(
    cloud: Clouds, bucket: Path, change: str
) -> None:
    (bucket / "tree").mkdir()
    for number in range(20):
        (bucket / "tree" / f"f{number}").write_bytes(b"x" * 10_000)
    settled(cloud)
    bill = Bill(cloud)
    CHANGES[change](bucket)
    eventually(bill.so_far, "the shipment")
    settled(cloud)
    print(f"{change}: {dict(bill.so_far())}")
    assert set(bill.so_far()) == {"PUT"}
    assert bill.so_far()["PUT"] <= 2
