"""Real mounts for tests, made and ended with the command line. Owns what a test must never leave behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsfs import mounts

GSFS = (sys.executable, "-c", "from gsfs.cli.main import main; main()")
"""The command of this very environment, whatever PATH says."""
COMMAND_S = 120
Knobs = Mapping[str, Mapping[str, Any]]

CAN_MOUNT = os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


@dataclass
class Mount:
    """One namespace of its own: mount it, unmount it, kill its daemon."""

    home: Path
    """Holds the configuration, the store, the cache and the mount point."""
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.home / "gsfs.toml"

    @property
    def root(self) -> Path:
        """The mount point."""
        return self.home / "mnt"

    @property
    def bucket(self) -> Path:
        """A virtual bucket in it."""
        return self.root / "bucket"

    @property
    def log(self) -> Path:
        return self.home / "cache" / "gsfs.log"

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A gsfs command, to its end."""
        done = subprocess.run(
            [*GSFS, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            env={**os.environ, **self.environment},
        )
        assert not check or done.returncode == 0, f"gsfs {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done

    def create(self, knobs: Knobs) -> None:
        """Write the configuration with ``knobs`` ({section: {key: value}}) and make the namespace."""
        sections: dict[str, dict[str, Any]] = {
            "filesystem": {"name": "test"},
            "namespace": {"url": f"sqlite:///{self.home}/cache/namespace.db"},
            "cache": {"path": f"{self.home}/cache", "min_free": "64MiB"},
            "bucket_defaults": {"home": "local:store"},
        }
        for section, values in knobs.items():
            if section != "location":
                sections.setdefault(section, {}).update(values)
        location = {
            "id": "local:store",
            "kind": "local",
            "path": f"{self.home}/store",
            **knobs.get("location", {}),
        }
        text = "".join(f"[{name}]\n{_toml(values)}\n" for name, values in sections.items())
        self.config.write_text(f"{text}[[location]]\n{_toml(location)}")
        self.root.mkdir()
        (self.home / "cache").mkdir()
        self.run("init", str(self.config))

    def mount(self) -> None:
        options = [part for option in self.options for part in ("-o", option)]
        self.run("mount", *options, str(self.config), str(self.root))

    def unmount(self, *arguments: str) -> None:
        self.run("umount", *arguments, str(self.root))

    def remount(self, *arguments: str) -> None:
        """Nothing of what the kernel or the daemon kept in memory is left afterwards."""
        self.unmount(*arguments)
        self.mount()

    def status(self) -> dict[str, Any]:
        """What ``gsfs status --json`` tells."""
        answer: dict[str, Any] = json.loads(self.run("status", "--json", str(self.config)).stdout)
        return answer

    @property
    def pid(self) -> int:
        """The daemon's."""
        return int(self.status()["pid"])

    def kill(self) -> None:
        """What a crash of the daemon does; returns when it has ended."""
        with _watched(self.pid) as watch:
            signal.pidfd_send_signal(watch, signal.SIGKILL)
            select.select([watch], [], [], COMMAND_S)
        mounts.unmount(self.root, lazy=True)

    def end(self) -> None:
        """Whatever state a test left: nothing mounted, no daemon."""
        if mounts.at(self.root) is None:
            return
        if self.run("umount", "--no-drain", str(self.root), check=False).returncode == 0:
            return
        try:
            self.kill()
        except AssertionError:  # the daemon does not answer: it ends with its mount
            mounts.unmount(self.root, lazy=True)


def _toml(values: Mapping[str, Any]) -> str:
    """Strings, numbers and booleans are written alike in JSON and TOML."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@contextmanager
def _watched(pid: int) -> Iterator[int]:
    watch = os.pidfd_open(pid)
    try:
        yield watch
    finally:
        os.close(watch)


@contextmanager
def mounted_namespace(
    home: Path,
    knobs: Knobs | None = None,
    *,
    options: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Mount]:
    """A fresh namespace in ``home``, mounted, with one bucket made by mkdir."""
    mount = Mount(home, options, environment or {})
    mount.create(knobs or {})
    try:
        mount.mount()
        if "ro" not in options:
            mount.bucket.mkdir()
        yield mount
    finally:
        mount.end()
