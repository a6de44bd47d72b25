"""Making an Azure container client. Owns its options, among them that it never retries; makes no request."""

from __future__ import annotations

import io
from typing import Any

import requests
import urllib3
from azure.core.credentials import AzureSasCredential
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import ContainerClient
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from gsfs.backends.spec import LocationSpec
from gsfs.errors import Unavailable

BLOCK_BYTES = 32 << 20
SINGLE_PUT_BYTES = 64 << 20
"""Larger objects go up in blocks, so that they need not be in memory."""
SINGLE_GET_BYTES = 1 << 30
"""One range is one request, whatever its size."""


def make_client(spec: LocationSpec) -> ContainerClient:
    """A client for the spec; without credentials in it, azure-identity's chain finds them."""
    options: dict[str, Any] = {
        "retry_total": 0,
        "max_single_put_size": SINGLE_PUT_BYTES,
        "max_block_size": BLOCK_BYTES,
        "max_single_get_size": SINGLE_GET_BYTES,
        "transport": _transport(spec),
    }
    if spec.proxy is not None:
        options["proxies"] = {"http": spec.proxy.reveal(), "https": spec.proxy.reveal()}
    if spec.connection_string is not None:
        text = spec.connection_string.reveal()
        return ContainerClient.from_connection_string(text, spec.bucket, **options)
    url = spec.endpoint or f"https://{spec.account}.blob.core.windows.net"
    return ContainerClient(url, spec.bucket, credential=_credential(spec), **options)


def _credential(spec: LocationSpec) -> Any:
    if spec.anonymous:
        return None
    if spec.sas is not None:
        return AzureSasCredential(spec.sas.reveal().lstrip("?"))
    if spec.account_key is not None:
        return {"account_name": spec.account, "account_key": spec.account_key.reveal()}
    from azure.identity import DefaultAzureCredential  # only here: it is slow to import

    return DefaultAzureCredential()


def _transport(spec: LocationSpec) -> RequestsTransport:
    session = WholeBodySession()
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=2 * spec.concurrency)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return RequestsTransport(
        session=session,
        session_owner=True,
        connection_timeout=spec.connect_timeout_s,
        read_timeout=spec.timeout_s,
        connection_verify=spec.ca_bundle or True,
    )


class WholeBodySession(requests.Session):
    """Reads each body to its end before the SDK sees the answer.

    The SDK's downloader answers a broken body by three repeats of its own with a sleep between; there is one
    policy for repeats, and it is not there. A body is taken as it was sent, compressed or not, because a
    location holds bytes, and ranges count them.
    """

    def request(self, *args: Any, **options: Any) -> requests.Response:
        answer = super().request(*args, **options)
        if not options.get("stream"):
            return answer
        try:
            body = answer.raw.read(decode_content=False)
        except (HTTPError, OSError) as error:
            raise Unavailable(f"the body broke off: {type(error).__name__}") from None
        finally:
            answer.raw.release_conn()
        answer.headers.pop("Content-Encoding", None)
        answer.raw = urllib3.HTTPResponse(
            body=io.BytesIO(body),
            headers=dict(answer.headers),
            status=answer.status_code,
            preload_content=False,
        )
        return answer
