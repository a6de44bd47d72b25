"""``gsfs import`` and ``gsfs export``: foreign objects as files, and files as plain objects, once or from now on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from gsfs import asking, mounts
from gsfs.cli.shell import Command, RemoteError, config_of, human, print_json, problems
from gsfs.config import Config
from gsfs.errors import InvalidArgument, NotAnswering

INTERVAL_MIN_S = 1.0
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)?")
MOUNT_HELP = "A path in the mount, or its configuration file. Default: where BUCKET is, or the only mount."


def _place(bucket: str, mount: str | None) -> tuple[Config, str]:
    """(configuration, name) of a bucket given by path (it need not exist) or by name."""
    if mount is None and "/" in bucket:
        absolute = Path(os.path.realpath(bucket))
        entry = mounts.containing(absolute)
        if entry is None or absolute.parent != entry.mountpoint:
            raise InvalidArgument(
                f"{bucket}: takes a bucket's name, or its path in a mount such as /mnt/demo/photos"
            )
        return config_of(str(entry.mountpoint))[0], absolute.name
    if not bucket or "/" in bucket or bucket in (".", ".."):
        raise InvalidArgument(f"{bucket!r}: takes a bucket's name, without /")
    return config_of(mount)[0], bucket


def _seconds(text: str) -> float:
    """30s, 5m, 1h or a number of seconds."""
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"] if match else 0.0
    if seconds < INTERVAL_MIN_S:
        raise InvalidArgument(f"--interval {text}: takes a time of at least 1s, such as 30s or 5m")
    return seconds


def _ask(config: Config, doing: str, command: str, **arguments: Any) -> Any:
    """The daemon's result, with a count of objects on a terminal. A location that is slow is waited for."""
    with problems.status(doing) as status:
        for answer in asking.ask(config.cache_dir, command, silence_s=None, **arguments):
            if "error" in answer:
                raise RemoteError(answer["error"], answer["exit_code"])
            if "result" in answer:
                return answer["result"]
            status.update(f"{doing}: {answer['progress']['objects']} objects")
    raise NotAnswering("the daemon ended while it was asked")


def _print(answer: dict[str, Any], verb: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    click.echo(
        f"{verb}: {answer['added']} new, {answer['changed']} changed, {answer['removed']} removed, "
        f"{answer['unchanged']} as before; {human(answer['bytes'])}"
    )
    for problem in answer["problems"]:
        click.echo(f"left out: {problem['name']!r} {problem['problem']}", err=True)


def _stop(bucket: str, mount: str | None, kind: str, as_json: bool) -> None:
    config, name = _place(bucket, mount)
    answer = _ask(config, "stopping", "follow_stop", bucket=name, kind=kind)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{kind} of {name} does not go on; what is there stays")


def _two(first: str | None, second: str | None, usage: str) -> tuple[str, str]:
    if first is None or second is None:
        raise InvalidArgument(f"takes {usage}, or --stop BUCKET")
    return first, second


@click.command(
    "import",
    cls=Command,
    example="gsfs import aws:us-east-1/photos /mnt/demo/photos --watch --interval 5m",
)
@click.argument("source", required=False, metavar="LOCATION[/PREFIX]")
@click.argument("bucket", required=False)
@click.option("--own", is_flag=True, help="Removing a file here removes its object there. Default: it stays.")
@click.option("--watch", is_flag=True, help="Go on: list again and again; what goes there goes here.")
@click.option("--interval", default="30s", show_default=True, help="Time between two listings.")
@click.option(
    "--queue", default=None, metavar="URL", help="Go on by S3 event notifications from this SQS queue."
)
@click.option("--stop", default=None, metavar="BUCKET", help="Do not go on; the files stay.")
@click.option("--mount", default=None, metavar="TARGET", help=MOUNT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_(
    source: str | None, bucket: str | None, own: bool, watch: bool, interval: str, queue: str | None,
    stop: str | None, mount: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the objects at a location as files of BUCKET, without moving a byte.

    BUCKET is a name or a path in a mount, and is made if it does not exist. Costs one LIST per 1000 objects.
    Run again, it adds what is new and follows what changed; a file that was changed here is never overwritten.
    Keys that cannot be names are reported.
    """
    if stop is not None:
        _stop(stop, mount, "import", as_json)
        return
    source, bucket = _two(source, bucket, "LOCATION[/PREFIX] and BUCKET")
    config, name = _place(bucket, mount)
    answer = _ask(
        config, "importing", "import", source=source, bucket=name, owned=own, follows=watch or queue is not None,
        interval_s=_seconds(interval), queue=queue, uid=os.geteuid(), gid=os.getegid(),
    )  # fmt: skip
    _print(answer, "imported", as_json)


@click.command("export", cls=Command, example="gsfs export /mnt/demo/photos gcp:us-west1/photos --follow")
@click.argument("bucket", required=False)
@click.argument("target", required=False, metavar="LOCATION[/PREFIX]")
@click.option("--follow", is_flag=True, help="Keep the objects current, within seconds of each close.")
@click.option("--stop", default=None, metavar="BUCKET", help="Do not go on; the objects stay.")
@click.option("--mount", default=None, metavar="TARGET", help=MOUNT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    bucket: str | None, target: str | None, follow: bool, stop: str | None, mount: str | None, as_json: bool
) -> None:
    """Write the files of BUCKET as plain objects whose keys are their paths.

    BUCKET is a name or a path in a mount. Costs one PUT per file that is new or changed since it was last
    exported there; objects of the same keys are replaced. Without --follow nothing is deleted there.
    """
    if stop is not None:
        _stop(stop, mount, "export", as_json)
        return
    bucket, target = _two(bucket, target, "BUCKET and LOCATION[/PREFIX]")
    config, name = _place(bucket, mount)
    answer = _ask(config, "exporting", "export", bucket=name, target=target, follows=follow)
    _print(answer, "exported", as_json)
