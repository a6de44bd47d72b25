"""Locations are added, tested, left and removed while the file system is in use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount.test_policies import EAST, EUROPE, Regions, put, regions

__all__ = ["regions"]


def files_at(regions: Regions, name: str) -> list[Path]:
    """Physical objects in a location's directory, the shipped namespace left out."""
    return [f for f in (regions.home / name).rglob("*") if f.is_file() and "meta" not in f.parts]


def test_drain_moves_every_byte_away_and_shows_its_price_first(regions: Regions) -> None:
    path = put(regions, "file")
    content = path.read_bytes()
    survey = regions.json("location", "drain", str(regions.root), EAST, "--to", EUROPE, "--dry-run")
    assert survey["bytes_to_copy"] == 3_000_000
    assert float(survey["once_usd"]) > 0
    assert regions.locations(path) == {EAST}
    regions.run("location", "drain", str(regions.root), EAST, "--to", EUROPE, "--yes")
    assert regions.locations(path) == {EUROPE}
    assert files_at(regions, "east") == []
    regions.cool_down()
    assert path.read_bytes() == content
    assert "consistent" in regions.run("fsck", str(regions.root)).stdout


def test_what_is_written_during_and_after_a_drain_goes_elsewhere(regions: Regions) -> None:
    put(regions, "before")
    regions.run("location", "drain", str(regions.root), EAST, "--to", EUROPE, "--yes")
    assert regions.locations(put(regions, "after")) == {EUROPE}
    assert files_at(regions, "east") == []


def test_a_drain_is_resumed_after_a_kill(regions: Regions) -> None:
    contents = {n: os.urandom(1_500_000) for n in range(4)}
    for n, data in contents.items():
        (regions.bucket / f"f{n}").write_bytes(data)
    regions.run("flush", str(regions.root))
    regions.environment = {"GSFS_FAILPOINT": "upload.after-put:3"}
    regions.remount()
    regions.environment = {}
    done = regions.run("location", "drain", str(regions.root), EAST, "--to", EUROPE, "--yes", check=False)
    assert done.returncode != 0
    regions.run("umount", str(regions.root), check=False)
    regions.mount()
    regions.run("location", "drain", str(regions.root), EAST, "--to", EUROPE, "--yes")
    assert files_at(regions, "east") == []
    regions.cool_down()
    for n, data in contents.items():
        assert (regions.bucket / f"f{n}").read_bytes() == data
    assert "consistent" in regions.run("fsck", str(regions.root)).stdout


def test_a_location_that_holds_a_last_replica_cannot_be_removed(regions: Regions) -> None:
    regions.run("bucket", "set", str(regions.bucket), f"home={EUROPE}")
    path = put(regions, "file")
    done = regions.run("location", "rm", str(regions.root), EUROPE, check=False)
    assert done.returncode == 2
    assert "drain it first" in done.stderr
    assert regions.locations(path) == {EUROPE}


def test_a_location_that_was_left_is_removed_and_the_next_mount_does_without(regions: Regions) -> None:
    regions.run("bucket", "set", str(regions.bucket), f"home={EUROPE}")
    path = put(regions, "file")
    content = path.read_bytes()
    regions.run("location", "drain", str(regions.root), EUROPE, "--to", EAST, "--yes")
    regions.run("location", "rm", str(regions.root), EUROPE)
    assert EUROPE not in regions.config.read_text()
    regions.cool_down()
    assert path.read_bytes() == content


def test_the_default_home_is_not_removed(regions: Regions) -> None:
    done = regions.run("location", "rm", str(regions.root), EAST, check=False)
    assert done.returncode == 2
    assert "bucket_defaults.home" in done.stderr


def test_an_added_location_is_used_without_a_remount_and_after_it(regions: Regions) -> None:
    (regions.home / "new").mkdir()
    settings = ("id=aws:eu-west-1", "kind=local", f"path={regions.home}/new")
    regions.run("location", "add", str(regions.config), *settings)
    regions.run("bucket", "set", str(regions.bucket), "home=aws:eu-west-1")
    path = put(regions, "file")
    assert regions.locations(path) == {"aws:eu-west-1"}
    regions.remount()
    assert regions.locations(path) == {"aws:eu-west-1"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("id=aws:eu-west-1", "kind=local"), "path"),
        (("id=aws:eu-west-1", "kind=floppy"), "floppy"),
        ((f"id={EAST}", "kind=memory"), "twice"),
        (("id=aws:eu-west-1", "kind=s3", "bucket=b", "secret_key=hunter2"), "secret"),
    ],
)
def test_a_wrong_location_is_refused_and_the_file_stays(
    regions: Regions, settings: tuple[str, ...], message: str
) -> None:
    before = regions.config.read_text()
    done = regions.run("location", "add", str(regions.config), *settings, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert regions.config.read_text() == before


def test_location_test_proves_every_operation(regions: Regions) -> None:
    proofs = regions.json("location", "test", str(regions.config), EUROPE)
    assert all(proof["ok"] for proof in proofs)
    assert {"connect", "put 8 MiB", "get 8 MiB", "list", "delete"} <= {proof["operation"] for proof in proofs}
    assert files_at(regions, "europe") == []


def test_location_test_names_a_place_that_is_gone(regions: Regions) -> None:
    (regions.home / "europe").rename(regions.home / "away")
    done = regions.run("location", "test", str(regions.config), EUROPE, check=False)
    assert done.returncode == 5
    assert "europe does not exist; make it, or mount its disk" in done.stderr
    (regions.home / "away").rename(regions.home / "europe")


def test_location_list_and_show_tell_state_and_hide_secrets(regions: Regions) -> None:
    rows = regions.json("location", "list", str(regions.root))
    assert next(row["id"] for row in rows) == EAST
    assert all(row["state"] == "ok" for row in rows)
    assert regions.json("location", "show", str(regions.root), EAST)["settings"]["kind"] == "local"
