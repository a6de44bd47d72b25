"""How a refusal must look. Owns that one claim: one line on standard error, the exit code, no traceback."""

from __future__ import annotations

import subprocess

from gsfs.errors import ExitCode


def assert_refused(done: subprocess.CompletedProcess[str], code: ExitCode, *words: str) -> None:
    """One line that names each of ``words``, and this exit code."""
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == code, done
    assert len(lines) == 1 and lines[0].startswith("gsfs: "), done.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
    assert done.stdout == ""
