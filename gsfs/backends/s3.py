"""Amazon S3 and what speaks its protocol, through boto3. Owns the requests; ``s3client`` owns the client."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from gsfs.backends.base import BytesSource, Capabilities, ObjectInfo, Source
from gsfs.backends.checksum import METADATA_KEY, crc32c, from_base64, from_hex, to_base64, to_hex
from gsfs.backends.httperrors import error_for, scrub
from gsfs.backends.pagetoken import PageTokens
from gsfs.backends.ranges import check_range, range_header
from gsfs.backends.s3client import make_client, translate_botocore
from gsfs.backends.source import open_source, read_source
from gsfs.backends.spec import LocationSpec
from gsfs.errors import BackendCorrupt, BackendError, Misconfigured, ObjectNotFound

CAPABILITIES: Final = Capabilities(
    max_object_bytes=5 << 30,  # of a single PutObject
    max_key_bytes=1024,
    copy_within=True,
    put_if_absent=True,
    native_crc32c=True,
    storage_classes=(
        *("STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING"),
        *("GLACIER_IR", "REDUCED_REDUNDANCY", "EXPRESS_ONEZONE"),
    ),
    delete_batch=1000,
)

IN_MEMORY_BYTES: Final = 64 << 20
"""Larger sources are streamed from their file. Bytes in memory go out in large writes and without the extra
round trip that botocore makes before a stream ("Expect: 100-continue")."""

_METADATA_NAME: Final = METADATA_KEY.replace("_", "-")  # some servers drop headers with underscores


class S3Backend:
    """One S3 bucket. Uploads are proven by CRC32C where the server confirms it, else by Content-MD5."""

    def __init__(self, spec: LocationSpec) -> None:
        self.capabilities = CAPABILITIES
        self._secrets = spec.secrets()
        self._bucket = spec.bucket
        self._tokens = PageTokens()
        with self._translated("open"):
            self._client: Any = make_client(spec)
        self._extra = {"StorageClass": spec.storage_class} if spec.storage_class else {}
        # MD5 costs three times what everything else costs: it is sent until the server has shown that it
        # checks CRC32C, by repeating it in its answer.
        self._md5_allowed = spec.put_checksum != "crc32c"
        self._md5_for_good = spec.put_checksum == "md5"
        self._send_md5 = self._md5_allowed

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        what = f"put {key}"
        if isinstance(source, BytesSource) or source.size_bytes <= IN_MEMORY_BYTES:
            answer, md5 = self._put_body(what, key, read_source(source), source, if_absent)
        else:
            with open_source(source) as stream:
                answer, md5 = self._put_body(what, key, stream, source, if_absent)
        confirmed = from_base64(answer.get("ChecksumCRC32C"))
        if confirmed not in (None, source.crc32c) or not _tag_agrees(answer, md5):
            # It is stored, but it is not what was promised. The next attempt replaces it, or must find the
            # key free. (Without if_absent nothing is removed: a later attempt may have succeeded meanwhile,
            # if the answer to this one was slow.)
            if if_absent:
                self.delete_many((key,))
            raise BackendCorrupt(f"{what}: the server reports another checksum (see put_checksum)")
        self._send_md5 = self._md5_for_good or (confirmed is None and self._md5_allowed)
        written_ns = 0  # PutObject does not say when
        return ObjectInfo(key, source.size_bytes, _etag(answer), written_ns, source.crc32c)

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        what = f"get {key}"
        if length <= 0:
            return b""
        same = {"IfMatch": f'"{if_match}"'} if if_match else {}
        try:
            with self._translated(what):
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=key, Range=range_header(offset, length), **same
                )
                with answer["Body"] as stream:
                    body: bytes = stream.read()
        except _PastTheEnd:
            return b""
        return check_range(what, body, offset, length, answer.get("ContentRange"), _whole_crc32c(answer))

    def head(self, key: str) -> ObjectInfo:
        with self._translated(f"head {key}"):
            answer = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        return ObjectInfo(
            key,
            answer["ContentLength"],
            _etag(answer),
            int(answer["LastModified"].timestamp()) * 10**9,
            _whole_crc32c(answer),
        )

    def delete_many(self, keys: Sequence[str]) -> None:
        if len(keys) == 1:
            with self._translated(f"delete {keys[0]}"):
                self._client.delete_object(Bucket=self._bucket, Key=keys[0])
            return
        for first in range(0, len(keys), self.capabilities.delete_batch):
            batch = keys[first : first + self.capabilities.delete_batch]
            what = f"delete {len(batch)} keys"
            objects = [{"Key": key} for key in batch]
            with self._translated(what):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
                )
            self._raise_first(what, answer.get("Errors", ()))

    def list_page(self, prefix: str, start_after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        page: list[ObjectInfo] = []
        asked: dict[str, Any] = {"Bucket": self._bucket, "Prefix": prefix}
        token = self._tokens.take(prefix, start_after) if start_after else None
        if token is not None:
            asked["ContinuationToken"] = token
        elif start_after:
            asked["StartAfter"] = start_after
        while True:
            asked["MaxKeys"] = min(1000, limit - len(page))
            with self._translated(f"list {prefix}"):
                answer = self._client.list_objects_v2(**asked)
            page += (_listed(entry) for entry in answer.get("Contents", ()))
            token = answer.get("NextContinuationToken")
            if not answer.get("IsTruncated") or not token:
                return page
            if len(page) >= limit:
                # Some servers lose keys after StartAfter where one key goes on below another.
                self._tokens.remember(prefix, page[-1].key, token)
                return page
            asked["ContinuationToken"] = token

    def copy(self, source_key: str, key: str) -> ObjectInfo:
        with self._translated(f"copy {source_key}"):
            self._client.copy_object(
                Bucket=self._bucket,
                Key=key,
                CopySource={"Bucket": self._bucket, "Key": source_key},
                **self._extra,
            )
        return self.head(key)

    def check(self) -> None:
        try:
            with self._translated("check"):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectNotFound:  # the answer to HEAD has no body that could say what is missing
            raise Misconfigured(f"check: there is no bucket {self._bucket!r}") from None

    def close(self) -> None:
        self._client.close()

    def _put_body(
        self, what: str, key: str, body: Any, source: Source, if_absent: bool
    ) -> tuple[Mapping[str, Any], bytes | None]:
        """The server's answer, and the MD5 of the bytes if it was computed."""
        asked: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": key,
            "Body": body,
            "ContentLength": source.size_bytes,
            "ContentType": "application/octet-stream",
            "Metadata": {_METADATA_NAME: to_hex(source.crc32c)},
            **self._extra,
        }
        if not self._md5_for_good:
            asked["ChecksumCRC32C"] = to_base64(source.crc32c)
        md5 = _digest_of_right_bytes(what, body, source.crc32c, with_md5=self._send_md5)
        if md5 is not None:
            asked["ContentMD5"] = base64.b64encode(md5).decode()
        if if_absent:
            asked["IfNoneMatch"] = "*"
        with self._translated(what):
            answer: Mapping[str, Any] = self._client.put_object(**asked)
        return answer, md5

    def _raise_first(self, what: str, failures: Sequence[Mapping[str, str]]) -> None:
        """DeleteObjects answers 200 and lists what failed."""
        for failure in failures:
            code = failure.get("Code", "")
            if code not in ("NoSuchKey", "NoSuchVersion"):
                status = 403 if code == "AccessDenied" else 500
                message = scrub(failure.get("Message", ""), self._secrets)
                raise error_for(f"{what}: {failure.get('Key', '')}", status, code, message)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except BackendError:
            raise
        except ClientError as error:
            raise self._answered(what, error) from None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise translate_botocore(what, error, self._secrets) from None

    def _answered(self, what: str, error: ClientError) -> BackendError:
        body = error.response.get("Error", {})
        facts: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
        code, status = str(body.get("Code", "")), int(facts.get("HTTPStatusCode", 500))
        if code == "InvalidRange" or status == 416:
            return _PastTheEnd(what)
        if status in (301, 307) or code == "AuthorizationHeaderMalformed":
            return Misconfigured(f"{what}: the bucket is in another region or behind another endpoint")
        message = scrub(str(body.get("Message", "")), self._secrets)
        return error_for(what, status, code, message, facts.get("HTTPHeaders", {}))


class _PastTheEnd(BackendError):
    """416: the range begins at or after the end of the object. Never leaves this module."""


def _digest_of_right_bytes(what: str, body: Any, expected_crc32c: int, *, with_md5: bool) -> bytes | None:
    """MD5 of the body, if it is wanted; in any case the bytes are shown to be what was promised.

    A checksum that is sent vouches for the way to the server; this one for what came from the local disk.
    """
    digest, checksum = hashlib.md5(usedforsecurity=False), 0
    for chunk in (body,) if isinstance(body, bytes) else iter(partial(body.read, 1 << 20), b""):
        checksum = crc32c(chunk, checksum)
        if with_md5:
            digest.update(chunk)
    if not isinstance(body, bytes):
        body.seek(0)
    if checksum != expected_crc32c:
        raise BackendCorrupt(f"{what}: the local bytes fail their CRC32C")
    return digest.digest() if with_md5 else None


def _tag_agrees(answer: Mapping[str, Any], md5: bytes | None) -> bool:
    """Whether the ETag is the MD5 that was sent; some servers accept Content-MD5 and do not look at it.

    With keys of the provider's key service the ETag is no MD5 (S3 API reference, "Object").
    """
    tag = _etag(answer)
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
    if md5 is None or encrypted or len(tag) != 32:
        return True
    return tag.lower() == md5.hex()


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _whole_crc32c(answer: Mapping[str, Any]) -> int | None:
    """What the server or the metadata says of the whole object. A composite checksum is not of the bytes."""
    if answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        native = from_base64(answer.get("ChecksumCRC32C"))
        if native is not None and "ContentRange" not in answer:
            return native
    return from_hex(answer.get("Metadata", {}).get(_METADATA_NAME))


def _listed(entry: Mapping[str, Any]) -> ObjectInfo:
    mtime_ns = int(entry["LastModified"].timestamp()) * 10**9
    return ObjectInfo(entry["Key"], entry["Size"], _etag(entry), mtime_ns)
