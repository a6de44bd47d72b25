"""Names may hold anything but "/" and NUL: what is printed shows them as they are, one line for each, and never fails."""

from __future__ import annotations

import os

from gsfs import mounts
from gsfs.errors import ExitCode
from tests.cli.saying import assert_refused
from tests.support.mounting import Mount

STRICT = {"PYTHONIOENCODING": "utf-8:strict"}
"""As in the locales of most languages; in C.UTF-8 Python lets such bytes pass."""
SHOWN = {
    b"[red]x": "[red]x",
    b"[": "[",
    b"new\nline": "new\\nline",
    b"bad\xff": "bad\\udcff",
    b"esc\x1b[31m": "esc\\x1b[31m",
    "größe".encode(): "größe",
}


def test_odd_names_are_shown_as_they_are_in_one_line_each(mount: Mount) -> None:
    mount.environment = STRICT
    for name in SHOWN:
        os.mkdir(os.fsencode(mount.root) + b"/" + name)
    for command in (["status", str(mount.root)], ["bucket", "list", str(mount.root)]):
        rows = [line.split("  ")[0] for line in mount.run(*command).stdout.splitlines()]
        assert set(SHOWN.values()) <= set(rows)
    for name, shown in SHOWN.items():
        path = f"{mount.root}/{os.fsdecode(name)}"
        assert mount.run("bucket", "show", path).stdout.splitlines()[0].split() == ["name", shown]
        refused = mount.run("where", f"{path}/missing", check=False)
        assert_refused(refused, ExitCode.NOT_FOUND, shown, "No such file")


def test_a_row_for_a_program_is_never_broken_into_lines(mount: Mount) -> None:
    name = "n" * 200
    (mount.root / name).mkdir()
    assert any(
        line.startswith(f"{name} ")
        for line in mount.run("bucket", "list", str(mount.root)).stdout.splitlines()
    )


def test_a_mount_point_whose_name_is_no_text_is_mounted_and_harms_no_command(mount: Mount) -> None:
    mount.environment = STRICT
    mount.unmount()
    place = f"{mount.home}/" + os.fsdecode(b"m\xff,\\[x] \n")
    os.mkdir(place)
    mount.run("mount", str(mount.config), place)
    try:
        assert any(str(entry.mountpoint) == place for entry in mounts.table())
        assert "m\\udcff,\\[x] \\n, gsfs" in mount.run("status", str(mount.config)).stdout
        mount.run("doctor", str(mount.config))
    finally:
        assert "unmounted" in mount.run("umount", place).stdout
