"""The command line with a daemon in a hurry: what happens every few seconds happens several times a second.

Run as ``python -m tests.support.hasty mount ...``. Only intervals and thresholds differ, so that a short load
seals, uploads, evicts, collects, compacts and folds.
"""

from __future__ import annotations

from gsfs.cli.main import main
from gsfs.filesystem import core, reaper
from gsfs.namespace import sqlite
from gsfs.transfer import committer, compaction, garbage


def hurry() -> None:
    """Shorten everything."""
    committer.SYNC_INTERVAL_S = 0.2
    garbage.INTERVAL_S = 0.1
    compaction.INTERVAL_S = 0.2
    compaction.DEAD_BYTES_MIN = 0
    compaction.LIVE_PERCENT_MAX = 70
    core.REAP_INLINE_EXTENTS = reaper.REAP_INLINE_EXTENTS = 16  # type: ignore[attr-defined]
    sqlite.CHECKPOINT_FRAMES = 60
    sqlite.PREPARED_BYTES = 1 << 20


if __name__ == "__main__":
    hurry()
    main()
