"""``gsfs pin``, ``gsfs warm``, ``gsfs evict``: what this machine's disk keeps, on your word."""

from __future__ import annotations

import click

from gsfs.cli.cost import ino_of
from gsfs.cli.shell import Command, ask, ask_with_progress, config_of, human, print_json


@click.command(cls=Command, example="gsfs pin /mnt/demo/photos/best")
@click.argument("path")
@click.option("--off", is_flag=True, help="Treat PATH like any other again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pin(path: str, off: bool, as_json: bool) -> None:
    """Keep PATH in the local cache, and every replica of it where it is, until --off.

    Of a directory: every file that is or comes below it; --off of something below it makes an exception. What is
    missing is fetched. One file can also be pinned with setfattr -n user.gsfs.pinned -v 1 (0 to let go).
    """
    config, _ = config_of(path)
    answer = ask_with_progress(config, "fetching", "pin", ino=ino_of(path), off=off)
    if as_json:
        print_json(answer)
        return
    state = "no longer pinned" if off else "pinned"
    click.echo(f"{answer['files']} files {state}; {human(answer['pinned_bytes'])} of the cache are pinned")


@click.command(cls=Command, example="gsfs warm /mnt/demo/photos/2024")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def warm(path: str, as_json: bool) -> None:
    """Fetch PATH (of a directory: everything below) into the local cache, so that reading it waits for nothing."""
    config, _ = config_of(path)
    answer = ask_with_progress(config, "fetching", "warm", ino=ino_of(path))
    if as_json:
        print_json(answer)
        return
    click.echo(f"{human(answer['fetched_bytes'])} fetched")


@click.command(cls=Command, example="gsfs evict /mnt/demo/photos/2019")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evict(path: str, as_json: bool) -> None:
    """Let the local copies of PATH go. What is not at a location yet stays, and so does what is pinned."""
    config, _ = config_of(path)
    answer = ask(config, "evict", ino=ino_of(path))
    if as_json:
        print_json(answer)
        return
    kept = ", ".join(f"{count} {why}" for why, count in answer["kept_objects"].items())
    click.echo(
        f"{human(answer['evicted_bytes'])} given back" + (f"; objects that stay: {kept}" if kept else "")
    )
