"""``gsfs trace``: record what a mount is asked, to replay it with other policies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from gsfs import mounts
from gsfs.cli.shell import Command, ask, config_of, print_json
from gsfs.errors import InvalidArgument


@click.group()
def trace() -> None:
    """Record what a mount is asked: which files are read, written and removed, and when.

    The file holds no names and no content: files are told apart by keyed hashes. gsfs simulate replays it.
    """


trace.epilog = (
    "Example: gsfs trace start /mnt/demo week.trace; gsfs trace stop /mnt/demo; gsfs simulate week.trace"
)


@trace.command("start", cls=Command, example="gsfs trace start /mnt/demo week.trace --sample 10%")
@click.argument("target")
@click.argument("file")
@click.option("--sample", default="100%", help="Share of the files to record, such as 10%. Default: all.")
def start(target: str, file: str, sample: str) -> None:
    """Record the mount of TARGET in FILE, a new file, until it is stopped or unmounted."""
    config, _ = config_of(target)
    path = Path(os.path.realpath(file))
    if (entry := mounts.containing(path)) is not None:
        raise InvalidArgument(
            f"{file}: lies in the mount at {entry.mountpoint}; takes a file of another file system"
        )
    ask(config, "trace_start", file=str(path), share=_share(sample))
    click.echo(f"recording in {path}; gsfs trace stop {target} ends it")


@trace.command("stop", cls=Command, example="gsfs trace stop /mnt/demo")
@click.argument("target", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stop(target: str | None, as_json: bool) -> None:
    """Stop recording the mount of TARGET."""
    config, _ = config_of(target)
    answer: dict[str, Any] = ask(config, "trace_stop", silence_s=None)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['requests']} requests in {answer['file']}")
    if answer["failure"]:
        click.echo(f"incomplete: {answer['failure']}", err=True)
    if answer["dropped_requests"]:
        click.echo(f"{answer['dropped_requests']} more are not: the disk could not keep up", err=True)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InvalidArgument(f"--sample {text}: takes a share such as 10% or 0.1")
    return share
