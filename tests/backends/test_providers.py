"""Claims about single providers beyond the contract: options, credentials, trust, what goes over the wire."""

from __future__ import annotations

import base64
import contextlib
import datetime
import logging
from pathlib import Path
from typing import Any

import pytest

from gsfs.backends.azure import AzureBackend
from gsfs.backends.base import BytesSource
from gsfs.backends.checksum import crc32c
from gsfs.backends.gcs import GcsBackend
from gsfs.backends.registry import open_backend
from gsfs.backends.s3 import S3Backend
from gsfs.backends.secret import Secret
from gsfs.backends.spec import LocationSpec
from gsfs.errors import BackendPermission, Misconfigured
from tests.backends.joined import JOINED, make_bucket
from tests.support import locations, servers
from tests.support.faultproxy import FaultProxy
from tests.support.servers import Server

BUCKET = "gsfs-providers"
DATA = b"some bytes" * 1000
SOURCE = BytesSource(DATA, crc32c(DATA))


def s3(server: Server, **options: Any) -> LocationSpec:
    return locations.s3_spec("s3", server.url, BUCKET, **options)


def sent_headers(backend: S3Backend) -> list[dict[str, str]]:
    """The headers of each PutObject from now on, as they are sent."""
    seen: list[dict[str, str]] = []

    def note(request: Any, **_facts: Any) -> None:
        seen.append({str(name).lower(): str(value) for name, value in request.headers.items()})

    backend._client.meta.events.register("before-send.s3.PutObject", note)
    return seen


# --- S3


def test_s3_over_tls_signs_no_payload_and_sends_crc32c(
    moto_tls_server: Server, test_certificate: tuple[Path, Path]
) -> None:
    spec = s3(moto_tls_server, ca_bundle=str(test_certificate[0]))
    make_bucket(spec)
    backend = S3Backend(spec)
    headers = sent_headers(backend)
    backend.put("one", SOURCE)
    (sent,) = headers
    assert "UNSIGNED-PAYLOAD" in sent["x-amz-content-sha256"]
    assert "x-amz-checksum-crc32c" in sent
    assert "expect" not in sent
    assert "aws-chunked" not in str(sent)


def test_s3_drops_md5_once_the_server_has_shown_that_it_checks_crc32c(seaweedfs_server: Server) -> None:
    spec = s3(seaweedfs_server)
    make_bucket(spec)
    backend = S3Backend(spec)
    headers = sent_headers(backend)
    for key in ("one", "two", "three"):
        backend.put(key, SOURCE)
    assert ["content-md5" in sent for sent in headers] == [True, False, False]


@pytest.mark.parametrize(("mode", "md5", "crc"), [("md5", True, False), ("crc32c", False, True)])
def test_s3_proves_an_upload_as_it_is_told(moto_server: Server, mode: str, md5: bool, crc: bool) -> None:
    spec = s3(moto_server, put_checksum=mode)
    make_bucket(spec)
    backend = S3Backend(spec)
    headers = sent_headers(backend)
    for key in ("one", "two"):
        backend.put(key, SOURCE)
    assert ["content-md5" in sent for sent in headers] == [md5, md5]
    assert ["x-amz-checksum-crc32c" in sent for sent in headers] == [crc, crc]


def test_s3_works_with_botocores_own_checksums_too(
    moto_tls_server: Server, test_certificate: tuple[Path, Path]
) -> None:
    spec = s3(
        moto_tls_server,
        ca_bundle=str(test_certificate[0]),
        request_checksum_calculation="when_supported",
        response_checksum_validation="when_supported",
    )
    make_bucket(spec)
    backend = S3Backend(spec)
    backend.put("object", SOURCE)
    assert backend.get_range("object", 0, len(DATA)) == DATA
    assert backend.get_range("object", 7, 10) == DATA[7:17]
    backend.delete_many(["object", "other"])


def test_s3_does_not_trust_an_unknown_certificate(moto_tls_server: Server) -> None:
    with pytest.raises(Misconfigured, match="ca_bundle"):
        S3Backend(s3(moto_tls_server)).check()


def test_s3_without_any_credentials_is_denied(
    moto_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    backend = S3Backend(s3(moto_server, access_key=None, secret_key=None))
    with pytest.raises(BackendPermission, match="NoCredentialsError"):
        backend.check()


def test_s3_hides_a_session_token(seaweedfs_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    make_bucket(s3(seaweedfs_server))
    caplog.set_level(logging.DEBUG)
    backend = open_backend(s3(seaweedfs_server, session_token=Secret("c2Vzc2lvbi10b2tlbg")))
    with contextlib.suppress(BackendPermission):  # this server knows no such tokens
        backend.check()
    assert "c2Vzc2lvbi10b2tlbg" not in caplog.text
    assert servers.SECRET_KEY not in caplog.text


def test_s3_takes_its_credentials_from_the_sdks_own_chain(
    seaweedfs_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bucket(s3(seaweedfs_server))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET_KEY)
    S3Backend(s3(seaweedfs_server, access_key=None, secret_key=None)).check()


def test_an_unknown_profile_is_misconfigured(moto_server: Server) -> None:
    with pytest.raises(Misconfigured, match="ProfileNotFound"):
        S3Backend(s3(moto_server, access_key=None, secret_key=None, profile="no-such-profile"))


def test_s3_keeps_the_storage_class(moto_server: Server) -> None:
    spec = s3(moto_server, storage_class="STANDARD_IA")
    make_bucket(s3(moto_server))
    backend = S3Backend(spec)
    backend.put("cold", SOURCE)
    assert backend._client.head_object(Bucket=BUCKET, Key="cold")["StorageClass"] == "STANDARD_IA"


# --- Azure


def connection_string(server: Server) -> str:
    parts = {
        "DefaultEndpointsProtocol": "http",
        "AccountName": servers.AZURITE_ACCOUNT,
        "AccountKey": servers.AZURITE_KEY,
        "BlobEndpoint": server.url,
    }
    return ";".join(f"{name}={value}" for name, value in parts.items())


def test_azure_takes_a_connection_string(azurite_server: Server) -> None:
    make_bucket(locations.azure_spec("azure", azurite_server.url, BUCKET))
    text = Secret(connection_string(azurite_server))
    backend = open_backend(LocationSpec(id="azure", kind="azure", bucket=BUCKET, connection_string=text))
    backend.put("object", SOURCE)
    assert backend.get_range("object", 0, len(DATA)) == DATA


def test_azure_takes_a_shared_access_signature_and_hides_it(
    azurite_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    make_bucket(locations.azure_spec("azure", azurite_server.url, BUCKET))
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    sas = generate_container_sas(
        servers.AZURITE_ACCOUNT,
        BUCKET,
        account_key=servers.AZURITE_KEY,
        permission=ContainerSasPermissions(read=True, write=True, list=True, delete=True, create=True),
        expiry=later,
    )
    spec = locations.azure_spec(
        "azure", azurite_server.url, BUCKET, account="", account_key=None, sas=Secret(sas)
    )
    caplog.set_level(logging.DEBUG)
    backend = open_backend(spec)
    backend.check()
    backend.put("object", SOURCE)
    assert backend.get_range("object", 0, len(DATA)) == DATA
    assert sas[-20:] not in caplog.text
    assert backend.copy("object", "copy").size_bytes == len(DATA)
    backend.delete_many(["object", "copy"])
    spoiled = sas[:-8] + "AAAAAA%3D"
    wrong = locations.azure_spec(
        "azure", azurite_server.url, BUCKET, account="", account_key=None, sas=Secret(spoiled)
    )
    with pytest.raises(BackendPermission) as caught:
        AzureBackend(wrong).check()
    assert "AAAAAA" not in str(caught.value)


def test_azure_keeps_the_access_tier_and_refuses_others(azurite_server: Server) -> None:
    make_bucket(locations.azure_spec("azure", azurite_server.url, BUCKET))
    backend = AzureBackend(locations.azure_spec("azure", azurite_server.url, BUCKET, storage_class="Cool"))
    backend.put("cool", SOURCE)
    assert backend._client.get_blob_client("cool").get_blob_properties().blob_tier == "Cool"
    with pytest.raises(Misconfigured, match="azure takes Hot, Cool"):
        AzureBackend(locations.azure_spec("azure", azurite_server.url, BUCKET, storage_class="Tepid"))


def test_azure_goes_on_with_a_listing_whose_token_is_lost(azurite_server: Server) -> None:
    spec = locations.azure_spec("azure", azurite_server.url, BUCKET)
    make_bucket(spec)
    backend = AzureBackend(spec)
    keys = [f"lost/{number}" for number in range(7)]
    for key in keys:
        backend.put(key, SOURCE)
    assert [info.key for info in backend.list_page("lost/", "", 3)] == keys[:3]
    fresh = AzureBackend(spec)  # as after a restart
    assert [info.key for info in fresh.list_page("lost/", keys[2], 3)] == keys[3:6]


# --- Google


def test_gcs_reads_its_credentials_from_a_file_that_must_be_right(
    fake_gcs_server: Server, tmp_path: Path
) -> None:
    wrong = tmp_path / "service-account.json"
    wrong.write_text('{"type": "service_account", "private_key": "c2VjcmV0"}')
    with pytest.raises(Misconfigured, match="credentials_file") as caught:
        GcsBackend(
            locations.gcs_spec(
                "gcs", fake_gcs_server.url, BUCKET, anonymous=False, credentials_file=str(wrong)
            )
        )
    assert "c2VjcmV0" not in str(caught.value)


# --- all


@pytest.mark.parametrize("name", ["moto", "azurite", "fakegcs"])
def test_requests_go_through_the_proxy_that_is_configured(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    plain = JOINED[name].spec(request.getfixturevalue, tmp_path)
    make_bucket(plain)
    with FaultProxy(plain.endpoint) as proxy:
        url = "http://127.0.0.1:" + proxy.url.split(":")[2].split("/")[0]
        backend = open_backend(JOINED[name].spec(request.getfixturevalue, tmp_path, proxy=Secret(url)))
        backend.put("through-a-proxy", SOURCE)
        assert backend.get_range("through-a-proxy", 0, len(DATA)) == DATA
        assert proxy.requests.total() >= 2
        backend.close()


@pytest.mark.parametrize("name", ["moto", "seaweedfs", "azurite", "fakegcs"])
def test_an_operation_is_one_request(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    spec = JOINED[name].spec(request.getfixturevalue, tmp_path)
    make_bucket(spec)
    with FaultProxy(spec.endpoint) as proxy:
        backend = open_backend(
            JOINED[name].spec(request.getfixturevalue, tmp_path, endpoint=proxy.url, prefix="one-request/")
        )
        large = bytes(16 << 20)
        steps = {
            "put": lambda: backend.put("a", SOURCE),
            "put of a segment": lambda: backend.put("b", BytesSource(large, crc32c(large))),
            "put if absent": lambda: backend.put("c", SOURCE, if_absent=True),
            "get": lambda: backend.get_range("b", 0, 16 << 20),
            "head": lambda: backend.head("a"),
            "list": lambda: backend.list_page("", "", 1000),
            "delete": lambda: backend.delete_many(["a"]),
            "check": backend.check,
        }
        found: dict[str, int] = {}
        for step, run in steps.items():
            before = proxy.requests.total()
            run()
            found[step] = proxy.requests.total() - before
        backend.delete_many(["b", "c"])
        backend.close()
    assert found == dict.fromkeys(steps, 1)


def test_the_test_secrets_are_not_real() -> None:
    assert base64.b64decode(servers.AZURITE_KEY).startswith(b"gsfs-test")
