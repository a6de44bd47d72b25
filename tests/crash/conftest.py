"""Options of the crash tests. Owns how long they go on: briefly by default, for as long as one likes by option."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def kills() -> int:
    """Kills at random moments: ``GSFS_KILLS=500 pytest tests/crash/test_kill.py``."""
    return int(os.environ.get("GSFS_KILLS", "6"))


@pytest.fixture(scope="session")
def cuts() -> int:
    """Power cuts of each recorded run: ``GSFS_CUTS=2000 pytest tests/crash/test_powerloss.py``."""
    return int(os.environ.get("GSFS_CUTS", "40"))
