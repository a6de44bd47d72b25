"""``gsfs doctor``: looks at everything a mount needs and says what to do. Changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click

from gsfs import mounts
from gsfs.backends.spec import LocationSpec
from gsfs.cli.shell import Command, ask, config_of, console, human, print_json, printable, say, waiting
from gsfs.config import Config
from gsfs.errors import Busy, ExitCode, GsfsError, NotAnswering, NotFoundError

State = Literal["ok", "warn", "fail"]
LOCATION_DEADLINE_S = 10.0
FORGETFUL = ("tmpfs", "ramfs")
REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre")
UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

GOVERNOR = Path("/sys/devices/system/cpu/cpuidle/current_governor_ro")
HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
"""How long an idle virtual processor looks for work before it halts."""


class Finding(NamedTuple):
    """One line of the report."""

    check: str
    state: State
    detail: str
    advice: str = ""
    """What to do; empty when nothing is to be done."""


@click.command(cls=Command, example="gsfs doctor /etc/gsfs/demo.toml\ngsfs doctor /mnt/demo --json")
@click.argument("target", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(target: str | None, as_json: bool) -> None:
    """Look at everything a mount needs, and say what to do where something is missing. Changes nothing.

    TARGET is a configuration file or a path in a mount; without it the only mount, if there is one, and else
    just the machine. Exit code 0 when nothing fails (warnings are fine), 1 when something does.
    """
    findings = []
    for finding in _examine(target):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "checks": [finding._asdict() for finding in findings]})
    if failed:
        sys.exit(int(ExitCode.INTERNAL))


def _print(finding: Finding) -> None:
    colour = COLOURS[finding.state]
    console.print(finding.state.ljust(4), style=colour, end="  ", highlight=False)
    say(f"{printable(finding.check):18} ", finding.detail)
    if finding.advice:
        say(f"{'':25}→ ", finding.advice)


def _examine(target: str | None) -> Iterator[Finding]:
    yield from (_python(), _fuse_device(), _fusermount(), _libfuse(), _mount_helper(), _units())
    yield from _halting()
    yield from _mounts()
    try:
        config, mounted = config_of(target)
    except NotFoundError as error:
        if target is not None:
            yield Finding("configuration", "fail", str(error))
        return
    except GsfsError as error:
        yield Finding(
            "configuration", "fail", str(error), "correct it; docs/gsfs.sample.toml explains every key"
        )
        return
    yield _configuration(config)
    yield _allow_other(config)
    yield from _cache(config)
    yield _namespace(config, mounted)
    with waiting("asking the locations"):
        asked = _locations(config)
    yield from asked


# --- the machine


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _fuse_device() -> Finding:
    try:
        mounts.check_fuse_device()
    except GsfsError as error:
        detail, _, advice = str(error).partition("; ")
        return Finding("/dev/fuse", "fail", detail, advice)
    return Finding("/dev/fuse", "ok", "can be opened")


def _fusermount() -> Finding:
    path = shutil.which("fusermount3")
    if path:
        return Finding("fusermount3", "ok", path)
    if os.geteuid() == 0:
        return Finding(
            "fusermount3",
            "warn",
            "not installed; root mounts without it",
            "install the package fuse3 for other users",
        )
    return Finding("fusermount3", "fail", "not installed", "install the package fuse3")


def _libfuse() -> Finding:
    try:
        import pyfuse3
    except ImportError as error:
        return Finding("libfuse", "fail", str(error), "install the package libfuse3-3, then gsfs again")
    return Finding("libfuse", "ok", f"loaded by pyfuse3 {pyfuse3.__version__}")


def _halting() -> Iterator[Finding]:
    """Virtual processors that halt as soon as they are idle: each request waits twice for one to wake up."""
    try:
        if GOVERNOR.read_text().strip() != "haltpoll":
            return
        polls_ns = int(HALT_POLL.read_text())
    except (OSError, ValueError):
        return
    if polls_ns:
        yield Finding("idle processors", "ok", f"poll for {polls_ns // 1000} µs before they halt")
    else:
        yield Finding(
            "idle processors",
            "warn",
            "halt at once: small requests take up to three times as long",
            f"as root: echo 200000 > {HALT_POLL}",
        )


def _mount_helper() -> Finding:
    if os.access("/sbin/mount.gsfs", os.X_OK):
        return Finding("mount helper", "ok", "/sbin/mount.gsfs: lines of type gsfs in /etc/fstab work")
    return Finding("mount helper", "ok", "not installed (scripts/install does; only /etc/fstab needs it)")


def _units() -> Finding:
    found = next((folder for folder in UNIT_FOLDERS if Path(folder, "gsfs@.service").exists()), None)
    if found:
        return Finding("systemd unit", "ok", f"{found}/gsfs@.service")
    return Finding("systemd unit", "ok", "not installed (scripts/install does; only systemd needs it)")


def _mounts() -> Iterator[Finding]:
    for entry in mounts.table():
        if entry.fstype != mounts.FSTYPE:
            continue
        what = f"{entry.source} at {entry.mountpoint}"
        if mounts.is_dead(entry):
            yield Finding(
                "mount",
                "fail",
                f"{what}: its daemon is gone",
                f"gsfs umount {entry.mountpoint}, then mount again: it recovers",
            )
        else:
            yield Finding("mount", "ok", what)


# --- one configuration


def _configuration(config: Config) -> Finding:
    mode = os.stat(config.path).st_mode
    if mode & 0o077 and any(spec.secrets() for spec in config.location):
        return Finding(
            "configuration",
            "warn",
            f"{config.path} holds secrets and can be read by others (mode {mode & 0o777:o})",
            f"chmod 600 {config.path}",
        )
    return Finding(
        "configuration",
        "ok",
        f"{config.path}: {config.filesystem.name!r}, {len(config.location)} location(s)",
    )


def _allow_other(config: Config) -> Finding:
    if not config.mount.allow_other:
        return Finding("allow_other", "ok", "off: only who mounts can use the mount")
    if mounts.may_allow_other():
        return Finding("allow_other", "ok", "on: every user can use the mount, as far as modes allow")
    return Finding(
        "allow_other", "fail", "mount.allow_other = true, but this user may not mount for others",
        "set it to false, mount as root, or have root put user_allow_other in /etc/fuse.conf",
    )  # fmt: skip


def _cache(config: Config) -> Iterator[Finding]:
    directory = config.cache_dir
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except FileNotFoundError:
        yield Finding("cache directory", "fail", f"{directory} does not exist", f"gsfs init {config.path}")
        return
    except OSError as error:
        yield Finding(
            "cache directory",
            "fail",
            f"{directory} cannot be written: {error.strerror}",
            "free some space, or correct its owner and mode",
        )
        return
    yield _cache_filesystem(directory)
    mode = os.stat(directory).st_mode
    if mode & 0o077:
        yield Finding(
            "cache mode",
            "warn",
            f"{directory} is open to others (mode {mode & 0o777:o}): they can read every file",
            f"chmod 700 {directory}",
        )
    yield _cache_space(config)


def _cache_filesystem(directory: Path) -> Finding:
    real = Path(os.path.realpath(directory))
    holders = [
        entry for entry in mounts.table() if entry.mountpoint == real or entry.mountpoint in real.parents
    ]
    fstype = max(holders, key=lambda entry: len(entry.mountpoint.parts)).fstype if holders else "unknown"
    if fstype in FORGETFUL:
        return Finding(
            "cache directory",
            "warn",
            f"{directory} is on {fstype}",
            "what was not uploaded is lost when the machine stops: use a disk",
        )
    if fstype in REMOTE or fstype.startswith("fuse"):
        return Finding(
            "cache directory",
            "warn",
            f"{directory} is on {fstype}",
            "use a local disk: locks and durability depend on the far side",
        )
    return Finding("cache directory", "ok", f"{directory} is writable, on {fstype}")


def _cache_space(config: Config) -> Finding:
    status = os.statvfs(config.cache_dir)
    free = status.f_bavail * status.f_frsize
    used = sum(f.stat().st_blocks * 512 for f in config.cache_dir.rglob("*") if f.is_file())
    detail = f"{human(free)} free, {human(used)} used of at most {human(config.cache_bytes)}; {human(config.min_free_bytes)} are to stay free"
    if free <= config.min_free_bytes:
        return Finding(
            "cache space",
            "fail",
            detail,
            "writes wait and then fail (ENOSPC): free some space or lower cache.min_free",
        )
    if free - config.min_free_bytes < config.cache_bytes - used:
        return Finding(
            "cache space",
            "warn",
            detail,
            "the disk is full before the cache is: fine, if nothing else needs the space",
        )
    return Finding("cache space", "ok", detail)


def _namespace(config: Config, mounted: Path | None) -> Finding:
    """Its own checks, through the daemon where one has it open."""
    try:
        try:
            problems = ask(config, "fsck", silence_s=None)["problems"]
            how = f"checked by the daemon, mounted at {mounted}" if mounted else "checked by the daemon"
        except NotAnswering:
            from gsfs.cli import offline

            with waiting("checking the namespace"):
                problems, how = offline.problems(config), "not mounted"
    except Busy as error:
        return Finding("namespace", "fail", str(error), "is another mount of it running, or still draining?")
    except GsfsError as error:
        advice = "docs/operations.md: a corrupt database" if error.exit_code is ExitCode.CORRUPT else ""
        return Finding("namespace", "fail", str(error), advice)
    if problems:
        return Finding(
            "namespace", "fail", f"{len(problems)} problem(s): {problems[0]}", "gsfs fsck lists them all"
        )
    return Finding("namespace", "ok", f"consistent ({how})")


def _locations(config: Config) -> list[Finding]:
    """Each location asked at the same time."""
    import trio

    findings: dict[str, Finding] = {}

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for spec in config.location:
                nursery.start_soon(_location, spec, lambda found: findings.__setitem__(found.check, found))

    trio.run(main)
    return [findings[f"location {spec.id}"] for spec in config.location]


async def _location(spec: LocationSpec, tell: Callable[[Finding], Any]) -> None:
    from gsfs.backends.registry import open_location

    name = f"location {spec.id}"
    try:
        location = open_location(spec)
        try:
            await location.check(deadline_s=LOCATION_DEADLINE_S)
        finally:
            await location.aclose()
    except GsfsError as error:
        tell(
            Finding(
                name,
                "fail",
                str(error),
                "what is there already in the cache can still be read; uploads wait until it answers",
            )
        )
    else:
        tell(Finding(name, "ok", f"{spec.kind} answers"))
