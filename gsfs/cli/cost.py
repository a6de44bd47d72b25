"""``gsfs where``, ``gsfs explain``, ``gsfs cost``: where bytes are, why, and what they cost."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import click

from gsfs.cli.shell import Command, ask, config_of, console, human, print_json, print_table, say
from gsfs.errors import InvalidArgument, NotFoundError


def ino_of(path: str) -> int:
    """The inode that PATH leads to. Raises NotFoundError."""
    try:
        return os.lstat(path).st_ino
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from None


@click.command(cls=Command, example="gsfs where /mnt/demo/photos/cat.jpg")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def where(path: str, as_json: bool) -> None:
    """Show each physical object of PATH, its replicas, their states and when they expire."""
    config, _ = config_of(path)
    answer = ask(config, "where", ino=ino_of(path))
    if as_json:
        print_json(answer)
        return
    console.print(
        f"{human(answer['size'])}, {human(answer['allocated'])} in {len(answer['objects'])} objects",
        highlight=False,
    )
    rows = [
        [
            str(o["object"]),
            o["state"],
            human(o["file_bytes"]),
            r["location"],
            r["state"],
            _expiry(r["expires_s"]),
        ]
        for o in answer["objects"]
        for r in o["replicas"]
    ]
    print_table(["object", "", "bytes of it", "location", "state", "expires"], rows)


def _expiry(expires_s: float | None) -> str:
    return "never" if expires_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(expires_s))


@click.command(cls=Command, example="gsfs explain /mnt/demo/photos/cat.jpg")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(path: str, as_json: bool) -> None:
    """Say which rule put PATH where it is, with which numbers, and what the alternatives would have cost."""
    config, _ = config_of(path)
    answer = ask(config, "explain", ino=ino_of(path))
    if as_json:
        print_json({key: value for key, value in answer.items() if key != "lines"})
        return
    for line in answer["lines"]:
        say("", line)


@click.command(cls=Command, example="gsfs cost /mnt/demo --by location --forecast 30d")
@click.argument("target", required=False)
@click.option("--by", type=click.Choice(["bucket", "location", "day", "kind", "directory"]), default="bucket")
@click.option("--since", default="31d", help="How far back, in days. Default: 31d.")
@click.option("--forecast", default=None, help="Also what the next days will cost, such as 30d.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cost(target: str | None, by: str, since: str, forecast: str | None, as_json: bool) -> None:
    """Show what was paid, from the ledger of requests made and bytes kept, in USD.

    ``--by directory`` shows what keeping each directory costs per month now.
    """
    config, _ = config_of(target)
    answer = ask(
        config,
        "cost",
        by=by,
        since_days=_days(since),
        forecast_days=None if forecast is None else _days(forecast),
    )
    if as_json:
        print_json(answer)
    else:
        _print(answer)


def _days(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]*)d?", text)
    if match is None:
        raise InvalidArgument(f"{text!r}: takes days, such as 30d")
    return int(match[1])


def _print(answer: dict[str, Any]) -> None:
    parts = ("storage", "egress", "requests", "total")
    rows = [[name, *(_usd(group[part]) for part in parts)] for name, group in answer["groups"].items()]
    print_table([answer["by"], *(f"{part} USD" for part in parts)], rows)
    span = (
        "a month, as it is kept now"
        if answer["by"] == "directory"
        else f"in the last {answer['since_days']} days"
    )
    click.echo(f"total {_usd(answer['total'])} USD {span}")
    if "forecast" in answer:
        click.echo(
            f"next {answer['forecast_days']} days, if they are like the last: {_usd(answer['forecast'])} USD"
        )


def _usd(text: str) -> str:
    """Every digit that there is, two at least: so columns add up to what is below them."""
    whole, _, digits = text.partition(".")
    return f"{whole}.{digits.rstrip('0').ljust(2, '0')}"
