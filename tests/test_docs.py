"""The documents say what the project has: each claim of the semantics page names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHORT = {"P": "tests/mount/test_posix.py", "S": "tests/filesystem/test_semantics.py"}
_TEST = re.compile(r"`([A-Za-z_/.]+)::(test_\w+)`")


def _rows() -> list[str]:
    """Lines of the page's tables, without their heads."""
    lines = (ROOT / "docs" / "SEMANTICS.md").read_text().splitlines()
    return [
        line for line in lines if line.startswith("| ") and not line.startswith(("| claim |", "| what |"))
    ]


def _tests_in(path: str) -> set[str]:
    return set(re.findall(r"^(?:async )?def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE))


def test_every_claim_of_the_semantics_page_names_its_test() -> None:
    assert len(_rows()) > 40
    assert [row for row in _rows() if not _TEST.search(row)] == []


def test_every_test_that_the_semantics_page_names_exists() -> None:
    named = {(SHORT.get(path, path), test) for row in _rows() for path, test in _TEST.findall(row)}
    there = {path: _tests_in(path) for path, _ in named}
    assert [f"{path}::{test}" for path, test in sorted(named) if test not in there[path]] == []
