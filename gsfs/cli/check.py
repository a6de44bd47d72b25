"""``gsfs fsck`` and ``gsfs gc``: check the namespace, and give back what nothing refers to."""

from __future__ import annotations

import sys

import click

from gsfs.cli.shell import Command, ask, config_of, print_json
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
        click.echo(problem)
    if problems:
        sys.exit(int(ExitCode.CORRUPT))
    if not as_json:
        click.echo("consistent")


@click.command(cls=Command, example="gsfs gc /mnt/demo")
@click.argument("target", required=False)
def gc(target: str | None) -> None:
    """Remove now what nothing refers to any more, from every location (the daemon does so by itself in time)."""
    config, _ = config_of(target)
    removed = ask(config, "gc", silence_s=None)["removed_objects"]
    click.echo(f"{removed} objects removed")
