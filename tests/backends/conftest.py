"""Fixtures of the backend tests, and the conformance table at the end of a run. Owns who joins the suite."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gsfs.backends.base import Backend
from gsfs.backends.prefix import PrefixedBackend
from gsfs.backends.registry import open_backend
from gsfs.backends.spec import LocationSpec
from tests.backends import tables
from tests.backends.joined import JOINED, REAL_ACCOUNTS, Joined, make_bucket, real_account_names
from tests.support.fixtures import (  # noqa: F401  # fixtures are found by name
    azurite_server,
    fake_gcs_server,
    moto_server,
    moto_tls_server,
    seaweedfs_server,
    test_certificate,
)

MakeSpec = Callable[..., LocationSpec]


@pytest.fixture(params=[*JOINED, *REAL_ACCOUNTS])
def joined(request: pytest.FixtureRequest) -> Joined:
    """Each backend in turn."""
    name: str = request.param
    return JOINED[name] if name in JOINED else REAL_ACCOUNTS[name]


@pytest.fixture
def make_spec(joined: Joined, request: pytest.FixtureRequest, tmp_path: Path) -> MakeSpec:
    """Makes a spec of the backend under test; keyword arguments override its fields."""

    def make(**options: object) -> LocationSpec:
        return joined.spec(request.getfixturevalue, tmp_path, **options)

    return make


@pytest.fixture(scope="session")
def opened() -> Iterator[dict[str, Backend]]:
    """Backends of servers, one for the whole run each: making an SDK's client takes a fifth of a second."""
    backends: dict[str, Backend] = {}
    yield backends
    for backend in backends.values():
        backend.close()


@pytest.fixture
def backend(joined: Joined, make_spec: MakeSpec, opened: dict[str, Backend]) -> Iterator[Backend]:
    """The backend under test, below a prefix of its own."""
    if joined.name in ("memory", "local"):
        own = open_backend(make_spec())
        yield own
        own.close()
        return
    if joined.name not in opened:
        if joined.name in JOINED:
            make_bucket(make_spec())
        opened[joined.name] = open_backend(make_spec())
    yield PrefixedBackend(opened[joined.name], f"t-{uuid.uuid4().hex[:12]}/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Real accounts are asked only when their variables are set; without them their tests are deselected."""
    absent = {name for name in REAL_ACCOUNTS if not real_account_names(name) <= os.environ.keys()}
    dropped = [item for item in items if absent & set(_parameters(item))]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]
        config.stash[_ABSENT] = sorted(absent)


_ABSENT = pytest.StashKey[list[str]]()


def _parameters(item: pytest.Item) -> tuple[str, ...]:
    callspec = getattr(item, "callspec", None)
    return tuple(value for value in callspec.params.values() if isinstance(value, str)) if callspec else ()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        tables.note(report.nodeid, report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in config.stash.get(_ABSENT, []):
        needs = ", ".join(sorted(real_account_names(name)))
        terminalreporter.write_line(f"deselected: {name}, a real account, because these are not set: {needs}")
    for title, lines in tables.drawn():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
