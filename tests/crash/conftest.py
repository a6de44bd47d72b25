"""Options of the crash tests. Owns how long they go on: briefly by default, for as long as one likes by option."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.worlds import fast_directory


@pytest.fixture(scope="session")
def kills() -> int:
    """Kills at random moments: ``GSFS_KILLS=500 pytest tests/crash/test_kill.py``."""
    return int(os.environ.get("GSFS_KILLS", "6"))


@pytest.fixture(scope="session")
def cuts() -> int:
    """Power cuts of each recorded run: ``GSFS_CUTS=2000 pytest tests/crash/test_powerloss.py``."""
    return int(os.environ.get("GSFS_CUTS", "40"))


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A directory in memory, where there is one: what is simulated or killed need not wait for a disk."""
    with tempfile.TemporaryDirectory(prefix="gsfs-crash-", dir=fast_directory()) as path:
        yield Path(path)
