"""Foreign objects become files without moving a byte; what others do to them is noticed, what is done here stays."""

from __future__ import annotations

import errno
import json
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.mount.test_policies import EUROPE, Regions, regions
from tests.support import servers
from tests.support.fixtures import moto_server
from tests.support.mounting import Mount
from tests.support.servers import Server
from tests.support.waiting import eventually

__all__ = ["moto_server", "regions"]

QUICK = ("--watch", "--interval", "1s")


def there(regions: Regions, key: str, data: bytes) -> Path:
    """An object that some other tool stored."""
    path = regions.home / "europe" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def imported(regions: Regions, *options: str, source: str = EUROPE) -> Any:
    return regions.json("import", source, str(regions.root / "photos"), *options)


def requests(mount: Mount, location: str = EUROPE) -> dict[str, int]:
    found: dict[str, int] = next(r["requests"] for r in mount.status()["locations"] if r["id"] == location)
    return found


def problems(answer: Any) -> dict[str, str]:
    return {problem["name"]: problem["problem"] for problem in answer["problems"]}


def followed(mount: Mount) -> Any:
    return mount.status()["follows"][0]


def readable(path: Path) -> bytes | None:
    """The bytes; None while the object is another one than the file's."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def is_consistent(mount: Mount) -> bool:
    return "consistent" in mount.run("fsck", str(mount.root)).stdout


def test_objects_are_files_with_their_bytes_and_times_and_nothing_moves(regions: Regions) -> None:
    data = os.urandom(5 * 2**20 + 17)
    big = there(regions, "2024/summer/big.raw", data)
    os.utime(big, ns=(0, 1_600_000_000_123_456_789))
    there(regions, "2024/note", b"note")
    there(regions, "empty", b"")
    answer = imported(regions)
    assert (answer["added"], answer["bytes"], answer["problems"]) == (3, len(data) + 4, [])
    assert requests(regions) == {"list": 1}
    file = regions.root / "photos/2024/summer/big.raw"
    status = file.stat()
    assert (status.st_size, status.st_mtime_ns, status.st_mode & 0o777) == (
        len(data),
        1_600_000_000_123_456_789,
        0o644,
    )
    assert requests(regions) == {"list": 1}
    assert regions.locations(file) == {EUROPE}
    assert file.read_bytes() == data
    assert (regions.root / "photos/2024/note").read_bytes() == b"note"
    assert (regions.root / "photos/empty").read_bytes() == b""
    assert (regions.root / "photos/2024").stat().st_mode & 0o777 == 0o755
    assert is_consistent(regions)
    regions.cool_down()
    assert file.read_bytes() == data


def test_only_what_lies_under_the_prefix_is_imported_with_keys_that_begin_behind_it(regions: Regions) -> None:
    there(regions, "in/a/b", b"1")
    there(regions, "inside", b"2")
    imported(regions, source=f"{EUROPE}/in")
    assert sorted(os.listdir(regions.root / "photos")) == ["a"]
    assert (regions.root / "photos/a/b").read_bytes() == b"1"


def test_checksums_are_learned_with_the_first_whole_read_and_hold_after_a_restart(regions: Regions) -> None:
    there(regions, "file", os.urandom(3_000_000))
    imported(regions)
    content = (regions.root / "photos/file").read_bytes()
    regions.remount()
    assert (regions.root / "photos/file").read_bytes() == content
    assert requests(regions).get("get", 0) == 0


def test_importing_again_takes_what_is_new_and_what_changed_and_lets_the_rest_be(regions: Regions) -> None:
    there(regions, "same", b"same")
    there(regions, "other", b"before")
    imported(regions)
    photos = regions.root / "photos"
    assert not (photos / "new").exists()  # the kernel knows now that there is none
    assert (photos / "other").read_bytes() == b"before"
    (photos / "other").chmod(0o600)
    there(regions, "new", b"new")
    there(regions, "other", b"after it")
    answer = imported(regions)
    assert [answer[k] for k in ("added", "changed", "removed", "unchanged")] == [1, 1, 0, 1]
    assert (photos / "new").read_bytes() == b"new"
    assert (photos / "other").read_bytes() == b"after it"
    assert (photos / "other").stat().st_mode & 0o777 == 0o600
    assert imported(regions)["unchanged"] == 3
    assert is_consistent(regions)


def test_a_file_that_was_changed_here_is_never_overwritten(regions: Regions) -> None:
    there(regions, "file", b"theirs")
    imported(regions)
    file = regions.root / "photos/file"
    file.write_bytes(b"ours")
    (regions.root / "photos/made").write_bytes(b"made here")
    there(regions, "file", b"theirs, later")
    there(regions, "made", b"made there")
    answer = imported(regions)
    assert "changed here" in problems(answer)["file"]
    assert "made here" in problems(answer)["made"]
    assert file.read_bytes() == b"ours"
    assert (regions.root / "photos/made").read_bytes() == b"made here"


def test_a_file_removed_here_stays_away_and_its_object_stays_there(regions: Regions) -> None:
    foreign = there(regions, "file", b"theirs")
    changed = there(regions, "changed", b"theirs")
    imported(regions)
    (regions.root / "photos/file").unlink()
    (regions.root / "photos/changed").write_bytes(b"ours")
    regions.run("gc", str(regions.root))
    assert foreign.read_bytes() == changed.read_bytes() == b"theirs"
    assert imported(regions)["added"] == 0
    assert not (regions.root / "photos/file").exists()
    there(regions, "file", b"a new one")
    imported(regions)
    assert (regions.root / "photos/file").read_bytes() == b"a new one"
    assert is_consistent(regions)


def test_with_own_a_file_removed_here_is_removed_there_but_never_what_came_after_it(regions: Regions) -> None:
    foreign, replaced = there(regions, "file", b"theirs"), there(regions, "replaced", b"one")
    imported(regions, "--own")
    (regions.root / "photos/file").unlink()
    regions.run("gc", str(regions.root))
    assert not foreign.exists()
    there(regions, "replaced", b"another")
    assert imported(regions, "--own")["changed"] == 1
    regions.run("gc", str(regions.root))
    assert replaced.read_bytes() == b"another"
    done = regions.run("import", EUROPE, str(regions.root / "photos"), check=False)
    assert done.returncode == 2
    assert "--own" in done.stderr


def test_an_object_changed_behind_our_back_is_an_error_never_mixed_bytes(regions: Regions) -> None:
    there(regions, "file", b"a" * 3_000_000)
    regions.run("bucket", "create", str(regions.root / "photos"), "ttl=none")
    there(regions, "vanishes", b"c" * 100)
    imported(regions)
    photos = regions.root / "photos"
    with open(photos / "file", "rb") as file:
        assert file.read(100) == b"a" * 100
    regions.cool_down()
    there(regions, "file", b"z" * 3_000_000)
    (regions.home / "europe/vanishes").unlink()
    for name in ("file", "vanishes"):
        with pytest.raises(OSError) as caught:
            (photos / name).read_bytes()
        assert caught.value.errno == errno.EIO
    assert "was changed" in regions.log.read_text()
    imported(regions)
    assert (photos / "file").read_bytes() == b"z" * 3_000_000


def test_watching_follows_what_comes_changes_and_goes_across_a_restart(regions: Regions) -> None:
    there(regions, "a/one", b"1")
    imported(regions, *QUICK)
    photos = regions.root / "photos"
    assert not (photos / "a/two").exists()
    there(regions, "a/two", b"2")
    eventually((photos / "a/two").exists, "a new object becomes a file")
    regions.remount()
    there(regions, "a/two", b"two")
    eventually(lambda: readable(photos / "a/two") == b"two", "a changed object")
    (regions.home / "europe/a/one").unlink()
    (regions.home / "europe/a/two").unlink()
    eventually(lambda: not (photos / "a").exists(), "files and their directory go")
    assert followed(regions) | {"last_s": 0} == {
        "bucket": "photos", "kind": "import", "place": EUROPE, "follows": True, "by": "listing",
        "owned": False, "last_s": 0, "cause": "", "waiting": 0, "problems": [],
    }  # fmt: skip
    assert is_consistent(regions)


def test_watching_keeps_a_file_that_was_changed_here_and_whose_object_went(regions: Regions) -> None:
    foreign = there(regions, "file", b"theirs")
    imported(regions, *QUICK)
    file = regions.root / "photos/file"
    file.write_bytes(b"ours")
    foreign.unlink()
    eventually(lambda: followed(regions)["problems"], "the conflict is told")
    assert "changed here" in followed(regions)["problems"][0]["problem"]
    assert file.read_bytes() == b"ours"


def test_a_stopped_watch_asks_for_nothing_more_and_the_files_stay(regions: Regions) -> None:
    there(regions, "file", b"theirs")
    imported(regions, *QUICK)
    eventually(lambda: requests(regions)["list"] >= 2, "the watch lists")
    regions.run("import", "--stop", str(regions.root / "photos"))
    before = requests(regions)
    assert followed(regions)["follows"] is False
    assert (regions.root / "photos/file").read_bytes() == b"theirs"
    regions.remount()
    assert requests(regions).get("list", 0) == 0
    assert before["list"] >= 2


def test_a_location_that_is_away_is_told_and_nothing_is_taken_for_gone(regions: Regions) -> None:
    there(regions, "file", b"theirs")
    imported(regions, *QUICK)
    (regions.home / "europe").rename(regions.home / "away")
    eventually(lambda: followed(regions)["cause"], "the cause is shown")
    assert (regions.root / "photos/file").exists()
    (regions.home / "away").rename(regions.home / "europe")
    eventually(lambda: not followed(regions)["cause"], "it goes on by itself")
    assert (regions.root / "photos/file").read_bytes() == b"theirs"


def test_removing_the_bucket_ends_its_watch(regions: Regions) -> None:
    there(regions, "file", b"theirs")
    imported(regions, *QUICK)
    (regions.root / "photos/file").unlink()
    (regions.root / "photos").rmdir()
    eventually(lambda: not regions.status()["follows"], "nothing is followed any more")


def test_imported_bytes_can_leave_their_location_and_the_foreign_objects_stay(regions: Regions) -> None:
    data = os.urandom(2_500_000)
    foreign = there(regions, "file", data)
    imported(regions)
    regions.run("location", "drain", str(regions.root), EUROPE, "--yes")
    assert EUROPE not in regions.locations(regions.root / "photos/file")
    assert foreign.read_bytes() == data
    foreign.unlink()
    regions.cool_down()
    assert (regions.root / "photos/file").read_bytes() == data


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("nowhere:at-all", "photos"), 3, "begins with no location"),
        ((EUROPE,), 2, "takes LOCATION[/PREFIX] and BUCKET"),
        ((EUROPE, "photos", "--watch", "--interval", "soon"), 2, "--interval soon"),
        ((EUROPE, "photos", "--queue", "http://127.0.0.1:1/1/q"), 2, "only s3"),
        (("--stop", "photos"), 3, "has no import"),
    ],
)
def test_a_wrong_import_is_one_line(
    regions: Regions, arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = regions.run("import", *arguments, "--mount", str(regions.root), check=False)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


# --- S3


class OnS3(Mount):
    """A mount with one S3 bucket beside its own store."""

    server: Server

    def create(self, knobs: Any) -> None:
        super().create(knobs)
        name = f"foreign-{os.urandom(4).hex()}"
        self.bucket_name = name
        self.s3 = self.client("s3")
        self.s3.create_bucket(Bucket=name)
        with self.config.open("a") as config:
            config.write(
                f'[[location]]\nid = "s3:foreign"\nkind = "s3"\nbucket = "{name}"\nregion = "us-east-1"\n'
                f'endpoint = "{self.server.url}"\naccess_key = "{servers.ACCESS_KEY}"\n'
                f'secret_key = "{servers.SECRET_KEY}"\nprefix = "under/"\n'
            )

    def client(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self.server.url, region_name="us-east-1",
            aws_access_key_id=servers.ACCESS_KEY, aws_secret_access_key=servers.SECRET_KEY,
        )  # fmt: skip

    def store(self, key: str, data: bytes = b"x") -> None:
        self.s3.put_object(Bucket=self.bucket_name, Key=f"under/{key}", Body=data)

    def import_(self, *options: str) -> Any:
        return json.loads(
            self.run("import", "s3:foreign", str(self.root / "photos"), *options, "--json").stdout
        )


@pytest.fixture
def on_s3(tmp_path: Path, moto_server: Server) -> Iterator[OnS3]:
    mount = OnS3(tmp_path)
    mount.server = moto_server
    mount.create({})
    try:
        mount.mount()
        yield mount
    finally:
        mount.end()


def test_keys_that_cannot_be_names_are_reported_and_the_others_are_files(on_s3: OnS3) -> None:
    bad = ("a//b", "./dot", "up/../x", "n" * 256, "/leading")
    for key in (*bad, "good", "folder/", "full/marker/"):
        on_s3.store(key, b"" if key == "folder/" else b"data")
    on_s3.store("both", b"file")
    on_s3.store("both/below", b"below")
    answer = on_s3.import_()
    assert set(problems(answer)) == {*bad, "both/below", "full/marker/"}
    assert answer["added"] == 2
    photos = on_s3.root / "photos"
    assert sorted(os.listdir(photos)) == ["both", "folder", "full", "good"]
    assert os.listdir(photos / "folder") == []
    assert (photos / "both").read_bytes() == b"file"


def test_importing_costs_one_list_for_each_thousand_objects(on_s3: OnS3) -> None:
    for number in range(1100):
        on_s3.store(f"many/{number:04d}")
    assert on_s3.import_()["added"] == 1100
    assert requests(on_s3, "s3:foreign") == {"list": 2}
    assert len(os.listdir(on_s3.root / "photos/many")) == 1100


def test_the_bytes_of_s3_are_asked_for_by_their_etag(on_s3: OnS3) -> None:
    on_s3.store("file", b"before")
    on_s3.store("fine", b"fine")
    on_s3.import_()
    on_s3.store("file", b"behind")
    with pytest.raises(OSError) as caught:
        (on_s3.root / "photos/file").read_bytes()
    assert caught.value.errno == errno.EIO
    assert (on_s3.root / "photos/fine").read_bytes() == b"fine"


def test_a_queue_of_notifications_is_followed_without_any_listing(on_s3: OnS3) -> None:
    sqs = on_s3.client("sqs")
    queue = sqs.create_queue(QueueName=on_s3.bucket_name)["QueueUrl"]
    on_s3.store("before", b"0")
    on_s3.import_("--queue", queue)
    photos = on_s3.root / "photos"

    def tell(event: str, key: str) -> None:
        name = urllib.parse.quote_plus(f"under/{key}", safe="/")
        record = {"eventName": event, "s3": {"bucket": {"name": on_s3.bucket_name}, "object": {"key": name}}}
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"Records": [record]}))

    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"Event": "s3:TestEvent"}))
    on_s3.store("dir/a name", b"1")
    tell("ObjectCreated:Put", "dir/a name")
    eventually((photos / "dir/a name").exists, "a created object")
    assert (photos / "dir/a name").read_bytes() == b"1"
    on_s3.remount()
    on_s3.s3.delete_object(Bucket=on_s3.bucket_name, Key="under/dir/a name")
    tell("ObjectRemoved:Delete", "dir/a name")
    tell("ObjectCreated:Put", "dir/a name")  # late: what is true now counts
    eventually(lambda: not (photos / "dir").exists(), "a removed object")
    assert (photos / "before").read_bytes() == b"0"
    assert "list" not in requests(on_s3, "s3:foreign")
    on_s3.run("import", "--stop", str(photos))


def test_notifications_of_the_server_itself_are_understood(on_s3: OnS3) -> None:
    sqs = on_s3.client("sqs")
    queue = sqs.create_queue(QueueName=f"own-{on_s3.bucket_name}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    on_s3.s3.put_bucket_notification_configuration(
        Bucket=on_s3.bucket_name,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]
        },
    )
    on_s3.import_("--queue", queue)
    on_s3.store("ünï code", b"1")
    eventually((on_s3.root / "photos/ünï code").exists, "the server tells of the object")
    on_s3.run("import", "--stop", str(on_s3.root / "photos"))
