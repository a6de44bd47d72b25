"""``gsfs``: the group of commands. Imports each command's module only when it is run, to start quickly."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any

import click

from gsfs import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("gsfs.cli.setup", "init"),
    "mount": ("gsfs.cli.mounting", "mount"),
    "umount": ("gsfs.cli.mounting", "umount"),
    "bucket": ("gsfs.cli.bucket", "bucket"),
    "location": ("gsfs.cli.location", "location"),
    "status": ("gsfs.cli.status", "status"),
    "flush": ("gsfs.cli.status", "flush"),
    "where": ("gsfs.cli.cost", "where"),
    "explain": ("gsfs.cli.cost", "explain"),
    "cost": ("gsfs.cli.cost", "cost"),
    "import": ("gsfs.cli.transfer", "import_"),
    "export": ("gsfs.cli.transfer", "export"),
    "plan": ("gsfs.cli.plan", "plan"),
    "apply": ("gsfs.cli.plan", "apply"),
    "pin": ("gsfs.cli.keep", "pin"),
    "warm": ("gsfs.cli.keep", "warm"),
    "evict": ("gsfs.cli.keep", "evict"),
    "trace": ("gsfs.cli.trace", "trace"),
    "gc": ("gsfs.cli.check", "gc"),
    "fsck": ("gsfs.cli.check", "fsck"),
    "recover": ("gsfs.cli.recover", "recover"),
    "simulate": ("gsfs.cli.simulate", "simulate"),
    "doctor": ("gsfs.cli.doctor", "doctor"),
}
"""Command → (module, attribute)."""


INTERRUPTED = 130
"""What shells report for a command that Ctrl-C ended."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports them when asked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run; wrong use and Ctrl-C are one line each, as all other errors are."""
        run: Callable[..., Any] = self.main
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a name need not be text in the terminal's encoding
                stream.reconfigure(errors="backslashreplace")
        try:
            sys.exit(run(*args, **options, standalone_mode=False))
        except click.exceptions.NoArgsIsHelpError as help_:
            help_.show()
            sys.exit(help_.exit_code)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "gsfs"
            what = " ".join(error.format_message().split()).rstrip(".")
            click.echo(f"gsfs: {what[:1].lower()}{what[1:]}; see {where} --help", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("gsfs: interrupted", err=True)
            sys.exit(INTERRUPTED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Of a command that does not exist: the one that was meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no such command {args[0]!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: gsfs init demo.toml --store /srv/store --cache /srv/cache; gsfs mount demo.toml /mnt/demo",
)
@click.version_option(__version__, prog_name="gsfs")
def main() -> None:
    """The GlobalStore File System: many clouds mounted as one directory."""


if __name__ == "__main__":
    main()
