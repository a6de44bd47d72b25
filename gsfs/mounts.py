"""The kernel's table of mounts: what is mounted where, and letting go of it. Owns nothing that runs."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gsfs.errors import Busy, NotFoundError, PermissionRefused

FSTYPE = "fuse.gsfs"
PASSING_S = 2.0
"""A mount that is busy though nobody uses it is tried again for so long: somebody was just looking (df does)."""
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of /proc/self/mountinfo."""

    device: str
    """major:minor"""
    mountpoint: Path
    fstype: str
    source: str


def table() -> list[MountEntry]:
    """Everything that is mounted."""
    entries = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            left, _, right = line.rstrip(b"\n").partition(b" - ")
            fields, tail = left.split(b" "), right.split(b" ")
            entries.append(
                MountEntry(fields[2].decode(), Path(_name(fields[4])), _name(tail[0]), _name(tail[1]))
            )
    return entries


def _name(raw: bytes) -> str:
    """Spaces and newlines are written as octal numbers; bytes that are not UTF-8 are as everywhere in Python."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), raw))


def at(mountpoint: Path) -> MountEntry | None:
    """What is mounted exactly there; the topmost where several are."""
    found = [entry for entry in table() if entry.mountpoint == mountpoint]
    return found[-1] if found else None


def containing(path: Path) -> MountEntry | None:
    """The gsfs mount that a path lies in."""
    absolute = Path(os.path.realpath(path))
    for entry in sorted(table(), key=lambda e: len(e.mountpoint.parts), reverse=True):
        if entry.fstype == FSTYPE and (absolute == entry.mountpoint or entry.mountpoint in absolute.parents):
            return entry
    return None


def device_of(mountpoint: Path) -> str:
    """major:minor of what is mounted there."""
    entry = at(mountpoint)
    if entry is None:
        raise NotFoundError(f"{mountpoint}: nothing is mounted there")
    return entry.device


def prepare(mountpoint: Path) -> Path:
    """Check a mount point before mounting; a dead mount left by a crash is let go first. Returns its real path."""
    try:
        status = os.stat(mountpoint)
        os.statvfs(mountpoint)
    except FileNotFoundError:
        raise NotFoundError(
            f"{mountpoint}: no such directory; make it first (mkdir -p {mountpoint})"
        ) from None
    except OSError as error:
        dead = at(Path(os.path.realpath(mountpoint)))
        if error.errno != errno.ENOTCONN or dead is None or dead.fstype != FSTYPE:
            raise PermissionRefused(f"{mountpoint}: {error.strerror}") from None
        unmount(dead.mountpoint, lazy=True)
        status = os.stat(mountpoint)
    real = Path(os.path.realpath(mountpoint))
    entry = at(real)
    if entry is not None and entry.fstype.startswith("fuse"):
        raise Busy(f"{mountpoint}: {entry.source} is mounted there already")
    if not os.path.isdir(real):
        raise NotFoundError(f"{mountpoint}: not a directory")
    if os.listdir(real):
        raise Busy(f"{mountpoint}: not empty; takes an empty directory")
    if os.geteuid() != 0 and (status.st_uid != os.geteuid() or not os.access(real, os.W_OK)):
        raise PermissionRefused(f"{mountpoint}: belongs to another user; takes a directory of yours")
    return real


def check_fuse_device() -> None:
    """Raises PermissionRefused with what to do where FUSE cannot be used."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise PermissionRefused(
            "/dev/fuse does not exist; load the kernel module (modprobe fuse), or start the container with --device /dev/fuse"
        ) from None
    except OSError as error:
        raise PermissionRefused(
            f"/dev/fuse: {error.strerror}; ask for access to it (group fuse, or --cap-add SYS_ADMIN --device /dev/fuse in a container)"
        ) from None
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise PermissionRefused("fusermount3 is not installed; install the package fuse3")


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Let go of a mount. Raises Busy while files in it are open."""
    if os.geteuid() == 0:
        command = ["umount", "-i", *(["-l"] if lazy else []), str(mountpoint)]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), str(mountpoint)]
    end = time.monotonic() + PASSING_S
    while True:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode == 0:
            return
        text = (result.stderr or result.stdout).strip().rpartition("\n")[
            2
        ] or f"exit code {result.returncode}"
        if "busy" not in text.lower():
            break
        users = _users(mountpoint)
        if users or time.monotonic() > end:
            raise Busy(f"{mountpoint}: busy: {users or 'files in it are open'}; nothing was changed")
        time.sleep(0.1)
    if "not mounted" in text or "not found" in text:
        raise NotFoundError(f"{mountpoint}: not mounted")
    if "/etc/mtab" in text:
        text += "; ask root for: ln -s /proc/self/mounts /etc/mtab"
    raise PermissionRefused(f"{mountpoint}: {text}")


def is_dead(entry: MountEntry) -> bool:
    """Whether the process behind a mount is gone (a crash leaves such a mount behind).

    Asks for statvfs, which the kernel never answers from its caches.
    """
    try:
        os.statvfs(entry.mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def may_allow_other() -> bool:
    """Whether this user may mount for others: root, or user_allow_other in /etc/fuse.conf."""
    if os.geteuid() == 0:
        return True
    try:
        with open("/etc/fuse.conf") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def _users(mountpoint: Path) -> str:
    """Who keeps a mount busy: mounts below it, and processes as far as /proc tells."""
    inside = f"{mountpoint}/"
    below = [str(entry.mountpoint) for entry in table() if str(entry.mountpoint).startswith(inside)]
    processes = [
        f"{process.name} ({_name_of(process)})"
        for process in Path("/proc").glob("[0-9]*")
        if any(used == str(mountpoint) or used.startswith(inside) for used in _used_by(process))
    ]
    shown = ", ".join(processes[:5]) + (f" and {len(processes) - 5} more" if len(processes) > 5 else "")
    reasons = [f"{', '.join(below)} is mounted in it"] if below else []
    return "; ".join([*reasons, *([f"used by process {shown}"] if processes else [])])


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"


def _used_by(process: Path) -> Iterator[str]:
    """Paths that a process works in, has open or has mapped."""
    try:
        for link in (process / "cwd", process / "root", *(process / "fd").iterdir()):
            with suppress(OSError):
                yield os.readlink(link)
        for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
            yield line.partition("/")[1] + line.partition("/")[2]
    except OSError:
        return
