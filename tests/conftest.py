"""What holds for every test. Owns the rule that a tier which was promised, and cannot run, fails CI."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

PROMISED = "needs "
"""How the reason of a skip begins where a machine lacks what scripts/setup would have installed, or root."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None], None]:
    """In CI (``CI`` is set), a test that is skipped because the machine lacks something has failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy types wrappers loosely
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get("CI") and reason.removeprefix("Skipped: ").startswith(PROMISED):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: could not run in CI: {reason}"
