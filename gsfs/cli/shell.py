"""What every command shares: errors to exit codes, finding the mount that is meant, printing. No command."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from gsfs import asking, mounts
from gsfs.config import Config, load
from gsfs.errors import (
    ConfigError,
    ExitCode,
    GsfsError,
    NoSpace,
    NotAnswering,
    NotFoundError,
    PermissionRefused,
)

UNWRAPPED = 10_000
"""Width of a table that no terminal shows: what reads it counts on one line for each row."""
QUIET_S = 1.0
"""A command that takes longer says on a terminal that it waits, and for what."""
console = Console(width=None if sys.stdout.isatty() else UNWRAPPED)
problems = Console(stderr=True)


PATHS = ("target", "path", "bucket", "file", "config", "mountpoint", "source")
"""Names of arguments that are, or may be, paths."""


class RemoteError(GsfsError):
    """An error that the daemon answered with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = ExitCode(exit_code)


class Command(click.Command):
    """A command whose help ends in an example, and whose errors are one line and an exit code."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        for parameter in self.params:  # so that a shell completes them
            if isinstance(parameter, click.Argument) and parameter.name in PATHS and parameter.nargs == 1:
                parameter.type = click.Path(readable=False)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.example:
            with formatter.section("Example"):
                for line in self.example.splitlines():
                    formatter.write_text(line)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except GsfsError as error:
            fail(error)
        except BrokenPipeError:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # what is still buffered goes nowhere
            sys.exit(int(ExitCode.INTERNAL))
        except OSError as error:
            fail(explained(error, ctx.command.name or ""))
        except BaseExceptionGroup as group:  # trio's nurseries make one of a Ctrl-C, too
            if group.subgroup(KeyboardInterrupt):
                raise KeyboardInterrupt from None
            _fail_unforeseen(group)
        except Exception as error:
            _fail_unforeseen(error)


def explained(error: OSError, what: str) -> GsfsError:
    """An error of the machine in one line, with the exit code that its number stands for."""
    kind: type[GsfsError] = PermissionRefused
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        kind = NoSpace
    elif error.errno == errno.ENOENT:
        kind = NotFoundError
    return kind(f"{error.filename or what}: {error.strerror or error}")


def unforeseen(error: BaseException) -> GsfsError:
    """A mistake of gsfs itself, or the one known error that a group of them holds."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, GsfsError):
        return error
    return GsfsError(f"{type(error).__name__}: {error}; this should not happen")


def _fail_unforeseen(error: BaseException) -> NoReturn:
    if "GSFS_TRACEBACK" in os.environ:
        raise error
    known = unforeseen(error)
    fail(GsfsError(f"{known}; GSFS_TRACEBACK=1 shows where") if type(known) is GsfsError else known)


def fail(error: GsfsError) -> NoReturn:
    """One line on standard error, and the documented exit code."""
    click.echo(f"gsfs: {printable(error)}", err=True)
    sys.exit(int(error.exit_code))


def printable(value: object) -> str:
    """Text on one line that cannot steer a terminal: names of files may hold anything but "/" and NUL."""
    return "".join(_shown(character) for character in str(value))


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character)[0] not in "C":
        return character
    return character.encode("unicode_escape").decode()


def read_config(path: str) -> Config:
    """The configuration file, with the environment's variables."""
    return load(Path(path), os.environ)


def config_of(target: str | None) -> tuple[Config, Path | None]:
    """(configuration, mount point) of a path in a mount, of a configuration file, or of the only mount."""
    if target is not None and not os.path.isdir(target) and mounts.containing(Path(target)) is None:
        config = read_config(target)
        entry = next(
            (e for e in mounts.table() if e.fstype == mounts.FSTYPE and e.source == config.path), None
        )
        return config, entry.mountpoint if entry else None
    entry = mounts.containing(Path(target or "."))
    if entry is None and target is None:
        found = [e for e in mounts.table() if e.fstype == mounts.FSTYPE]
        if len(found) > 1:
            raise ConfigError(f"several mounts: name one of {', '.join(str(e.mountpoint) for e in found)}")
        entry = found[0] if found else None
    if entry is None:
        raise NotFoundError(
            f"{target or 'here'}: no gsfs is mounted there; takes a path in a mount, or a configuration file"
        )
    return read_config(entry.source), entry.mountpoint


def ask(config: Config, command: str, *, silence_s: float | None = asking.SILENCE_S, **arguments: Any) -> Any:
    """The daemon's result. Raises NotAnswering, NotResponding or what the daemon answered.

    ``silence_s`` None waits as long as it takes, for commands that are long and tell no progress.
    """
    with waiting(f"{command.replace('_', ' ')}: waiting for the daemon"):
        for answer in asking.ask(config.cache_dir, command, silence_s=silence_s, **arguments):
            if "error" in answer:
                raise RemoteError(answer["error"], answer["exit_code"])
            if "result" in answer:
                return answer["result"]
    raise NotAnswering("the daemon ended while it was asked")


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on a terminal what is waited for, once that takes longer than a moment."""
    if not problems.is_terminal:
        yield
        return
    status = problems.status(what)
    timer = threading.Timer(QUIET_S, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


def ask_with_progress(config: Config, title: str, command: str, **arguments: Any) -> Any:
    """Like ``ask``, with a bar over the bytes that are left, and why nothing moves."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
        TimeRemainingColumn(), console=problems, transient=not problems.is_terminal, disable=not problems.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=None)
        most, told = 0, ""
        for answer in asking.ask(config.cache_dir, command, **arguments):
            if "error" in answer:
                raise RemoteError(answer["error"], answer["exit_code"])
            if "result" in answer:
                bar.update(task, total=most, completed=most)
                return answer["result"]
            left, reason = answer["progress"]["left_bytes"], answer["progress"].get("waiting", "")
            most = max(most, left)
            bar.update(task, total=most, completed=most - left)
            if reason and reason != told:
                problems.print(
                    f"{human(left)} wait{printable(reason)}", highlight=False, markup=False, soft_wrap=True
                )
                told = reason
    raise NotAnswering("the daemon ended while it was asked")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def say(key: str, value: object, *, style: str | None = None) -> None:
    """One line of a report, as it is: no markup, nothing that steers the terminal."""
    console.print(f"{key}{printable(value)}", style=style, highlight=False, markup=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Cells are shown as they are: markup in a name is part of the name."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def human(size_bytes: float | None) -> str:
    """1536 → '1.5 KiB'."""
    if size_bytes is None:
        return "-"
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"
