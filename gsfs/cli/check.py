"""``gsfs fsck`` and ``gsfs gc``: check the namespace, and give back what nothing refers to."""

from __future__ import annotations

import sys

import click

from gsfs.cli.shell import Command, ask, config_of, print_json, say
from gsfs.errors import ExitCode, NotAnswering


@click.command(cls=Command, example="gsfs fsck /mnt/demo")
@click.argument("target", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fsck(target: str | None, as_json: bool) -> None:
    """Check that the namespace is consistent. Changes nothing. Exit code 6 where it is not.

    TARGET is a path in a mount, or the configuration file of a namespace that is not mounted.
    """
    config, _ = config_of(target)
    try:
        problems = ask(config, "fsck", silence_s=None)["problems"]
    except NotAnswering:
        from gsfs.cli import offline

        problems = offline.problems(config)
    if as_json:
        print_json({"problems": problems})
    for problem in [] if as_json else problems:
        say("", problem)
    if problems:
        sys.exit(int(ExitCode.CORRUPT))
    if not as_json:
        click.echo("consistent")


@click.command(cls=Command, example="gsfs gc /mnt/demo --sweep")
@click.argument("target", required=False)
@click.option(
    "--sweep",
    is_flag=True,
    help="Also list the locations for objects that nothing knows (costs LIST requests).",
)
@click.option(
    "--age",
    default=3600.0,
    show_default=True,
    help="With --sweep: spare objects younger than so many seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def gc(target: str | None, sweep: bool, age: float, as_json: bool) -> None:
    """Remove now what nothing refers to any more, from every location (the daemon does so by itself in time)."""
    config, _ = config_of(target)
    answer = ask(config, "gc", silence_s=None, sweep=sweep, age_min_s=age)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['removed_objects']} objects removed")
    for location, found in answer.get("swept", {}).items():
        click.echo(f"{location}: {found['looked_at']} objects looked at, {found['removed']} strays removed")
