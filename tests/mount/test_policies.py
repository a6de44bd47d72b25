"""Placement, TTL replicas, budgets and the ledger on a real mount over three regions (directories)."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from gsfs.policy.prices import load_prices
from tests.support.mounting import Mount
from tests.support.waiting import eventually

EAST, WEST, EUROPE = "aws:us-east-1", "aws:us-west-2", "azure:westeurope"


class Regions(Mount):
    """A mount that runs in aws:us-west-2, with three locations."""

    def create(self, knobs: Any) -> None:
        names = {EAST: "east", WEST: "west", EUROPE: "europe"}
        locations = "".join(
            f'[[location]]\nid = "{id_}"\nkind = "local"\npath = "{self.home}/{name}"\n'
            for id_, name in names.items()
        )
        self.config.write_text(
            f'[filesystem]\nname = "test"\n[namespace]\nurl = "sqlite:///{self.home}/cache/namespace.db"\n'
            f'ship_interval_s = 3600.0\n[cache]\npath = "{self.home}/cache"\nmin_free = "64MiB"\n'
            f'[mount]\nregion = "{WEST}"\n[transfer]\nsegment_size = "1MiB"\n{locations}'
            f'[bucket_defaults]\nhome = "{EAST}"\n'
        )
        self.root.mkdir()
        (self.home / "cache").mkdir()
        self.run("init", str(self.config))

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def locations(self, path: Path) -> set[str]:
        """Locations with a readable replica of any byte of the file, this machine's cache left out."""
        return {
            r["location"]
            for o in self.json("where", str(path))["objects"]
            for r in o["replicas"]
            if r["state"] == "available" and not r["location"].startswith("cache:")
        }

    def cool_down(self) -> None:
        """Nothing of the objects is on the local disk: reads go to a location."""
        self.unmount()
        for file in (self.home / "cache" / "objects").rglob("*"):
            if file.is_file():
                file.unlink()
        self.mount()


@pytest.fixture
def regions(tmp_path: Path) -> Any:
    mount = Regions(tmp_path)
    mount.create({})
    try:
        mount.mount()
        mount.bucket.mkdir()
        yield mount
    finally:
        mount.end()


def put(regions: Regions, name: str, size: int = 3_000_000) -> Path:
    path = regions.bucket / name
    path.write_bytes(os.urandom(size))
    regions.run("flush", str(regions.root))
    return path


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("single", {EAST}),
        ("local", {WEST}),
        (f"push:{EUROPE}", {EAST, EUROPE}),
        ("all", {EAST, WEST, EUROPE}),
    ],
)
def test_a_new_object_goes_where_the_placement_says(
    regions: Regions, placement: str, expected: set[str]
) -> None:
    regions.run("bucket", "set", str(regions.bucket), f"placement={placement}")
    assert regions.locations(put(regions, "file")) == expected


def test_remote_2_keeps_every_object_at_two_locations(regions: Regions) -> None:
    regions.run("bucket", "set", str(regions.bucket), "durability=remote:2")
    assert len(regions.locations(put(regions, "file"))) == 2


def test_a_read_from_another_region_leaves_a_replica_with_an_expiry_here(regions: Regions) -> None:
    path = put(regions, "file")
    regions.run("bucket", "set", str(regions.bucket), "ttl=t_even")
    regions.cool_down()
    content = path.read_bytes()
    eventually(lambda: WEST in regions.locations(path), "a replica in the reader's region")
    replicas = [r for o in regions.json("where", str(path))["objects"] for r in o["replicas"]]
    assert all(r["expires_s"] is not None for r in replicas if r["location"] == WEST)
    assert all(r["expires_s"] is None for r in replicas if r["location"] == EAST)
    regions.cool_down()
    assert path.read_bytes() == content


def test_ttl_none_leaves_no_replica(regions: Regions) -> None:
    path = put(regions, "file")
    regions.run("bucket", "set", str(regions.bucket), "ttl=none")
    regions.cool_down()
    path.read_bytes()
    regions.run("flush", str(regions.root))
    assert regions.locations(path) == {EAST}


def test_plan_shows_what_apply_then_does_and_the_data_stays(regions: Regions) -> None:
    path = put(regions, "file")
    content = path.read_bytes()
    planned = regions.json("plan", str(regions.bucket), "placement=all")
    assert regions.locations(path) == {EAST}
    assert planned["bytes_moved"] == 2 * 3_000_000
    assert regions.json("apply", str(regions.bucket), "placement=all") == planned
    assert regions.locations(path) == {EAST, WEST, EUROPE}
    regions.run("apply", str(regions.bucket), "placement=single", f"home={EUROPE}")
    assert regions.locations(path) == {EUROPE}
    regions.run("gc", str(regions.root))
    assert not [f for f in (regions.home / "east").rglob("*") if f.is_file() and "meta" not in f.parts]
    regions.cool_down()
    assert path.read_bytes() == content
    assert "consistent" in regions.run("fsck", str(regions.root)).stdout


def test_the_ledger_has_every_byte_that_crossed_a_border_at_its_price(regions: Regions) -> None:
    regions.run("bucket", "set", str(regions.bucket), "ttl=none")
    path = put(regions, "file")
    regions.cool_down()
    path.read_bytes()
    report = regions.json("cost", str(regions.root), "--by", "kind")["groups"]
    regions.unmount("--no-drain")
    with closing(sqlite3.connect(regions.home / "cache" / "namespace.db")) as database:
        rows = database.execute("SELECT kind, location, dst, bucket, amount FROM ledger").fetchall()
    moved = {key: sum(int(r[4]) for r in rows if r[:3] == key) for key in {r[:3] for r in rows}}
    assert moved["get", EAST, ""] == moved["egress", EAST, WEST] == 3_000_000
    assert moved["egress", WEST, EAST] == moved["put", EAST, ""] > 3_000_000  # the shipped namespace too
    assert sum(int(r[4]) for r in rows if r[0] == "put" and r[3] not in ("", "0")) == 3_000_000
    prices = load_prices()
    usd = sum(
        Fraction(size, 2**30) * Fraction(prices.egress_usd_per_gib(src, dst))
        for (kind, src, dst), size in moved.items()
        if kind == "egress"
    )
    rounding = Fraction(1, 10**11)
    assert Fraction(report["egress"]["total"]) <= usd + rounding  # the last shipment came after the report
    assert (
        Fraction(report["egress"]["total"])
        >= Fraction(3_000_000 * 2, 2**30) * Fraction(prices.egress_usd_per_gib(EAST, WEST)) - rounding
    )


def test_a_spent_budget_refuses_reads_that_leave_the_region_and_says_how_to_lift_it(regions: Regions) -> None:
    path = put(regions, "file")
    regions.run("bucket", "set", str(regions.bucket), "budget=0.0000001", "budget_action=refuse")
    regions.cool_down()
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EDQUOT
    assert "to lift it: gsfs bucket set bucket budget=AMOUNT" in regions.log.read_text()
    regions.run("bucket", "set", str(regions.bucket), "budget=none")
    assert len(path.read_bytes()) == 3_000_000


def test_xattrs_tell_where_a_file_is_and_what_it_costs(regions: Regions) -> None:
    path = put(regions, "file", 2**20)
    assert os.getxattr(path, "user.gsfs.locations") == f"{EAST},cache".encode()
    assert os.getxattr(path, "user.gsfs.durability") == b"remote:1"
    month = load_prices().storage_usd_per_gib_month(EAST) / 1024
    assert Decimal(os.getxattr(path, "user.gsfs.cost_month").split()[0].decode()) == round(month, 12)
    assert os.listxattr(path) == []


def test_explain_names_the_rule_and_the_alternatives(regions: Regions) -> None:
    path = put(regions, "file")
    text = regions.run("explain", str(path)).stdout
    assert "rule: placement=single" in text
    assert f"home {EUROPE}" in text


def test_a_location_without_a_price_is_an_error_at_the_start_that_names_it(regions: Regions) -> None:
    regions.unmount()
    regions.config.write_text(regions.config.read_text().replace(EUROPE, "azure:nowhere"))
    done = regions.run("mount", str(regions.config), str(regions.root), check=False)
    assert done.returncode == 2
    assert "azure:nowhere" in done.stderr


@pytest.mark.parametrize(
    "setting", ["placement=everywhere", "ttl=sometimes", "budget=-1", "placement=push:aws:mars"]
)
def test_a_wrong_policy_is_one_line_and_changes_nothing(regions: Regions, setting: str) -> None:
    before = regions.json("bucket", "show", str(regions.bucket))
    done = regions.run("bucket", "set", str(regions.bucket), setting, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert regions.json("bucket", "show", str(regions.bucket)) == before


class Documented(Regions):
    """The mount of the transcript in docs/cost.md: segments of the default size."""

    def create(self, knobs: Any) -> None:
        super().create(knobs)
        text = self.config.read_text().replace('[transfer]\nsegment_size = "1MiB"\n', "")
        self.config.write_text(text.replace("ship_interval_s = 3600.0", "ship_interval_s = 0.0"))


def transcript() -> list[tuple[str, list[str]]]:
    """(command, the lines that it prints) of docs/cost.md."""
    text = (Path(__file__).parents[2] / "docs" / "cost.md").read_text()
    section = text.partition("## A policy is changed")[2].partition("\n## ")[0]
    steps: list[tuple[str, list[str]]] = []
    for line in section.splitlines():
        if line.startswith("    $ "):
            steps.append((line.removeprefix("    $ "), []))
        elif line.startswith("    "):
            steps[-1][1].append(line.removeprefix("    ").rstrip())
    return steps


def without_seconds_and_pieces(line: str) -> str:
    """Of a line of ``gsfs cost``: the group and its egress. Storage grows by the second, reads come in pieces."""
    words = line.split()
    return f"{words[0]} {words[2]}" if len(words) == 5 else words[0]


def test_the_transcript_in_the_documents_is_what_the_commands_print(tmp_path: Path) -> None:
    mount = Documented(tmp_path)
    mount.create({})
    steps = transcript()
    assert [step[0].split()[1] for step in steps if step[0].startswith("gsfs")].count("apply") == 1
    try:
        mount.mount()
        (mount.root / "photos").mkdir()
        for documented, expected in steps:
            command = documented.replace("/mnt/demo", str(mount.root))
            if command.startswith("gsfs "):
                printed = mount.run(*command.split()[1:]).stdout
            else:
                printed = subprocess.run(
                    command, shell=True, check=True, capture_output=True, text=True
                ).stdout
            said = [line.rstrip() for line in printed.splitlines()]
            if " cost " in command:
                pairs = zip(said, expected, strict=True)
                assert all(a == b for a, b in (map(without_seconds_and_pieces, pair) for pair in pairs))
            else:
                assert said == expected, command
    finally:
        mount.end()
