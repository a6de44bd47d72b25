"""Named points at which a test may kill the process. Owns the list of names; does nothing unless armed.

Armed by the command line from ``GSFS_FAILPOINT=NAME[:N]``: the N-th time (1 if not said) that the point is
reached, the process is killed with SIGKILL, as by a crash at exactly that step.
"""

from __future__ import annotations

import os
import signal

NAMES = frozenset(
    {
        "commit.before",
        "commit.after",
        "sync.before-data",
        "sync.after-data",
        "sync.after-log",
        "checkpoint.before",
        "checkpoint.after",
        "checkpoint.between",
        "segment.created",
        "segment.sealed",
        "upload.before-intent",
        "upload.after-intent",
        "upload.before-put",
        "upload.after-put",
        "upload.before-available",
        "upload.after-available",
        "garbage.after-tombstone",
        "garbage.after-delete",
        "garbage.after-gone",
        "evict.before-release",
        "evict.after-release",
        "compact.after-copy",
        "compact.after-repoint",
        "reaper.piece",
        "close.before-commit",
    }
)

_armed: dict[str, int] = {}


def arm(spec: str) -> None:
    """Arm ``NAME[:N]``. Raises ValueError for a name that does not exist."""
    name, _, count = spec.partition(":")
    if name not in NAMES:
        raise ValueError(
            f"GSFS_FAILPOINT: {name!r} is not a failpoint; takes one of {', '.join(sorted(NAMES))}"
        )
    _armed[name] = int(count or "1")


def hit(name: str) -> None:
    """Die here, if armed."""
    if _armed and name in _armed:
        _armed[name] -= 1
        if _armed[name] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
