"""Paths with characters that mount options and names give a meaning."""

from __future__ import annotations

from pathlib import Path

from tests.support.mounting import Mount


def test_a_configuration_with_a_comma_in_its_path_mounts_and_is_found_again(tmp_path: Path) -> None:
    home = tmp_path / "a,b c"
    mount = Mount(home)
    home.mkdir()
    config = home / "d,1.toml"
    mount.run("init", str(config), "--store", str(home / "store"), "--cache", str(home / "cache"))
    mount.root.mkdir()
    try:
        mount.run("mount", str(config), str(mount.root))
        assert '"name": "d-1"' in mount.run("status", "--json", str(mount.root)).stdout
    finally:
        mount.run("umount", str(mount.root))
