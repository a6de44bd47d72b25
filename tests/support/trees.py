"""Trees of every kind of file: making one, and comparing two. Owns what "the same" means."""

from __future__ import annotations

import os
import random
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def make_tree(root: Path, seed: int) -> Path:
    """A tree with files of many sizes and names, links of both kinds, sparse files, modes, owners, xattrs, ACLs."""
    dice = random.Random(seed)
    root.mkdir()
    files = root / "files"
    files.mkdir()
    made = []
    for folder in range(8):
        directory = files / f"folder {folder}" / ("deep/" * dice.randint(0, 3) + "end")
        directory.mkdir(parents=True)
        for number in range(12):
            path = directory / f"file{number}{dice.choice(['', '.txt', ' with blanks', '-ünïcode'])}"
            path.write_bytes(dice.randbytes(dice.choice([0, 1, 100, 4096, 5000, 70_000, 300_000])))
            os.chmod(path, dice.choice([0o644, 0o600, 0o755, 0o444, 0o640]))
            when = dice.randrange(0, 2_000_000_000_000_000_000)
            os.utime(path, ns=(when, when))
            made.append(path)
    odd = root / "odd"
    odd.mkdir()
    _make_odd(odd, made, dice)
    for directory, _, _ in os.walk(os.fsencode(root), topdown=False):
        os.utime(directory, ns=(1_500_000_000_123_456_789, 1_500_000_000_123_456_789))
    return root


def _make_odd(odd: Path, made: list[Path], dice: random.Random) -> None:
    for number, path in enumerate(dice.sample(made, 5)):
        os.link(path, odd / f"hard{number}")
    (odd / "relative").symlink_to("../files/folder 0")
    (odd / "dangling").symlink_to("nowhere/at all")
    (odd / "long").symlink_to("x" * 4000)
    (odd / "empty").mkdir(mode=0o700)
    with open(os.fsencode(odd) + b"/not utf-8 \xff\xfe\nnewline", "wb") as file:
        file.write(b"odd")
    with open(odd / ("n" * 255), "wb") as file:
        file.write(b"long")
    with open(odd / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"in the middle")
    os.mkfifo(odd / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(odd, os.O_PATH)
        sock.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    os.setxattr(odd / "sparse", "user.colour", b"blue\0\xff")
    os.setxattr(odd / "empty", "user.empty", b"")
    if os.geteuid() == 0:
        os.mknod(odd / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chown(odd / "sparse", 12345, 54321)
        os.chmod(odd / "sparse", 0o6711)
        subprocess.run(["setfacl", "-m", "u:1234:rwx,g:4321:r", odd / ("n" * 255)], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:1234:rx", odd / "empty"], check=True)


def described(root: Path, *, times: bool = True, allocation: bool = False) -> dict[bytes, dict[str, Any]]:
    """Everything about every path below ``root``: what two equal trees have in common."""
    found: dict[bytes, dict[str, Any]] = {}
    first_names: dict[int, bytes] = {}
    base = os.fsencode(root)
    paths = [base]
    for directory, folders, files in os.walk(base):
        paths += [os.path.join(directory, name) for name in (*folders, *files)]
    for path in sorted(paths):
        relative = os.path.relpath(path, base)
        status = os.lstat(path)
        entry: dict[str, Any] = {"mode": status.st_mode, "owner": (status.st_uid, status.st_gid)}
        if times and not stat.S_ISLNK(status.st_mode):
            entry["mtime_ns"] = status.st_mtime_ns
        if not stat.S_ISDIR(status.st_mode):
            entry["size"], entry["nlink"] = status.st_size, status.st_nlink
            entry["same file as"] = first_names.setdefault(status.st_ino, relative)
        if stat.S_ISLNK(status.st_mode):
            entry["target"] = os.readlink(path)
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                entry["content"] = hash(file.read())
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            entry["device"] = status.st_rdev
        if allocation:
            entry["sparse"] = status.st_blocks * 512 < status.st_size
        names = sorted(n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("user.gsfs."))
        entry["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        found[relative] = entry
    return found


def assert_same(one: Path, other: Path, *, times: bool = True, but: Sequence[bytes] = ()) -> None:
    """Names, bytes, modes, owners, times, links, devices, xattrs and ACLs are the same, ``but`` for these in ``one``."""
    left, right = described(one, times=times), described(other, times=times)
    for path in but:
        del left[path]
    assert sorted(left) == sorted(right), f"only in one: {sorted(set(left) ^ set(right))[:5]}"
    for path, entry in left.items():
        assert entry == right[path], f"{path!r}: {entry} != {right[path]}"
