"""Fixtures of the tests on a real mount. Owns that each test has a namespace of its own, gone afterwards.

Knobs of the configuration go by parameter::

    @pytest.mark.parametrize("knobs", [{"cache": {"size": "64MiB"}, "transfer": {"upload": "held"}}])
    def test_...(mounted: Path) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import (  # noqa: F401  # fixtures are found by name
    azurite_server,
    fake_gcs_server,
    seaweedfs_server,
)
from tests.support.mounting import CAN_MOUNT, Knobs, Mount, mounted_namespace

MakeMount = Callable[..., Mount]


@pytest.fixture
def knobs() -> Knobs:
    """What differs from the defaults: {section: {key: value}}; ``location`` is the only location."""
    return {}


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MakeMount]:
    """Mounts by the call: make_mount(knobs, options=("ro",), environment={...})."""
    if not CAN_MOUNT:
        pytest.skip("needs root and /dev/fuse")
    with ExitStack() as stack:
        made = 0

        def make(knobs: Knobs | None = None, **more: Any) -> Mount:
            nonlocal made
            made += 1
            home = tmp_path / f"namespace{made}"
            home.mkdir()
            return stack.enter_context(mounted_namespace(home, knobs, **more))

        yield make


@pytest.fixture
def mount(make_mount: MakeMount, knobs: Knobs) -> Mount:
    """One mount, with ``knobs``."""
    return make_mount(knobs)


@pytest.fixture
def mounted(mount: Mount) -> Path:
    """A path inside a bucket of a real mount."""
    return mount.bucket
