"""``gsfs status`` and ``gsfs flush``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from gsfs import mounts
from gsfs.cli.shell import Command, ask, ask_with_progress, config_of, human, print_json, print_table, say
from gsfs.model import ROOT_INO


@click.command(cls=Command, example="gsfs status /mnt/demo --json")
@click.argument("target", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(target: str | None, as_json: bool) -> None:
    """Show how a mount is doing: what waits for upload, the cache, the locations, the buckets.

    TARGET is a path in a mount or a configuration file; by default the mount of the current directory, or
    the only one.
    """
    config, _ = config_of(target)
    row = ask(config, "status")
    if as_json:
        print_json(row)
    else:
        _print(row)


def _print(row: dict[str, Any]) -> None:
    cache = row["cache"]
    say(
        f"{row['name']} at ",
        f"{row['mountpoint']}, gsfs {row['version']}, process {row['pid']}, up {row['uptime_s']:.0f} s",
    )
    say("files       ", f"{row['inodes']} inodes, {human(row['file_bytes'])} in {row['objects']} objects")
    say("to upload   ", f"{human(row['dirty_bytes'])} ({row['uploading_objects']} sealed objects)")
    say(
        "cache       ",
        f"{human(cache['used_bytes'])} of {human(cache['capacity_bytes'])} in {cache['path']}; "
        f"{human(cache['disk_free_bytes'])} free on the disk",
    )
    if cache["disk_free_bytes"] <= cache["min_free_bytes"]:
        say(
            "            ",
            f"cache.min_free keeps {human(cache['min_free_bytes'])} of the disk free: writes wait, then fail "
            "(no space left); free some space there, or lower it and mount again",
            style="red",
        )
    moving = row["replication"]
    if any(moving[key] for key in ("waiting", "failed", "expired")):
        say(
            "replicas    ",
            f"{moving['waiting']} wanted, {moving['failed']} failed, {moving['expired']} expired",
        )
    for f in moving["failures"]:
        say("object ", f"{f['object']} is not at {f['location']}: {f['cause']}", style="red")
    if row["trace"]:
        say("recording   ", f"{row['trace']['requests']} requests in {row['trace']['file']}")
    if row["commit_error"]:
        say("commits fail: ", row["commit_error"], style="red")
    if row["damaged_objects"]:
        say("", f"{len(row['damaged_objects'])} objects are damaged; gsfs fsck names them", style="red")
    print_table(
        ["location", "state", "stored", "requests"],
        [[r["id"], _state(r), human(r["bytes"]), _requests(r["requests"])] for r in row["locations"]],
    )
    print_table(
        ["bucket", "home", "durability", "used", "this month"],
        [[b["name"], b["home"], b["durability"], human(b["used_bytes"]), _spent(b)] for b in row["buckets"]],
    )
    _print_follows(row["follows"])


def _spent(bucket: dict[str, Any]) -> str:
    """What the bucket has cost since the month began, of its budget where it has one."""
    spent, budget = bucket["spent_usd_this_month"], bucket["budget_usd_per_month"]
    if spent is None:
        return "-"
    return f"{_cents(spent)} USD" + (f" of {_cents(budget)}" if budget is not None else "")


def _cents(usd: str) -> str:
    """Cents; less than a dollar to a millionth."""
    return f"{float(usd):.2f}" if float(usd) >= 1 or not float(usd) else f"{float(usd):.6f}"


def _print_follows(rows: list[dict[str, Any]]) -> None:
    """Imports and exports, where there are any."""
    if rows:
        print_table(
            ["bucket", "follows", "by", "state"],
            [
                [
                    r["bucket"],
                    f"{r['kind']} {r['place']}",
                    r["by"] if r["follows"] else "not any more",
                    r["cause"] or "ok",
                ]
                for r in rows
            ],
        )


def _state(row: dict[str, Any]) -> str:
    if row["state"] == "ok":
        return "ok"
    return f"{row['state']} for {time.time() - row['since_s']:.0f} s: {row['cause']}"


def _requests(requests: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(requests.items())) or "none"


@click.command(cls=Command, example="gsfs flush /mnt/demo/photos")
@click.argument("path", required=False)
@click.option("--timeout", type=float, default=None, help="Seconds to wait. Default: as long as it takes.")
def flush(path: str | None, timeout: float | None) -> None:
    """Upload now what was written to PATH and wait for it.

    PATH is a file, a directory (its bucket is uploaded), a mount, or a configuration file; by default
    everything. Exit code 7 where --timeout was too short.
    """
    config, _ = config_of(path)
    ino = os.stat(path).st_ino if path is not None and mounts.containing(Path(path)) else ROOT_INO
    ask_with_progress(config, "uploading", "flush", ino=ino, timeout_s=timeout)
    click.echo("everything asked for is at its location")
