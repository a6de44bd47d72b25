"""A configuration that cannot be used is refused in one line that names the file, the key and what it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gsfs.config import Config, load, parse
from gsfs.errors import ConfigError, ExitCode
from tests.cli.conftest import Run
from tests.cli.saying import assert_refused

TEXT = """
[filesystem]
name = "demo"
[namespace]
url = "sqlite:////nowhere/namespace.db"
[cache]
path = "/nowhere/cache"
size = "1GiB"
[[location]]
id = "local:store"
kind = "local"
path = "/nowhere/store"
[bucket_defaults]
home = "local:store"
"""
WRONG = {
    "unknown key": ('size = "1GiB"', 'sise = "1GiB"', ["[cache]", "'sise'", "takes path, size, min_free"]),
    "unknown table": ("[cache]", "[cash]", ["'cash'", "takes filesystem, namespace, cache"]),
    "wrong unit": ('"1GiB"', '"1 Gigabyte"', ["cache.size", "'1 Gigabyte'", "10GiB"]),
    "wrong type": ('"1GiB"', "5", ["[cache.size]", "takes text in quotes", "got a whole number"]),
    "too small": ('"1GiB"', '"1MiB"', ["cache.size", "at least four segments"]),
    "unknown kind": ('"local"\npath', '"ftp"\npath', ["location[0].kind", "'ftp'", "s3"]),
    "unknown home": (
        'home = "local:store"',
        'home = "aws"',
        ["bucket_defaults.home", "'aws'", "local:store"],
    ),
    "relative cache": ('"/nowhere/cache"', '"cache"', ["cache.path", "'cache'", "absolute"]),
    "missing table": ("[filesystem]\n", "[mount]\n", ["[mount]", "'name'"]),
    "missing key": ('url = "sqlite:////nowhere/namespace.db"', "", ["[namespace]", "'url' is missing"]),
    "unset variable": (
        '"/nowhere/cache"',
        '"${GSFS_TEST_UNSET}"',
        ["cache.path", "GSFS_TEST_UNSET", "not set"],
    ),
    "not TOML": ("[filesystem]", "[filesystem", ["not TOML", "line 2"]),
    "key of another kind": (
        'kind = "local"',
        'kind = "local"\nbucket = "b"',
        ["local:store", "bucket", "s3"],
    ),
    "nan seconds": ("[cache]", "[mount]\ndrain_timeout_s = nan\n[cache]", ["mount.drain_timeout_s", "nan"]),
    "relative log": ("[cache]", '[log]\nfile = "x.log"\n[cache]', ["log.file", "'x.log'", "absolute"]),
    "relative prices": ("[cache]", '[policy]\nprices = "~/p.csv"\n[cache]', ["policy.prices", "${HOME}"]),
    "home directory": ('"/nowhere/cache"', '"~/cache"', ["cache.path", "'~/cache'", "${HOME}"]),
    "nan interval": ("[cache]", "ship_interval_s = nan\n[cache]", ["namespace.ship_interval_s", "nan"]),
    "too many uploads": (
        "[cache]",
        "[transfer]\nuploads_per_location = 5000\n[cache]",
        ["transfer.uploads_per_location", "1 to 1024"],
    ),
    "relative namespace": ("sqlite:////nowhere", "sqlite:///nowhere", ["namespace.url", "four slashes"]),
    "one place twice": (
        "[bucket_defaults]",
        '[[location]]\nid = "other"\nkind = "local"\npath = "/nowhere/./store"\n[bucket_defaults]',
        ["'local:store'", "'other'", "same place"],
    ),
    "store in the cache": (
        '"/nowhere/store"',
        '"/nowhere/cache/store"',
        ["/nowhere/cache/store", "cache.path"],
    ),
    "cache in the store": ('"/nowhere/cache"', '"/nowhere/store/c"', ["/nowhere/store/c", "'local:store'"]),
    "name with a slash": ('id = "local:store"', 'id = "local/store"', ["key id", "'local/store'", "slashes"]),
    "unknown level": ("[cache]", '[log]\nlevel = "loud"\n[cache]', ["log.level", "'loud'", "takes debug"]),
    "path of its own": ("[filesystem]", 'path = "/x"\n[filesystem]', ["unknown key path"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_configuration_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    old, new, words = WRONG[case]
    assert old in TEXT
    path = tmp_path / "demo.toml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    message = str(caught.value)
    assert "\n" not in message
    for word in [str(path), *words]:
        assert word in message


def test_a_password_in_a_wrong_namespace_url_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(TEXT.replace("sqlite:////nowhere/namespace.db", "postgres//me:hunter2@host/db"))
    with pytest.raises(ConfigError, match=r"namespace\.url") as caught:
        load(path, {})
    assert "hunter2" not in str(caught.value)


def test_the_text_that_the_wrong_ones_are_made_of_is_right(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(TEXT)
    assert load(path, {}).filesystem.name == "demo"


def test_a_variable_is_taken_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(TEXT.replace('"demo"', '"${A}-${B}"'))
    assert load(path, {"A": "x", "B": "y"}).filesystem.name == "x-y"


def test_a_configuration_knows_the_file_it_came_from() -> None:
    raw = {
        "filesystem": {"name": "n"},
        "namespace": {"url": "sqlite:////n"},
        "cache": {"path": "/c"},
        "location": [{"id": "l", "kind": "memory"}],
        "bucket_defaults": {"home": "l"},
    }
    config: Config = parse(raw, {}, "some.toml")
    assert config.path == os.path.abspath("some.toml")


def test_the_command_line_shows_the_error_and_the_code(gsfs: Run, tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(TEXT.replace("size", "sise"))
    for command in (["init"], ["status"], ["fsck"], ["gc"], ["flush"], ["bucket", "list", "-c"]):
        assert_refused(gsfs(*command, path), ExitCode.USAGE, str(path), "'sise'")
    assert_refused(gsfs("mount", path, tmp_path), ExitCode.USAGE, str(path), "'sise'")


def test_a_configuration_that_does_not_exist_is_named(gsfs: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert_refused(gsfs("mount", missing, tmp_path), ExitCode.USAGE, str(missing), "no such")


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become somebody else")
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.toml"
    path.write_text(TEXT)
    path.chmod(0o600)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            load(path, {})
        except ConfigError as error:
            os._exit(0 if "cannot be read" in str(error) and "\n" not in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
