"""How every command starts, refuses wrong use, is interrupted, and fails where nobody foresaw it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gsfs.cli.main import INTERRUPTED
from gsfs.cli.shell import Command
from gsfs.errors import ExitCode, NotFoundError
from tests.cli.conftest import Run
from tests.cli.saying import assert_refused
from tests.support.mounting import GSFS, Mount
from tests.support.waiting import eventually

SLOW_TO_IMPORT = {"trio", "sqlalchemy", "psycopg", "boto3", "botocore", "azure", "google", "pyfuse3"}


@pytest.mark.parametrize(
    "use",
    [
        "nonsense",
        "status --nonsense",
        "mount",
        "umount --timeout soon /",
        "bucket nonsense",
        "bucket set x",
        "cost --by me",
    ],
)
def test_wrong_use_is_refused_in_one_line_that_names_the_help(gsfs: Run, use: str) -> None:
    assert_refused(gsfs(*use.split()), ExitCode.USAGE, "--help")


def test_a_command_that_is_almost_right_is_told(gsfs: Run) -> None:
    assert_refused(gsfs("unmount", "/"), ExitCode.USAGE, "'umount'")


@pytest.mark.parametrize(
    "use", [["--help"], ["status", "--help"], ["mount", "--help"], ["status", "missing.toml"]]
)
def test_a_command_imports_no_library_that_it_does_not_need(use: list[str]) -> None:
    program = (
        "import sys\nfrom gsfs.cli.main import main\n"
        "try:\n    main.main(sys.argv[1:])\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *use], check=False, capture_output=True, text=True)
    modules = set(done.stderr.splitlines()[-1].split())
    assert "gsfs.cli.main" in modules
    assert not modules & SLOW_TO_IMPORT


def test_ctrl_c_ends_a_command_that_waits_with_one_line(mount: Mount) -> None:
    pid = mount.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        asking = subprocess.Popen(
            [*GSFS, "status", str(mount.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        eventually(lambda: _has_socket(asking.pid), "the command asks the daemon")
        asking.send_signal(signal.SIGINT)
        out, err = asking.communicate(timeout=20)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (asking.returncode, out, err.strip()) == (INTERRUPTED, "", "gsfs: interrupted")


def _has_socket(pid: int) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{fd}").startswith("socket:") for fd in os.listdir(folder))
    except FileNotFoundError:  # closed meanwhile
        return False


def fails_with(error: BaseException) -> tuple[int, str]:
    def callback() -> None:
        raise error

    done = CliRunner().invoke(Command("do", callback=callback), [])
    return done.exit_code, done.output


def test_an_error_that_nobody_foresaw_is_one_line_and_tells_how_to_see_more() -> None:
    code, said = fails_with(ValueError("odd\nvalue"))
    assert (code, said.count("\n")) == (ExitCode.INTERNAL, 1)
    assert "ValueError: odd\\nvalue" in said and "GSFS_TRACEBACK=1" in said


def test_a_known_error_within_a_group_is_told_as_itself() -> None:
    assert fails_with(ExceptionGroup("g", [NotFoundError("x: is not there")])) == (
        ExitCode.NOT_FOUND,
        "gsfs: x: is not there\n",
    )


def test_ctrl_c_within_a_group_is_an_interrupt() -> None:
    _, said = fails_with(BaseExceptionGroup("g", [KeyboardInterrupt()]))
    assert "Aborted" in said  # click's word for it, where no LazyGroup says it otherwise
