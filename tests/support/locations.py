"""Specs of locations on the test servers, and their buckets. Owns creating buckets; starts no server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from gsfs.backends.secret import Secret
from gsfs.backends.spec import LocationSpec
from tests.support import servers


def s3_spec(id: str, url: str, default_bucket: str, **options: Any) -> LocationSpec:
    """A location at a server that speaks S3; ``options`` override."""
    keys = {"access_key": Secret(servers.ACCESS_KEY), "secret_key": Secret(servers.SECRET_KEY)}
    return LocationSpec(id=id, kind="s3", **{"bucket": default_bucket, "endpoint": url, **keys, **options})


def make_s3_bucket(spec: LocationSpec) -> None:
    from gsfs.backends.s3client import make_client

    client = make_client(spec)
    if spec.bucket not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=spec.bucket)
    client.close()


def azure_spec(id: str, url: str, default_bucket: str, **options: Any) -> LocationSpec:
    """A location at azurite; ``options`` override."""
    key = {"account": servers.AZURITE_ACCOUNT, "account_key": Secret(servers.AZURITE_KEY)}
    return LocationSpec(id=id, kind="azure", **{"bucket": default_bucket, "endpoint": url, **key, **options})


def make_azure_container(spec: LocationSpec) -> None:
    from gsfs.backends.azureclient import make_client

    with make_client(spec) as client:
        if not client.exists():
            client.create_container()


def gcs_spec(id: str, url: str, default_bucket: str, **options: Any) -> LocationSpec:
    """A location at fake-gcs-server; ``options`` override."""
    given = {"bucket": default_bucket, "endpoint": url, "anonymous": True}
    return LocationSpec(id=id, kind="gcs", **{**given, **options})


def make_gcs_bucket(spec: LocationSpec) -> None:
    request = urllib.request.Request(
        f"{spec.endpoint}/storage/v1/b?project=gsfs",
        data=json.dumps({"name": spec.bucket}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:  # there already
            raise


def local_spec(id: str, folder: Path, **options: Any) -> LocationSpec:
    """A location in a directory, which is made; ``options`` override."""
    folder.mkdir(parents=True, exist_ok=True)
    return LocationSpec(id=id, kind="local", **{"path": str(folder), **options})
