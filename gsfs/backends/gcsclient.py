"""The authorized session to Google Cloud Storage and the URLs of its JSON API. Owns credentials, pools and
trust; makes no request, except that Google's own chain may ask for credentials."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import google.auth
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from gsfs.backends.spec import LocationSpec
from gsfs.errors import Misconfigured

SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
SERVICE: Final = "https://storage.googleapis.com"


class Urls:
    """Addresses within one bucket (JSON API, v1)."""

    def __init__(self, spec: LocationSpec) -> None:
        self.base = spec.endpoint.rstrip("/") or SERVICE
        bucket = quote(spec.bucket, safe="")
        self.objects = f"{self.base}/storage/v1/b/{bucket}/o"
        self.upload = f"{self.base}/upload/storage/v1/b/{bucket}/o"
        self._download = f"{self.base}/download/storage/v1/b/{bucket}/o"

    def object(self, key: str) -> str:
        return f"{self.objects}/{quote(key, safe='')}"

    def media(self, key: str) -> str:
        return f"{self._download}/{quote(key, safe='')}?alt=media"

    def rewrite(self, source_key: str, key: str) -> str:
        target = self.object(key).removeprefix(f"{self.base}/storage/v1/")
        return f"{self.object(source_key)}/rewriteTo/{target}"


def make_session(spec: LocationSpec) -> Any:
    """A session for the spec; without credentials in it, Google's own chain finds them."""
    session: Any = AuthorizedSession(_credentials(spec))  # type: ignore[no-untyped-call]  # google-auth leaves it untyped
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=2 * spec.concurrency, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    if spec.ca_bundle:
        session.verify = spec.ca_bundle
    if spec.proxy is not None:
        session.proxies = {"http": spec.proxy.reveal(), "https": spec.proxy.reveal()}
    if spec.project:
        session.headers["x-goog-user-project"] = spec.project
    return session


def _credentials(spec: LocationSpec) -> Any:
    if spec.anonymous:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]  # google-auth leaves it untyped
    if spec.credentials_file:
        return _service_account(spec)
    return google.auth.default(scopes=[SCOPE])[0]


def _service_account(spec: LocationSpec) -> Any:
    load: Any = service_account.Credentials.from_service_account_file
    try:
        return load(spec.credentials_file, scopes=[SCOPE])
    except (OSError, ValueError) as error:  # its message may quote the file
        kind = type(error).__name__
        raise Misconfigured(
            f"location {spec.id!r}: key credentials_file: {spec.credentials_file} is no service account ({kind})"
        ) from None


def upload_large(
    spec: LocationSpec,
    session: Any,
    key: str,
    stream: Any,
    size_bytes: int,
    facts: dict[str, Any],
) -> None:
    """Store a stream through a resumable upload; ``facts`` are fields of the object besides its bytes."""
    from google.cloud import storage  # only here: 39 MB that most locations never need

    # _http is how the library takes a session; it carries the CA bundle, the proxy and the pool.
    client = storage.Client(
        project=spec.project or "unused",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # google-auth leaves it untyped
        _http=session,
        client_options={"api_endpoint": spec.endpoint} if spec.endpoint else None,
    )
    blob = client.bucket(spec.bucket).blob(key, chunk_size=32 << 20)
    blob.metadata = facts["metadata"]
    blob.crc32c = facts["crc32c"]
    if "storageClass" in facts:
        blob.storage_class = facts["storageClass"]
    blob.upload_from_file(
        stream,
        size=size_bytes,
        content_type="application/octet-stream",
        if_generation_match=facts.get("ifGenerationMatch"),
        timeout=(spec.connect_timeout_s, spec.timeout_s),
        checksum=None,
        retry=None,
    )
