"""Session fixtures: each test server, started when first asked for. Import them in a conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.servers import CannotRun, Server


def _served(server: AbstractContextManager[Server]) -> Iterator[Server]:
    """A promised server that cannot run fails the tests that need it; it never skips them."""
    try:
        running = server.__enter__()
    except CannotRun as error:
        pytest.fail(str(error), pytrace=False)
    try:
        yield running
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    yield from _served(servers.moto())


@pytest.fixture(scope="session")
def test_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return servers.self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def moto_tls_server(test_certificate: tuple[Path, Path]) -> Iterator[Server]:
    yield from _served(servers.moto(test_certificate))


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _served(servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")))


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _served(servers.azurite(tmp_path_factory.mktemp("azurite")))


@pytest.fixture(scope="session")
def fake_gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _served(servers.fake_gcs(tmp_path_factory.mktemp("fake-gcs")))
