"""Files are plain objects at another location, written once each, and kept current where that is asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.mount.test_import import is_consistent, problems, requests
from tests.mount.test_policies import EAST, EUROPE, Regions, regions
from tests.support.waiting import eventually

__all__ = ["regions"]

TARGET = f"{EUROPE}/copy"


def exported(regions: Regions, *options: str, target: str = TARGET) -> Any:
    return regions.json("export", str(regions.bucket), target, *options)


def objects(regions: Regions) -> dict[str, bytes]:
    """Plain objects under the prefix by the path behind it."""
    top = regions.home / "europe" / "copy"
    return {str(f.relative_to(top)): f.read_bytes() for f in top.rglob("*") if f.is_file()}


def files(top: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(top)): f.read_bytes() for f in top.rglob("*") if f.is_file() and not f.is_symlink()
    }


def is_current(regions: Regions) -> bool:
    return objects(regions) == files(regions.bucket)


def state(regions: Regions) -> Any:
    return regions.status()["follows"][0]


def test_files_are_objects_whose_keys_are_their_paths(regions: Regions) -> None:
    (regions.bucket / "a/b").mkdir(parents=True)
    (regions.bucket / "a/b/small").write_bytes(b"small")
    (regions.bucket / "empty").write_bytes(b"")
    (regions.bucket / "ünï code").write_bytes(b"u")
    (regions.bucket / "large").write_bytes(os.urandom(12 * 2**20 + 5))
    with open(regions.bucket / "sparse", "wb") as sparse:
        sparse.truncate(3_000_000)
    answer = exported(regions)
    assert (answer["added"], answer["problems"]) == (5, [])
    assert is_current(regions)
    assert not list((regions.home / "cache/export").iterdir())


def test_exporting_again_writes_what_changed_and_asks_for_nothing_else(regions: Regions) -> None:
    for number in range(20):
        (regions.bucket / f"f{number}").write_bytes(str(number).encode())
    exported(regions)
    assert requests(regions) == {"put": 20}
    (regions.bucket / "f3").write_bytes(b"changed")
    (regions.bucket / "f4").unlink()
    answer = exported(regions)
    assert [answer[k] for k in ("added", "changed", "removed", "unchanged")] == [0, 1, 0, 18]
    assert requests(regions) == {"put": 21}
    assert objects(regions)["f3"] == b"changed"
    assert objects(regions)["f4"] == b"4"  # an export that does not follow deletes nothing
    regions.remount()
    assert exported(regions)["unchanged"] == 19
    assert requests(regions) == {}


def test_what_no_object_can_be_is_reported(regions: Regions) -> None:
    (regions.bucket / "link").symlink_to("file")
    os.mkfifo(regions.bucket / "fifo")
    (regions.bucket / "file").write_bytes(b"1")
    os.close(os.open(os.fsencode(regions.bucket) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    answer = exported(regions)
    found = problems(answer)
    assert "symbolic link" in found["link"]
    assert "special file" in found["fifo"]
    assert "not UTF-8" in found[os.fsdecode(b"\xff")]
    assert answer["added"] == 1


def test_a_followed_export_is_current_soon_after_each_close(regions: Regions) -> None:
    (regions.bucket / "before").write_bytes(b"0")
    exported(regions, "--follow")
    assert is_current(regions)
    (regions.bucket / "d").mkdir()
    with open(regions.bucket / "d/new", "wb") as file:
        file.write(b"first")
        file.flush()
        (regions.bucket / "other").write_bytes(b"closed")
        eventually(lambda: "other" in objects(regions), "a closed file is there", 15)
        assert "d/new" not in objects(regions)  # not before it is closed
        file.write(b" and last")
    eventually(lambda: is_current(regions), "new files", 15)
    (regions.bucket / "before").write_bytes(b"changed")
    os.truncate(regions.bucket / "other", 3)
    eventually(lambda: is_current(regions), "changed files", 15)
    assert requests(regions)["put"] == 5
    assert requests(regions).keys() == {"put"}


def test_deletions_and_renames_of_files_and_trees_are_mirrored(regions: Regions) -> None:
    tree = regions.bucket / "tree"
    (tree / "deep/er").mkdir(parents=True)
    for name in ("one", "deep/two", "deep/er/three", "deep/er/four"):
        (tree / name).write_bytes(name.encode())
    (regions.bucket / "file").write_bytes(b"f")
    exported(regions, "--follow")
    (tree / "deep").rename(regions.bucket / "moved")
    (regions.bucket / "moved/er/four").unlink()
    (regions.bucket / "file").rename(tree / "one")
    eventually(lambda: is_current(regions), "renames", 15)
    assert set(objects(regions)) == {"tree/one", "moved/two", "moved/er/three"}
    (regions.bucket / "moved/er/three").write_bytes(b"later")
    os.link(regions.bucket / "moved/two", regions.bucket / "linked")
    eventually(lambda: is_current(regions), "files in a moved directory", 15)
    shutil.rmtree(regions.bucket / "moved")
    (regions.bucket / "moved").write_bytes(b"a file now")
    eventually(lambda: is_current(regions), "a tree that went", 15)
    assert is_consistent(regions)


def test_a_followed_export_catches_up_after_a_kill(regions: Regions) -> None:
    for number in range(5):
        (regions.bucket / f"f{number}").write_bytes(b"before")
    exported(regions, "--follow")
    (regions.home / "europe").rename(
        regions.home / "away"
    )  # so that the change is not exported before the end
    (regions.bucket / "f1").write_bytes(b"changed")
    (regions.bucket / "f2").unlink()
    with open(regions.bucket / "f3", "ab") as file:
        os.fsync(file.fileno())
    eventually(lambda: state(regions)["cause"], "the trouble is told")
    regions.kill()
    (regions.home / "away").rename(regions.home / "europe")
    regions.mount()
    eventually(lambda: is_current(regions), "what was missed")
    eventually(lambda: not state(regions)["cause"] and state(regions)["last_s"], "status says so")
    assert requests(regions)["put"] == 1


def test_a_location_that_is_away_is_caught_up_with_when_it_is_back(regions: Regions) -> None:
    exported(regions, "--follow")
    (regions.home / "europe").rename(regions.home / "away")
    (regions.bucket / "file").write_bytes(b"1")
    eventually(lambda: state(regions)["cause"], "the cause is shown")
    assert state(regions)["waiting"] == 1
    (regions.home / "away").rename(regions.home / "europe")
    eventually(lambda: is_current(regions), "it goes on by itself", 100)


def test_a_stopped_export_writes_nothing_more_and_its_objects_stay(regions: Regions) -> None:
    (regions.bucket / "file").write_bytes(b"1")
    exported(regions, "--follow")
    regions.run("export", "--stop", str(regions.bucket))
    (regions.bucket / "file").write_bytes(b"2")
    (regions.bucket / "new").write_bytes(b"3")
    regions.remount()
    assert state(regions)["follows"] is False
    assert objects(regions) == {"file": b"1"}
    answer = exported(regions, "--follow")
    assert (answer["added"], answer["changed"]) == (1, 1)
    assert is_current(regions)


def test_a_bucket_is_exported_to_several_places_at_once(regions: Regions) -> None:
    exported(regions, "--follow")
    exported(regions, "--follow", target=f"{EAST}/second")
    (regions.bucket / "file").write_bytes(b"both")
    eventually(lambda: is_current(regions), "the first", 15)
    second = regions.home / "east/second/file"
    eventually(lambda: second.exists() and second.read_bytes() == b"both", "the second", 15)


def test_what_is_exported_is_not_imported_again(regions: Regions) -> None:
    exported(regions)
    done = regions.run("import", EUROPE, str(regions.root / "back"), check=False)
    assert done.returncode == 2
    assert "overlaps" in done.stderr


def test_files_that_are_only_elsewhere_are_exported_too(regions: Regions) -> None:
    data = os.urandom(3_000_000)
    (regions.bucket / "file").write_bytes(data)
    regions.run("flush", str(regions.root))
    regions.cool_down()
    exported(regions)
    assert objects(regions) == {"file": data}


def test_an_imported_bucket_can_be_exported_elsewhere(regions: Regions) -> None:
    (regions.home / "east/in").mkdir()
    (regions.home / "east/in/file").write_bytes(b"theirs")
    regions.run("import", f"{EAST}/in", str(regions.root / "in"), "--watch", "--interval", "1s")
    regions.run("export", str(regions.root / "in"), TARGET, "--follow")
    (regions.home / "east/in/more").write_bytes(b"later")
    eventually(lambda: objects(regions) == {"file": b"theirs", "more": b"later"}, "both follow")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("bucket", "nowhere:at-all"), 3, "begins with no location"),
        (("bucket",), 2, "takes BUCKET and LOCATION[/PREFIX]"),
        (("absent", TARGET), 3, "does not exist"),
        (("bucket", f"{EUROPE}//x"), 2, "without empty parts"),
    ],
)
def test_a_wrong_export_is_one_line(
    regions: Regions, arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = regions.run("export", *arguments, "--mount", str(regions.root), check=False)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
