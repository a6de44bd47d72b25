"""What a provider's HTTP answer means, in the words of the contract. Owns the table and the scrubbing of
secrets from messages; knows no SDK."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterable, Mapping
from typing import Final

from gsfs.errors import (
    BackendCorrupt,
    BackendError,
    BackendPermission,
    Misconfigured,
    ObjectExists,
    ObjectNotFound,
    Throttled,
    Unavailable,
)

NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "AccountIsDisabled"})
THROTTLES: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "ServerBusy"}
    | {"BandwidthLimitExceeded", "RequestThrottled", "OperationTimedOutThrottled"}
)
CORRUPT: Final = frozenset(
    {"BadDigest", "InvalidDigest", "Md5Mismatch", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
    | {"InvalidMd5", "Crc64Mismatch"}
)
PASSING: Final = frozenset(
    {"RequestTimeout", "IncompleteBody", "ConditionalRequestConflict", "OperationAborted", "InternalError"}
    | {"OperationTimedOut", "ContainerBeingDeleted"}
)
"""Codes that come with a 4xx status although trying again may help."""
REFUSALS: Final = frozenset(
    {"AccessDenied", "ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
    | {"RequestTimeTooSkewed", "AuthenticationFailed", "InvalidObjectState", "TokenRefreshRequired"}
)
TAKEN: Final = frozenset(
    {"PreconditionFailed", "BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet"}
)

LONGEST_MESSAGE: Final = 300
_SIGNED: Final = re.compile(
    r"(?i)\b(sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|"
    r"x-goog-credential|access_token|token|password|accountkey|sharedaccesssignature)=[^&\s\"'<>;]+"
)
_USER: Final = re.compile(r"//[^/@\s]+:[^/@\s]+@")
_BEARER: Final = re.compile(r"(?i)\b(bearer|sharedkey|aws4-hmac-sha256)\s+\S+")


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text on one line without anything that looks like, or is, a secret."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = _SIGNED.sub(r"\1=***", text)
    text = _BEARER.sub(r"\1 ***", _USER.sub("//***@", text))
    return " ".join(text.split())[:LONGEST_MESSAGE]


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What Retry-After asks for: seconds or an HTTP date (RFC 9110, section 10.2.3); None when absent."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass  # then it is a date
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def error_for(
    what: str, status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None
) -> BackendError:
    """The error for an answer. ``message`` has been scrubbed; ``what`` names the operation and the key."""
    text = f"{what}: {status} {code} {message}".rstrip()
    wait_s = retry_after_s(headers or {})
    if status == 429 or code in THROTTLES:
        return Throttled(text, wait_s)
    if code in CORRUPT:
        return BackendCorrupt(text)
    if code in PASSING or status == 408 or status >= 500:
        return Unavailable(text, wait_s)
    if code in TAKEN or status == 412:
        return ObjectExists(text)
    if code in REFUSALS or status in (401, 403, 407):
        return BackendPermission(text)
    if status == 404 and code not in NO_BUCKET:
        return ObjectNotFound(text)
    return Misconfigured(text)


def broken_off(what: str, error: BaseException, secrets: Iterable[str] = ()) -> BackendError:
    """The error for a connection that failed before or during an answer."""
    text = scrub(str(error), secrets)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        return Misconfigured(f"{what}: the server's certificate is not trusted (see ca_bundle)")
    return Unavailable(f"{what}: {type(error).__name__}: {text}")
