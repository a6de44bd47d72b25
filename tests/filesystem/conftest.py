"""A volume of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gsfs.model import Ino
from gsfs.volume import Volume
from tests.support import volumes


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    chosen = volumes.settings(tmp_path)
    volumes.make_namespace(chosen)
    with volumes.opened(chosen) as volume:
        yield volume


@pytest.fixture
def bucket(volume: Volume) -> Ino:
    return volumes.make_bucket(volume)
