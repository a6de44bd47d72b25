"""Google Cloud Storage through its JSON API. Owns the requests; ``gcsclient`` owns session and URLs.

Requests go over google-auth's authorized session: one request for any segment (google-cloud-storage opens a
resumable upload above 8 MiB), a body whose end can be told from a broken one, and no repeats of its own.
Only objects above 64 MiB are uploaded by google-cloud-storage.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from gsfs.backends.base import BytesSource, Capabilities, ObjectInfo, Source
from gsfs.backends.checksum import METADATA_KEY, crc32c, from_base64, to_base64, to_hex
from gsfs.backends.gcsclient import Urls, make_session, upload_large
from gsfs.backends.httperrors import broken_off, error_for, scrub
from gsfs.backends.pagetoken import PageTokens
from gsfs.backends.ranges import check_range, range_header
from gsfs.backends.source import crc32c_of_source, open_source, read_source
from gsfs.backends.spec import LocationSpec
from gsfs.errors import (
    BackendCorrupt,
    BackendError,
    BackendPermission,
    Misconfigured,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
)

CAPABILITIES: Final = Capabilities(
    max_object_bytes=5 << 40,
    max_key_bytes=1024,
    copy_within=True,
    put_if_absent=True,
    native_crc32c=True,
    storage_classes=("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"),
    delete_batch=1,  # deleting is free here, and a batch would be as many requests inside one
)

SINGLE_PUT_BYTES: Final = 64 << 20
"""Larger objects go through a resumable upload, so that they need not be in memory."""
_FIELDS: Final = "name,size,etag,updated,crc32c,generation"


class GcsBackend:
    """One bucket. The service verifies the CRC32C that comes with an upload, and reports it ever after."""

    def __init__(self, spec: LocationSpec) -> None:
        self.capabilities = CAPABILITIES
        self._spec = spec
        self._secrets = spec.secrets()
        self._tokens = PageTokens()
        self._urls = Urls(spec)
        self._timeout = (spec.connect_timeout_s, spec.timeout_s)
        with self._translated("open"):
            self._session: Any = make_session(spec)

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        what = f"put {key}"
        facts: dict[str, Any] = {
            "name": key,
            "crc32c": to_base64(source.crc32c),
            "metadata": {METADATA_KEY: to_hex(source.crc32c)},
        }
        if self._spec.storage_class:
            facts["storageClass"] = self._spec.storage_class
        small = isinstance(source, BytesSource) or source.size_bytes <= SINGLE_PUT_BYTES
        data = read_source(source) if small else b""
        if (crc32c(data) if small else crc32c_of_source(source)) != source.crc32c:
            raise BackendCorrupt(f"{what}: the local bytes fail their CRC32C")
        try:
            if small:
                answer = self._put_at_once(what, facts, data, if_absent)
            else:
                answer = self._put_large(what, facts, source, if_absent)
        except ObjectNotFound:  # nothing but the bucket can be missing
            raise Misconfigured(f"{what}: there is no bucket {self._spec.bucket!r}") from None
        stored = _info(answer)
        if (stored.size_bytes, stored.crc32c) != (source.size_bytes, source.crc32c):
            # It is there, but it is not what was promised: nobody may find it. Only this very generation is
            # removed, because a later attempt may have succeeded meanwhile.
            asked = {"ifGenerationMatch": str(answer["generation"])}
            with suppress(ObjectNotFound, ObjectExists):
                self._json(what, "DELETE", self._urls.object(key), asked)
            raise BackendCorrupt(f"{what}: the server stored {stored.size_bytes} bytes with another CRC32C")
        return stored

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        what = f"get {key}"
        if length <= 0:
            return b""
        # With gzip accepted, objects come as they are stored: ranges count those bytes.
        headers = {"Range": range_header(offset, length), "Accept-Encoding": "gzip"}
        if if_match:
            headers["If-Match"] = if_match
        with self._translated(what):
            answer = self._session.get(
                self._urls.media(key), headers=headers, timeout=self._timeout, stream=True
            )
            with answer:
                if answer.status_code == 416:
                    return b""
                self._raise_unless_ok(what, answer)
                if if_match and answer.headers.get("ETag", if_match).strip('"') != if_match:
                    raise ObjectChanged(f"{what}: is another object now")
                body: bytes = answer.raw.read(decode_content=False)
        content_range = answer.headers.get("Content-Range")
        return check_range(what, body, offset, length, content_range, _hashed_crc32c(answer.headers))

    def head(self, key: str) -> ObjectInfo:
        return _info(self._facts(key))

    def _facts(self, key: str) -> Mapping[str, Any]:
        return self._json(f"head {key}", "GET", self._urls.object(key), {"fields": _FIELDS})

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                self._json(f"delete {key}", "DELETE", self._urls.object(key))
            except ObjectNotFound:
                continue

    def list_page(self, prefix: str, start_after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        page: list[ObjectInfo] = []
        token = self._tokens.take(prefix, start_after) if start_after else None
        offset = start_after if token is None else ""
        while True:
            found, token = self._one_page(prefix, token, offset, min(1000, limit - len(page)))
            page += (info for info in found if info.key != start_after)  # startOffset is inclusive
            if not token:
                return page
            if len(page) >= limit:
                self._tokens.remember(prefix, page[-1].key, token)
                return page

    def copy(self, source_key: str, key: str) -> ObjectInfo:
        asked: dict[str, str] = {}
        while True:  # more than once only across regions and storage classes
            answer = self._json(f"copy {source_key}", "POST", self._urls.rewrite(source_key, key), asked)
            if answer.get("done", True):
                return _info(answer["resource"])
            asked["rewriteToken"] = answer["rewriteToken"]

    def check(self) -> None:
        try:
            # A listing of one needs the same permission as the requests that follow; asking for the bucket
            # itself needs another.
            self._json("check", "GET", self._urls.objects, {"maxResults": "1", "fields": "items(name)"})
        except ObjectNotFound:
            raise Misconfigured(f"check: there is no bucket {self._spec.bucket!r}") from None

    def close(self) -> None:
        self._session.close()

    def _put_at_once(
        self, what: str, facts: Mapping[str, Any], data: bytes, if_absent: bool
    ) -> Mapping[str, Any]:
        """A multipart upload: the facts, then the bytes."""
        boundary = os.urandom(16).hex().encode()
        body = b"".join(
            (
                *(b"--", boundary, b"\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n"),
                json.dumps(facts).encode(),
                *(b"\r\n--", boundary, b"\r\nContent-Type: application/octet-stream\r\n\r\n"),
                *(data, b"\r\n--", boundary, b"--\r\n"),
            )
        )
        asked = {"uploadType": "multipart", "fields": _FIELDS}
        if if_absent:
            asked["ifGenerationMatch"] = "0"
        kind = f"multipart/related; boundary={boundary.decode()}"
        return self._json(what, "POST", self._urls.upload, asked, body, {"Content-Type": kind})

    def _put_large(
        self, what: str, facts: dict[str, Any], source: Source, if_absent: bool
    ) -> Mapping[str, Any]:
        if if_absent:
            facts["ifGenerationMatch"] = 0
        with self._translated(what), open_source(source) as stream:
            upload_large(self._spec, self._session, facts["name"], stream, source.size_bytes, facts)
        return self._facts(facts["name"])

    def _one_page(
        self, prefix: str, token: str | None, offset: str, limit: int
    ) -> tuple[list[ObjectInfo], str | None]:
        asked = {"maxResults": str(limit), "fields": f"nextPageToken,items({_FIELDS})"}
        given = {"prefix": prefix, "startOffset": offset, "pageToken": token}
        asked.update({name: value for name, value in given.items() if value})
        answer = self._json(f"list {prefix}", "GET", self._urls.objects, asked)
        return [_info(item) for item in answer.get("items", ())], answer.get("nextPageToken")

    def _json(
        self,
        what: str,
        method: str,
        url: str,
        asked: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any]:
        with self._translated(what):
            answer = self._session.request(
                method, url, params=asked, data=body, headers=headers, timeout=self._timeout
            )
            self._raise_unless_ok(what, answer)
            parsed: Mapping[str, Any] = answer.json() if answer.content else {}
        return parsed

    def _raise_unless_ok(self, what: str, answer: Any) -> None:
        if answer.status_code < 300:
            return
        reason, message = _reason(answer)
        text = scrub(message, self._secrets)
        raise error_for(what, answer.status_code, reason, text, answer.headers)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except BackendError:
            raise
        except (DefaultCredentialsError, RefreshError) as error:
            raise BackendPermission(f"{what}: {type(error).__name__}: no usable credentials") from None
        except GoogleAPICallError as error:
            message = scrub(error.message or "", self._secrets)
            raise error_for(what, int(error.code or 500), "", message) from None
        except (RequestException, GoogleAuthError, HTTPError, OSError) as error:
            raise broken_off(what, error, self._secrets) from None


def _reason(answer: Any) -> tuple[str, str]:
    """The service's reason, in the words of ``httperrors``, and its message."""
    try:
        error = answer.json()["error"]
        message = str(error["message"])
        reasons = [str(detail.get("reason", "")) for detail in error.get("errors", ())]
    except (
        ValueError,
        KeyError,
        TypeError,
    ):  # no JSON, or not the service's: a proxy's page, an emulator's text
        message, reasons = str(answer.text), []
    reason = reasons[0] if reasons else ""
    if reason in ("rateLimitExceeded", "userRateLimitExceeded"):
        return "SlowDown", message
    if answer.status_code == 404 and "bucket" in message.lower():
        return "NoSuchBucket", message
    if answer.status_code == 400 and ("crc32c" in message.lower() or "md5" in message.lower()):
        return "BadDigest", message
    return reason, message


def _hashed_crc32c(headers: Mapping[str, str]) -> int | None:
    """From x-goog-hash, which is of the whole object as it is stored."""
    for part in headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "crc32c":
            return from_base64(value)
    return None


def _info(facts: Mapping[str, Any]) -> ObjectInfo:
    updated = datetime.datetime.fromisoformat(facts["updated"])
    return ObjectInfo(
        facts["name"],
        int(facts["size"]),
        str(facts["etag"]).strip('"'),
        int(updated.timestamp()) * 10**9 + updated.microsecond * 1000,
        from_base64(facts.get("crc32c")),
    )
