"""``gsfs``: the group of commands. Imports each command's module only when it is run, to start quickly."""

from __future__ import annotations

import importlib

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


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports them when asked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

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
