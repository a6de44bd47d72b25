"""Who takes part in the contract suite: one entry for each backend. Owns their specs and what they lack."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from gsfs.backends.secret import Secret
from gsfs.backends.spec import LocationSpec
from tests.support import locations

BUCKET: Final = "gsfs-contract"
GetFixture = Callable[[str], Any]


class SpecMaker(Protocol):
    def __call__(self, get: GetFixture, folder: Path, **options: Any) -> LocationSpec: ...


@dataclass(frozen=True, slots=True)
class Joined:
    """One backend on one server."""

    name: str
    spec: SpecMaker
    checks_credentials: bool = False
    """The server refuses wrong credentials (moto and fake-gcs-server accept any)."""
    refuses: frozenset[str] = frozenset()
    """Odd keys that this server keeps under another name or without their bytes; gsfs makes no such keys."""


def _memory(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    return LocationSpec(id="memory", kind="memory", **options)


def _local(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    return locations.local_spec("local", folder / "location", **options)


def _moto(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    return locations.s3_spec("moto", get("moto_server").url, BUCKET, **options)


def _moto_tls(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    tls = {"ca_bundle": str(get("test_certificate")[0])}
    return locations.s3_spec("moto-tls", get("moto_tls_server").url, BUCKET, **{**tls, **options})


def _seaweedfs(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    return locations.s3_spec("seaweedfs", get("seaweedfs_server").url, BUCKET, **options)


def _azurite(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    return locations.azure_spec("azurite", get("azurite_server").url, BUCKET, **options)


def _fake_gcs(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    return locations.gcs_spec("fake-gcs", get("fake_gcs_server").url, BUCKET, **options)


def make_bucket(spec: LocationSpec) -> None:
    """The bucket of a spec at a test server."""
    makers = {
        "s3": locations.make_s3_bucket,
        "azure": locations.make_azure_container,
        "gcs": locations.make_gcs_bucket,
    }
    if spec.kind in makers:
        makers[spec.kind](spec)


JOINED: Final[Mapping[str, Joined]] = {
    each.name: each
    for each in (
        Joined("memory", _memory),
        Joined("local", _local),
        Joined("moto", _moto),
        Joined("mototls", _moto_tls),
        Joined(
            "seaweedfs",
            _seaweedfs,
            checks_credentials=True,
            refuses=frozenset({"backslash", "trailing-slash", "double-slash"}),
        ),
        Joined("azurite", _azurite, checks_credentials=True),
        Joined("fakegcs", _fake_gcs),
    )
}


# --- real accounts: only when these variables are set (docs/development.md names them)


def _aws(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    names = {"bucket": os.environ["GSFS_TEST_S3_BUCKET"], "region": os.environ["GSFS_TEST_S3_REGION"]}
    endpoint = {"endpoint": os.environ.get("GSFS_TEST_S3_ENDPOINT", "")}
    return LocationSpec(id="aws", kind="s3", **{**names, **endpoint, **options})


def _azure(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    text = Secret(os.environ["GSFS_TEST_AZURE_CONNECTION_STRING"])
    container = os.environ["GSFS_TEST_AZURE_CONTAINER"]
    return LocationSpec(
        id="azure", kind="azure", **{"connection_string": text, "bucket": container, **options}
    )


def _google(get: GetFixture, folder: Path, **options: Any) -> LocationSpec:
    return LocationSpec(id="gcs", kind="gcs", **{"bucket": os.environ["GSFS_TEST_GCS_BUCKET"], **options})


REAL_ACCOUNTS: Final[Mapping[str, Joined]] = {
    "aws": Joined("aws", _aws),
    "azure": Joined("azure", _azure),
    "gcs": Joined("gcs", _google),
}


def real_account_names(name: str) -> frozenset[str]:
    """The variables without which a real account is not asked."""
    return {
        "aws": frozenset({"GSFS_TEST_S3_BUCKET", "GSFS_TEST_S3_REGION"}),
        "azure": frozenset({"GSFS_TEST_AZURE_CONNECTION_STRING", "GSFS_TEST_AZURE_CONTAINER"}),
        "gcs": frozenset({"GSFS_TEST_GCS_BUCKET"}),
    }[name]
