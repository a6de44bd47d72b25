"""Every test of the store runs on SQLite and on PostgreSQL. Owns the databases; PostgreSQL is started by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gsfs.namespace.store import Store, create, open_database, open_store
from tests.support.postgres import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without a namespace."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/namespace.db"
    started: Server = request.getfixturevalue("server")
    return started.new_database()


@pytest.fixture
def url(empty: str) -> str:
    """URL of a new namespace."""
    database = open_database(empty, create=True)
    try:
        create(database, "test", uid=0, gid=0)
    finally:
        database.close()
    return empty


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url)
    yield opened
    opened.close()
