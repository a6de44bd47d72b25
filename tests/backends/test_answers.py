"""Claims about reading answers: what a status means, which range came back, what a message may say."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from gsfs.backends.checksum import crc32c, from_base64, from_hex, to_base64, to_hex
from gsfs.backends.httperrors import broken_off, error_for, retry_after_s, scrub
from gsfs.backends.pagetoken import KEPT, PageTokens
from gsfs.backends.ranges import check_range, range_header
from gsfs.errors import (
    BackendCorrupt,
    BackendPermission,
    Misconfigured,
    ObjectExists,
    ObjectNotFound,
    Throttled,
    Unavailable,
)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (404, "NoSuchKey", ObjectNotFound),
        (404, "", ObjectNotFound),
        (404, "NoSuchBucket", Misconfigured),
        (404, "ContainerNotFound", Misconfigured),
        (412, "PreconditionFailed", ObjectExists),
        (409, "BlobAlreadyExists", ObjectExists),
        (409, "ConditionalRequestConflict", Unavailable),
        (401, "", BackendPermission),
        (403, "SignatureDoesNotMatch", BackendPermission),
        (400, "ExpiredToken", BackendPermission),
        (400, "BadDigest", BackendCorrupt),
        (400, "Md5Mismatch", BackendCorrupt),
        (400, "RequestTimeout", Unavailable),
        (400, "InvalidArgument", Misconfigured),
        (405, "MethodNotAllowed", Misconfigured),
        (408, "", Unavailable),
        (429, "", Throttled),
        (503, "SlowDown", Throttled),
        (503, "ServerBusy", Throttled),
        (500, "InternalError", Unavailable),
        (502, "", Unavailable),
        (503, "", Unavailable),
    ],
)
def test_an_answer_means_what_the_caller_can_do_about_it(
    status: int, code: str, error: type[Exception]
) -> None:
    assert type(error_for("get x", status, code, "message")) is error


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    assert retry_after_s({"Retry-After": "7"}) == 7
    assert retry_after_s({"retry-after": "0.5"}) == 0.5
    date = formatdate(time.time() + 60, usegmt=True)
    assert retry_after_s({"Retry-After": date}) == pytest.approx(60, abs=3)
    assert retry_after_s({"Retry-After": "soon"}) is None
    assert retry_after_s({}) is None
    throttled = error_for("put x", 503, "SlowDown", "", {"Retry-After": "3"})
    assert isinstance(throttled, Throttled)
    assert throttled.retry_after_s == 3


@pytest.mark.parametrize(
    "text",
    [
        "GET https://a.blob.core.windows.net/c/k?sv=2024&sig=c2VjcmV0%3D&se=x failed",
        "X-Amz-Signature=c2VjcmV0 X-Amz-Security-Token=c2VjcmV0",
        "proxy http://user:c2VjcmV0@proxy:8080 refused",
        "Authorization: Bearer c2VjcmV0.x.y",
        "SharedKey account:c2VjcmV0",
        "AccountKey=c2VjcmV0;EndpointSuffix=x",
        "the key is c2VjcmV0, as configured",
    ],
)
def test_no_message_holds_a_secret(text: str) -> None:
    assert "c2VjcmV0" not in scrub(text, ["c2VjcmV0"])
    if "as configured" not in text:
        assert "c2VjcmV0" not in scrub(text)


def test_an_untrusted_certificate_is_a_matter_of_configuration() -> None:
    error = OSError("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed')")
    assert isinstance(broken_off("check", error), Misconfigured)
    assert isinstance(broken_off("check", OSError("Connection reset")), Unavailable)


BODY = bytes(range(100))


def test_exactly_the_range_passes() -> None:
    assert range_header(10, 20) == "bytes=10-29"
    assert check_range("g", BODY[10:30], 10, 20, "bytes 10-29/100", None) == BODY[10:30]
    assert check_range("g", BODY[90:], 90, 20, "bytes 90-99/100", None) == BODY[90:]
    assert check_range("g", BODY, 0, 200, None, crc32c(BODY)) == BODY


@pytest.mark.parametrize(
    ("body", "offset", "length", "content_range", "error"),
    [
        (BODY[10:25], 10, 20, "bytes 10-29/100", Unavailable),  # broke off
        (BODY[10:31], 10, 20, "bytes 10-30/100", BackendCorrupt),  # more than was asked for
        (BODY[11:31], 10, 20, "bytes 11-30/100", BackendCorrupt),  # another range
        (BODY, 10, 20, None, BackendCorrupt),  # the range was ignored
        (BODY, 0, 20, None, BackendCorrupt),
        (BODY[10:30], 10, 20, "bytes 10-29/*", BackendCorrupt),
    ],
)
def test_anything_but_the_range_is_refused(
    body: bytes, offset: int, length: int, content_range: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        check_range("g", body, offset, length, content_range, None)


def test_a_whole_object_is_held_against_its_checksum() -> None:
    with pytest.raises(BackendCorrupt):
        check_range("g", BODY, 0, 100, "bytes 0-99/100", crc32c(BODY) ^ 1)
    check_range("g", BODY[:50], 0, 50, "bytes 0-49/100", crc32c(BODY))  # a part proves nothing


def test_checksums_survive_their_text_forms_and_foreign_text_is_none() -> None:
    value = crc32c(b"123456789")
    assert value == 0xE3069283  # the check value of CRC-32C
    assert from_base64(to_base64(value)) == value
    assert from_hex(to_hex(value)) == value
    for text in (None, "", "?", "AAAA", "zzzzzzzz", "AAAAAA==-3"):
        assert from_base64(text) is None
        assert from_hex(text) is None


def test_a_page_token_is_used_once_and_old_ones_are_forgotten() -> None:
    tokens = PageTokens()
    tokens.remember("p", "k", "token")
    assert tokens.take("p", "k") == "token"
    assert tokens.take("p", "k") is None
    for number in range(KEPT + 1):
        tokens.remember("p", str(number), "token")
    assert tokens.take("p", "0") is None
    assert tokens.take("p", str(KEPT)) == "token"
