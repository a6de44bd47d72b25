"""Fixtures of the command line's tests: those of the mount, and the command itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import knobs, make_mount, mount, mounted  # noqa: F401  # fixtures are found by name
from tests.support.mounting import COMMAND_S, GSFS

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gsfs() -> Run:
    """Runs a command, in an environment with these variables added; never raises."""

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*GSFS, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            env={**os.environ, **variables},
        )

    return run
