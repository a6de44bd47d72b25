"""Azure Blob Storage through azure-storage-blob. Owns the requests; ``azureclient`` owns the client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob import ContentSettings, StandardBlobTier
from requests.exceptions import RequestException

from gsfs.backends.azureclient import SINGLE_PUT_BYTES, make_client
from gsfs.backends.base import BytesSource, Capabilities, ObjectInfo, Source
from gsfs.backends.checksum import METADATA_KEY, crc32c, from_hex, to_hex
from gsfs.backends.httperrors import broken_off, error_for, scrub
from gsfs.backends.pagetoken import PageTokens
from gsfs.backends.ranges import check_range
from gsfs.backends.source import crc32c_of_source, open_source, read_source
from gsfs.backends.spec import LocationSpec
from gsfs.errors import (
    BackendCorrupt,
    BackendError,
    BackendPermission,
    Misconfigured,
    ObjectNotFound,
    Unavailable,
)

CAPABILITIES: Final = Capabilities(
    max_object_bytes=50_000 * (32 << 20),
    max_key_bytes=1024,
    copy_within=True,
    put_if_absent=True,
    native_crc32c=False,
    storage_classes=("Hot", "Cool", "Cold", "Archive"),
    delete_batch=256,
)

_OCTETS: Final = ContentSettings(content_type="application/octet-stream")
_PAGE: Final = 5000


class AzureBackend:
    """One container. Uploads are proven by Content-MD5, which the service verifies; CRC32C is metadata."""

    def __init__(self, spec: LocationSpec) -> None:
        self.capabilities = CAPABILITIES
        self._secrets = spec.secrets()
        self._tokens = PageTokens()
        self._extra: dict[str, Any] = {}
        if spec.storage_class:
            if spec.storage_class not in CAPABILITIES.storage_classes:
                takes = ", ".join(CAPABILITIES.storage_classes)
                raise Misconfigured(f"key storage_class is {spec.storage_class!r}, azure takes {takes}")
            self._extra["standard_blob_tier"] = StandardBlobTier(spec.storage_class)
        try:
            self._client: Any = make_client(spec)
        except ValueError:  # its message may quote the connection string
            raise Misconfigured(f"location {spec.id!r}: azure rejects the credentials' form") from None

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        what = f"put {key}"
        _refuse_unsafe(what, key)
        if isinstance(source, BytesSource) or source.size_bytes <= SINGLE_PUT_BYTES:
            data = read_source(source)
            found = crc32c(data)
            answer = self._upload(what, key, data, source, found, if_absent)
        else:
            with open_source(source) as stream:
                answer = self._upload(what, key, stream, source, crc32c_of_source(source), if_absent)
        return _info(key, source.size_bytes, answer, source.crc32c)

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        what = f"get {key}"
        if length <= 0:
            return b""
        same: dict[str, Any] = {}
        if if_match:
            same = {"etag": f'"{if_match}"', "match_condition": MatchConditions.IfNotModified}
        headers: dict[str, str] = {}
        try:
            with self._translated(what):
                answer = self._client.get_blob_client(key).download_blob(
                    offset,
                    length,
                    max_concurrency=1,
                    **same,
                    raw_response_hook=lambda raw: headers.update(raw.http_response.headers),
                )
                body: bytes = answer.readall()
        except _PastTheEnd:
            return b""
        found = {name.lower(): value for name, value in headers.items()}
        whole = from_hex((answer.properties.metadata or {}).get(METADATA_KEY))
        return check_range(what, body, offset, length, found.get("content-range"), whole)

    def head(self, key: str) -> ObjectInfo:
        with self._translated(f"head {key}"):
            facts = self._client.get_blob_client(key).get_blob_properties()
        return _info(key, facts.size, facts, _kept_crc32c(facts))

    def delete_many(self, keys: Sequence[str]) -> None:
        if len(keys) == 1:
            self._delete_one(keys[0])
            return
        for first in range(0, len(keys), self.capabilities.delete_batch):
            batch = keys[first : first + self.capabilities.delete_batch]
            what = f"delete {len(batch)} keys"
            with self._translated(what):
                answers = list(self._client.delete_blobs(*batch, raise_on_any_failure=False))
            if len(answers) != len(batch):
                raise Unavailable(f"{what}: only {len(answers)} answers came back")
            for key, answer in zip(batch, answers, strict=True):
                if answer.status_code not in (202, 404):
                    code = answer.headers.get("x-ms-error-code", "")
                    raise error_for(f"{what}: {key}", answer.status_code, code, "", answer.headers)

    def list_page(self, prefix: str, start_after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        page: list[ObjectInfo] = []
        token = self._tokens.take(prefix, start_after) if start_after else None
        # The service cannot start after a key: without the token of the page before, it skips from the start.
        skip_to = _order(start_after) if start_after and token is None else None
        while True:
            found, token = self._one_page(prefix, token, min(_PAGE, limit - len(page)))
            page += (info for info in found if skip_to is None or _order(info.key) > skip_to)
            if not token:
                return page
            if len(page) >= limit:
                self._tokens.remember(prefix, page[-1].key, token)
                return page

    def copy(self, source_key: str, key: str) -> ObjectInfo:
        _refuse_unsafe(f"copy {source_key}", key)
        with self._translated(f"copy {source_key}"):
            source = self._client.get_blob_client(source_key)
            target = self._client.get_blob_client(key)
            answer = target.start_copy_from_url(source.url)
            if answer.get("copy_status") == "pending":
                # Within one account this is rare. Nobody waits here: give up and let the caller try again.
                target.abort_copy(answer["copy_id"])
                raise Unavailable(f"copy {source_key}: the service put it off", 1.0)
        return self.head(key)

    def check(self) -> None:
        try:
            # A listing of one, because a SAS for a container may not ask for the container's properties.
            with self._translated("check"):
                next(self._client.list_blobs(results_per_page=1).by_page(), None)
        except ObjectNotFound:
            raise Misconfigured("check: there is no such container") from None

    def close(self) -> None:
        self._client.close()

    def _upload(
        self, what: str, key: str, body: Any, source: Source, found_crc32c: int, if_absent: bool
    ) -> Mapping[str, Any]:
        if found_crc32c != source.crc32c:
            raise BackendCorrupt(f"{what}: the local bytes fail their CRC32C")
        with self._translated(what):
            answer: Mapping[str, Any] = self._client.get_blob_client(key).upload_blob(
                body,
                length=source.size_bytes,
                overwrite=not if_absent,
                validate_content=True,
                max_concurrency=1,
                metadata={METADATA_KEY: to_hex(source.crc32c)},
                content_settings=_OCTETS,
                **self._extra,
            )
        return answer

    def _delete_one(self, key: str) -> None:
        try:
            with self._translated(f"delete {key}"):
                self._client.get_blob_client(key).delete_blob()
        except ObjectNotFound:
            return

    def _one_page(self, prefix: str, token: str | None, limit: int) -> tuple[list[ObjectInfo], str | None]:
        with self._translated(f"list {prefix}"):
            listing = self._client.list_blobs(
                name_starts_with=prefix or None, results_per_page=limit, include=["metadata"]
            )
            pages = listing.by_page(continuation_token=token)
            found = [_info(facts.name, facts.size, facts, _kept_crc32c(facts)) for facts in next(pages, ())]
            return found, pages.continuation_token or None

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except BackendError:
            raise
        except HttpResponseError as error:
            raise self._answered(what, error) from None
        except (AzureError, RequestException, OSError) as error:
            raise broken_off(what, error, self._secrets) from None

    def _answered(self, what: str, error: HttpResponseError) -> BackendError:
        given = getattr(error, "error_code", None)  # an enumeration, a text or nothing
        code = str(getattr(given, "value", given) or "")
        if error.response is None:  # no answer of the service: azure-identity found nothing, or a bad body
            kind = BackendPermission if type(error).__name__ == "ClientAuthenticationError" else Unavailable
            return kind(f"{what}: {type(error).__name__}")
        if error.status_code == 416:
            return _PastTheEnd(what)
        first_line = scrub((error.message or "").partition("\n")[0], self._secrets)
        if (error.status_code or 0) < 400:
            return Unavailable(f"{what}: the answer cannot be read")
        if error.status_code == 400 and "md5" in first_line.lower():
            code = "Md5Mismatch"
        headers: Mapping[str, str] = getattr(error.response, "headers", {})
        return error_for(what, error.status_code or 500, code, first_line, headers)


class _PastTheEnd(BackendError):
    """416: the range begins at or after the end of the object. Never leaves this module."""


def _refuse_unsafe(what: str, key: str) -> None:
    """Names that HTTP clients or the service rewrite on the way: they would end up under another name."""
    if "\\" in key or any(component in (".", "..") for component in key.split("/")):
        raise Misconfigured(f"{what}: azure takes no backslash and no component . or .. in a name")


def _order(key: str) -> bytes:
    """The service lists by UTF-16 code units."""
    return key.encode("utf-16-be", "surrogatepass")


def _kept_crc32c(facts: Any) -> int | None:
    return from_hex((facts.metadata or {}).get(METADATA_KEY))


def _info(key: str, size_bytes: int, facts: Any, checksum: int | None) -> ObjectInfo:
    mtime_ns = int(facts["last_modified"].timestamp()) * 10**9
    return ObjectInfo(key, size_bytes, str(facts["etag"]).strip('"'), mtime_ns, checksum)
