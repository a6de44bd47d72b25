"""One mount over emulators of three providers on bad days: nothing is lost, nothing is wrong, nothing hangs.

``GSFS_SOAK_MINUTES`` makes each random test as long; by default it is seconds.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from gsfs.backends.health import HealthState
from tests.support.clouds import AZURE, GCS, S3, SECRETS, Clouds, Provider, clouds, same
from tests.support.faultproxy import Exchange, Fault
from tests.support.mounting import CAN_MOUNT
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="needs root and /dev/fuse")

DEADLINE_S: Final = 10.0
"""[mount] read_deadline_s of these mounts."""
SLACK_S: Final = 5.0
"""For two busy cores."""
RANDOM_S: Final = float(os.environ.get("GSFS_SOAK_MINUTES", "0")) * 60 or 3.0
RATE: Final = 0.25
CONNECTIONS: Final = "/sys/fs/fuse/connections"
TROUBLE: Final = (HealthState.DEGRADED, HealthState.DOWN)
Urls = dict[str, str]


@pytest.fixture
def urls(seaweedfs_server: Server, azurite_server: Server, fake_gcs_server: Server) -> Urls:
    return {S3: seaweedfs_server.url, AZURE: azurite_server.url, GCS: fake_gcs_server.url}


@pytest.fixture
def cloud(tmp_path: Path, urls: Urls) -> Iterator[Clouds]:
    """Three providers, one bucket at each."""
    with clouds(tmp_path / "gsfs", urls) as mount:
        yield mount


# --- random operations under faults


def carries_an_object(exchange: Exchange) -> bool:
    """Bytes of an object go one way or the other; what else a request says is protected by TLS alone."""
    ranged = exchange.header("range") or exchange.header("x-ms-range")
    return (
        bool(ranged)
        if exchange.method == "GET"
        else len(exchange.body) > 4000 and "delete" not in exchange.target
    )


def anything(_exchange: Exchange) -> bool:
    return True


GROUPS: Final[dict[str, tuple[Callable[[Exchange], bool], tuple[Fault, ...]]]] = {
    "errors": (anything, (Fault.ERROR_500, Fault.ERROR_503, Fault.ERROR_429)),
    "refusals": (anything, (Fault.ERROR_403,)),
    "slow and stalled": (anything, (Fault.SLOW, Fault.STALL, Fault.STALL_BODY)),
    "broken off": (anything, (Fault.RESET, Fault.RESET_BODY, Fault.TRUNCATE)),
    "damaged": (carries_an_object, (Fault.CORRUPT_ANSWER, Fault.CORRUPT_UPLOAD, Fault.SHORTEN)),
    "landed, then failed": (anything, (Fault.LANDED_500, Fault.LANDED_RESET)),
}


def spoil(providers: list[Provider], group: str, rng: random.Random) -> None:
    applies, faults = GROUPS[group]
    for provider in providers:
        for fault in faults:
            seed = random.Random(rng.random())
            share = RATE / len(faults)
            provider.proxy.inject(
                fault,
                10**9,
                lambda exchange, seed=seed, share=share: applies(exchange) and seed.random() < share,
            )


class Model:
    """Random operations on a directory and, the same, on a reference beside it."""

    def __init__(self, real: Path, reference: Path, rng: random.Random) -> None:
        self.real, self.reference, self.rng = real, reference, rng
        reference.mkdir(parents=True)
        self.longest_s = 0.0
        self.reads = self.unreadable = 0

    def step(self) -> None:
        names = sorted(path.name for path in self.reference.iterdir())
        choice = self.rng.random()
        if choice < 0.45 or len(names) < 3:
            self.write(f"f{self.rng.randrange(30)}")
        elif choice < 0.8:
            self.read(self.rng.choice(names))
        elif choice < 0.9:
            name = self.rng.choice(names)
            (self.real / name).unlink()
            (self.reference / name).unlink()
        else:
            old, new = self.rng.choice(names), f"f{self.rng.randrange(30)}"
            (self.real / old).rename(self.real / new)
            (self.reference / old).rename(self.reference / new)

    def write(self, name: str) -> None:
        """A new content, or a change in the middle of what is there."""
        data = self.rng.randbytes(self.rng.choice((100, 5_000, 300_000)))
        keep = (self.reference / name).exists() and self.rng.random() < 0.5
        at = self.rng.randrange(200_000) if keep else 0
        for folder in (self.real, self.reference):
            with (folder / name).open("r+b" if keep else "wb") as file:
                file.seek(at)
                file.write(data)

    def read(self, name: str) -> None:
        """Right bytes, or EIO, in time."""
        self.reads += 1
        began = time.monotonic()
        try:
            found = (self.real / name).read_bytes()
        except OSError as error:
            assert error.errno == errno.EIO, error
            self.unreadable += 1
        else:
            assert found == (self.reference / name).read_bytes(), f"{name}: wrong bytes"
        self.longest_s = max(self.longest_s, time.monotonic() - began)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_random_operations_lose_no_byte_read_no_wrong_byte_leave_no_orphan_and_never_hang(
    cloud: Clouds, tmp_path: Path, group: str
) -> None:
    rng = random.Random(group)
    buckets = cloud.make_buckets()
    models = [Model(path, tmp_path / "reference" / path.name, rng) for path in buckets.values()]
    end = time.monotonic() + RANDOM_S
    spoil(list(cloud.providers), group, rng)
    while time.monotonic() < end:
        for model in models:
            for _ in range(20):
                model.step()
            cloud.run("evict", str(model.real))
    for provider in cloud.providers:
        provider.proxy.calm()
    cloud.cool_down()
    assert same(cloud.root, tmp_path / "reference") == ""
    assert max(model.longest_s for model in models) < DEADLINE_S + SLACK_S
    injected = sum(
        (provider.proxy.injected for provider in cloud.providers),
        start=type(cloud.providers[0].proxy.injected)(),
    )
    assert set(injected) <= set(GROUPS[group][1]) and injected
    cloud.run("gc", str(cloud.root))
    assert "consistent" in cloud.run("fsck", str(cloud.root)).stdout
    cloud.unmount()
    named = cloud.named()
    for provider in cloud.providers:
        assert provider.keys() == named[provider.id], provider.id


# --- outages


def make_tree(folder: Path, files: int, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(files):
        path = folder / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((500, 20_000, 200_000))))


def in_trouble(cloud: Clouds, location: str) -> bool:
    return cloud.state(location)["state"] in TROUBLE


def test_an_outage_during_rsync_is_shown_and_ends_with_every_byte_at_its_location(
    cloud: Clouds, tmp_path: Path
) -> None:
    tree, buckets, azure = tmp_path / "tree", cloud.make_buckets(), cloud.providers[1]
    make_tree(tree, 120, 1)
    copies = [subprocess.Popen(["rsync", "-a", f"{tree}/", str(path)]) for path in buckets.values()]
    azure.go_down()
    assert [copy.wait(60) for copy in copies] == [0, 0, 0]
    row = eventually(lambda: in_trouble(cloud, AZURE) and cloud.state(AZURE), "the outage in gsfs status")
    assert row["cause"] and row["since_s"] <= time.time()
    shown = cloud.run("status", str(cloud.config)).stdout
    assert "down for" in shown or "degraded for" in shown
    cloud.run("flush", str(buckets[S3]))  # the others do not wait
    cloud.run("flush", str(buckets[GCS]))
    assert cloud.state(S3)["state"] == cloud.state(GCS)["state"] == HealthState.OK
    for path in buckets.values():
        assert same(tree, path) == ""  # the cache has what the outage keeps from its location
    azure.come_back()
    eventually(lambda: cloud.status()["dirty_bytes"] == 0, "everything at its location, by itself")
    assert cloud.state(AZURE)["state"] == HealthState.OK
    cloud.cool_down()
    for path in buckets.values():
        assert same(tree, path) == ""


def test_what_lives_only_at_a_location_that_is_down_fails_with_eio_within_the_deadline(cloud: Clouds) -> None:
    buckets = cloud.make_buckets()
    content = os.urandom(3_000_000)
    for path in buckets.values():
        (path / "file").write_bytes(content)
        (path / "cached").write_bytes(content)
    cloud.cool_down()
    for path in buckets.values():
        (path / "cached").read_bytes()
    cloud.providers[0].go_down()
    began = time.monotonic()
    with pytest.raises(OSError) as caught:
        (buckets[S3] / "file").read_bytes()
    assert caught.value.errno == errno.EIO
    assert time.monotonic() - began < DEADLINE_S + SLACK_S
    assert (buckets[S3] / "cached").read_bytes() == content
    assert (buckets[GCS] / "file").read_bytes() == content
    cloud.providers[0].come_back()
    eventually(lambda: readable(buckets[S3] / "file", content), "the file again")


def readable(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def test_a_short_outage_is_waited_out_by_whoever_reads(cloud: Clouds) -> None:
    path = cloud.make_buckets()[S3] / "file"
    path.write_bytes(content := os.urandom(2_000_000))
    cloud.cool_down()
    cloud.providers[0].go_down()
    back = threading.Timer(2.0, cloud.providers[0].come_back)
    back.start()
    try:
        assert path.read_bytes() == content
    finally:
        back.join()


@pytest.mark.parametrize("silent", [False, True], ids=["that refuses", "that stalls"])
def test_what_is_replicated_is_read_past_a_location_that_is_down(cloud: Clouds, silent: bool) -> None:
    bucket, s3 = cloud.make_buckets()[S3], cloud.providers[0]
    cloud.run("bucket", "set", str(bucket), "durability=remote:2")
    (bucket / "file").write_bytes(content := os.urandom(3_000_000))
    cloud.cool_down()
    if silent:
        s3.proxy.inject(Fault.STALL, 10**6)
    else:
        s3.go_down()
    began = time.monotonic()
    assert (bucket / "file").read_bytes() == content
    assert time.monotonic() - began < DEADLINE_S


@pytest.fixture
def fusectl() -> Iterator[None]:
    """Where the kernel's limits of a mount are set; systemd mounts it, a container may lack it."""
    if os.path.ismount(CONNECTIONS):
        yield
        return
    subprocess.run(["mount", "-t", "fusectl", "none", CONNECTIONS], check=True)
    yield
    subprocess.run(["umount", "-l", CONNECTIONS], check=False)


def test_readers_of_a_location_that_hangs_do_not_slow_those_of_another(fusectl: None, cloud: Clouds) -> None:
    buckets, s3 = cloud.make_buckets(), cloud.providers[0]
    for path in buckets.values():
        for number in range(24):
            (path / f"f{number}").write_bytes(os.urandom(200_000))
    cloud.cool_down()
    s3.proxy.inject(Fault.STALL, 10**6)
    stuck = [
        subprocess.Popen(["cat", buckets[S3] / f"f{n}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for n in range(24)
    ]
    try:
        eventually(lambda: s3.proxy.injected[Fault.STALL] > 2, "readers that hang")
        began = time.monotonic()
        for number in range(24):
            (buckets[GCS] / f"f{number}").read_bytes()
            (buckets[GCS] / f"new{number}").write_bytes(b"x" * 1000)
        assert time.monotonic() - began < DEADLINE_S / 2
        assert all(reader.wait(DEADLINE_S * 2 + SLACK_S) != 0 for reader in stuck)
    finally:
        for reader in stuck:
            reader.kill()
            reader.wait()


def test_writes_go_on_until_the_cache_is_full_and_others_still_find_room(tmp_path: Path, urls: Urls) -> None:
    with clouds(
        tmp_path / "gsfs", urls, {"cache": {"size": "16MiB"}, "transfer": {"full_wait_s": 8.0}}
    ) as cloud:
        buckets, azure = cloud.make_buckets(), cloud.providers[1]
        azure.go_down()
        written, piece = 0, os.urandom(1 << 20)
        with pytest.raises(OSError) as caught:
            for number in range(20):
                (buckets[AZURE] / f"f{number}").write_bytes(piece)
                written += 1
        assert caught.value.errno == errno.ENOSPC
        assert written >= 12
        for number in range(20):
            (buckets[S3] / f"f{number}").write_bytes(piece)
        azure.come_back()
        eventually(lambda: cloud.status()["dirty_bytes"] == 0, "everything at its location, by itself")
        cloud.cool_down()
        for number in range(written):
            assert (buckets[AZURE] / f"f{number}").read_bytes() == piece
        for number in range(20):
            assert (buckets[S3] / f"f{number}").read_bytes() == piece


def test_a_mount_starts_while_a_location_is_down_and_goes_on_where_it_was(cloud: Clouds) -> None:
    buckets, gcs = cloud.make_buckets(), cloud.providers[2]
    gcs.go_down()
    (buckets[GCS] / "file").write_bytes(content := os.urandom(1_500_000))
    cloud.unmount("--no-drain")
    cloud.mount()
    assert (buckets[GCS] / "file").read_bytes() == content
    gcs.come_back()
    eventually(lambda: cloud.status()["dirty_bytes"] == 0, "everything at its location, by itself")
    cloud.cool_down()
    assert (buckets[GCS] / "file").read_bytes() == content


# --- secrets, and leaving a provider


def test_secrets_are_in_no_log_no_answer_and_no_process_title(cloud: Clouds) -> None:
    buckets = cloud.make_buckets()
    for fault in (Fault.ERROR_403, Fault.ERROR_500, Fault.RESET, Fault.CORRUPT_UPLOAD):
        for provider in cloud.providers:
            provider.proxy.inject(fault, 3)
    for provider in cloud.providers:
        (buckets[provider.id] / "file").write_bytes(os.urandom(500_000))
    eventually(lambda: all(sum(p.proxy.injected.values()) >= 4 for p in cloud.providers), "some trouble")
    text = cloud.printed()
    assert [secret for secret in SECRETS if secret in text] == []
    assert "signature=" not in text.lower() and "sig=" not in text


def test_a_provider_is_left_for_another_while_writes_go_on(cloud: Clouds, tmp_path: Path) -> None:
    bucket = cloud.make_buckets()[AZURE]
    make_tree(tmp_path / "tree", 60, 2)
    shutil.copytree(tmp_path / "tree", bucket / "before")
    cloud.flush()
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.is_set():
            (bucket / f"during{len(written)}").write_bytes(random.Random(len(written)).randbytes(30_000))
            written.append(1)
            stop.wait(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        cloud.run("location", "drain", str(cloud.root), AZURE, "--to", GCS, "--yes")
    finally:
        stop.set()
        writer.join()
    cloud.cool_down()
    cloud.run("gc", str(cloud.root))
    assert cloud.providers[1].keys() == set()
    cloud.providers[1].go_down()
    assert same(tmp_path / "tree", bucket / "before") == ""
    for number in range(len(written)):
        assert (bucket / f"during{number}").read_bytes() == random.Random(number).randbytes(30_000)
