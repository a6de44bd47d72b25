"""``gsfs plan`` and ``gsfs apply``: a changed policy, first its price, then the deed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import click

from gsfs.cli.bucket import parse_settings, place
from gsfs.cli.shell import Command, ask, ask_with_progress, console, human, print_json


@click.command(cls=Command, example="gsfs plan /mnt/demo/photos placement=all")
@click.argument("bucket")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(bucket: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show what these settings of BUCKET would move and cost. Nothing is changed.

    Settings: home, placement, ttl, on_read; without any: what the present ones still have to move.
    """
    config, name = place(bucket, None)
    answer = ask(config, "plan", name=name, settings=parse_settings(settings))
    _show(answer, as_json)


@click.command(cls=Command, example="gsfs apply /mnt/demo/photos placement=all")
@click.argument("bucket")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def apply(bucket: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Change these settings of BUCKET and move what it holds accordingly; copies first, removals last.

    Broken off, it leaves replicas more, never fewer: run it again to finish.
    """
    config, name = place(bucket, None)
    answer = ask_with_progress(config, "copying", "apply", name=name, settings=parse_settings(settings))
    _show(answer, as_json)


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    steps = (
        ", ".join(f"{count} {step}" for step, count in answer["steps"].items() if count) or "nothing to do"
    )
    console.print(f"steps            {steps}", highlight=False)
    console.print(f"bytes to copy    {human(answer['bytes_moved'])}", highlight=False)
    once, before, after = (
        Decimal(answer[key]) for key in ("once_usd", "monthly_before_usd", "monthly_after_usd")
    )
    console.print(f"once             {once:f} USD", highlight=False)
    console.print(f"storage a month  {before:f} USD before, {after:f} USD after", highlight=False)
