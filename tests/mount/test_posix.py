"""POSIX semantics on a real mount: one test for each bug that was found, and for each promise of the docs."""

from __future__ import annotations

from pathlib import Path


def test_file_written_is_read_back(mounted: Path) -> None:
    (mounted / "file").write_bytes(b"bytes")
    assert (mounted / "file").read_bytes() == b"bytes"
