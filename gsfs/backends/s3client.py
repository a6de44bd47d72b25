"""Making a boto3 client. Owns its options, among them that it never retries; makes no request itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore import exceptions as botocore
from botocore.config import Config
from botocore.handlers import convert_body_to_file_like_object

from gsfs.backends.httperrors import broken_off, scrub
from gsfs.backends.secret import Secret
from gsfs.backends.spec import LocationSpec
from gsfs.errors import BackendError, BackendPermission, Misconfigured


def make_client(spec: LocationSpec) -> Any:
    """A client for the spec; without keys in it, boto3's own chain finds the credentials."""
    # A session of its own: boto3's default session is shared and not safe to create clients from in threads.
    session = boto3.Session(profile_name=spec.profile or None)
    client: Any = session.client(  # type: ignore[call-overload, unused-ignore]  # typed only with stubs
        "s3",
        region_name=spec.region or ("us-east-1" if spec.endpoint else None),
        endpoint_url=spec.endpoint or None,
        verify=spec.ca_bundle or None,
        aws_access_key_id=revealed(spec.access_key),
        aws_secret_access_key=revealed(spec.secret_key),
        aws_session_token=revealed(spec.session_token),
        config=_config(spec),
    )
    # botocore makes a stream of a body in memory. It then sends it 16 KiB at a time, and asks "Expect:
    # 100-continue" before each: a round trip for every upload.
    client.meta.events.unregister("before-parameter-build.s3.PutObject", convert_body_to_file_like_object)
    return client


def _config(spec: LocationSpec) -> Config:
    path_style = bool(spec.endpoint) if spec.path_style is None else spec.path_style
    proxy = revealed(spec.proxy)
    # Over TLS the body needs no signature besides: that would hash every byte once more.
    sign_payload = spec.endpoint.startswith("http://")
    return Config(
        signature_version=UNSIGNED if spec.anonymous else "s3v4",
        s3={
            "addressing_style": "path" if path_style else "auto",
            "payload_signing_enabled": sign_payload,
        },
        retries={"total_max_attempts": 1},
        max_pool_connections=2 * spec.concurrency,
        connect_timeout=spec.connect_timeout_s,
        read_timeout=spec.timeout_s,
        tcp_keepalive=True,
        proxies={"http": proxy, "https": proxy} if proxy else None,
        request_checksum_calculation=spec.request_checksum_calculation,
        response_checksum_validation=spec.response_checksum_validation,
    )


def translate_botocore(what: str, error: Exception, secrets: Iterable[str]) -> BackendError:
    """The meaning of an error that is no answer of the server."""
    text = f"{what}: {type(error).__name__}: {scrub(str(error), secrets)}"
    refused = (
        botocore.NoCredentialsError,
        botocore.PartialCredentialsError,
        botocore.CredentialRetrievalError,
        botocore.TokenRetrievalError,
        botocore.UnauthorizedSSOTokenError,
    )
    wrong = (
        botocore.ParamValidationError,
        botocore.ProfileNotFound,
        botocore.NoRegionError,
        botocore.InvalidRegionError,
        botocore.UnknownEndpointError,
        botocore.ConfigParseError,
        botocore.InvalidProxiesConfigError,
    )
    if isinstance(error, refused):
        return BackendPermission(text)
    if isinstance(error, wrong):
        return Misconfigured(text)
    return broken_off(what, error, secrets)


def revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()
