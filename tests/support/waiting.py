"""Waiting for a condition, with a deadline. Owns the only pause of the tests that use real time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 60.0
TICK_S = 0.02


def eventually(look: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first true value of ``look``. Fails with ``what`` when the deadline has passed."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(TICK_S)
    raise AssertionError(f"not within {deadline_s:.0f} s: {what}")


def has_ended(pid: int) -> bool:
    """Ended, though its parent may not have asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
