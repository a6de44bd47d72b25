"""S3 event notifications from an SQS queue, through boto3. Owns the client and the messages' format.

Synchronous and blocking, like every backend. A message says only that a key may have changed: notifications
come late, twice and out of order (S3 user guide, "Event ordering and duplicate events").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_plus, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gsfs.backends.httperrors import error_for, scrub
from gsfs.backends.s3client import revealed, translate_botocore
from gsfs.backends.spec import LocationSpec
from gsfs.errors import BackendError, Misconfigured

WAIT_S: Final = 20
"""How long one request waits for messages: SQS's longest, so that an idle queue costs three requests a minute."""
BATCH: Final = 10


class EventQueue:
    """The queue that a bucket's notifications go to. Asked with the location's own credentials."""

    def __init__(self, spec: LocationSpec, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.path.strip("/"):
            raise Misconfigured(f"queue {url!r}: takes the URL of an SQS queue")
        self._url = url
        self._bucket, self._prefix = spec.bucket, spec.prefix
        self._secrets = spec.secrets()
        host = (parts.hostname or "").split(".")
        region = host[1] if host[0] == "sqs" and len(host) > 2 else spec.region or "us-east-1"
        session = boto3.Session(profile_name=spec.profile or None)
        self._client: Any = session.client(  # type: ignore[call-overload, unused-ignore]  # typed only with stubs
            "sqs",
            region_name=region,
            endpoint_url=f"{parts.scheme}://{parts.netloc}",
            verify=spec.ca_bundle or None,
            aws_access_key_id=revealed(spec.access_key),
            aws_secret_access_key=revealed(spec.secret_key),
            aws_session_token=revealed(spec.session_token),
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=spec.connect_timeout_s,
                read_timeout=spec.timeout_s + WAIT_S,
            ),
        )

    def receive(self) -> tuple[set[str], list[str]]:
        """(keys at the location that may have changed, receipts); waits for up to WAIT_S. Raises BackendError."""
        answer = self._ask("receive_message", MaxNumberOfMessages=BATCH, WaitTimeSeconds=WAIT_S)
        messages = answer.get("Messages", ())
        keys = {key for message in messages for key in self._keys(str(message.get("Body", "")))}
        return keys, [message["ReceiptHandle"] for message in messages]

    def done(self, receipts: Sequence[str]) -> None:
        """These messages need not come again. Raises BackendError."""
        if receipts:
            entries = [{"Id": str(at), "ReceiptHandle": receipt} for at, receipt in enumerate(receipts)]
            self._ask("delete_message_batch", Entries=entries)

    def close(self) -> None:
        self._client.close()

    def _ask(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        what = f"queue {self._url}: {operation}"
        try:
            answer: Mapping[str, Any] = getattr(self._client, operation)(QueueUrl=self._url, **arguments)
        except ClientError as error:
            raise self._answered(what, error) from None
        except (BotoCoreError, OSError) as error:
            raise translate_botocore(what, error, self._secrets) from None
        return answer

    def _answered(self, what: str, error: ClientError) -> BackendError:
        body = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
        message = scrub(str(body.get("Message", "")), self._secrets)
        return error_for(what, status, str(body.get("Code", "")), message)

    def _keys(self, body: str) -> Iterator[str]:
        """Keys that a message names; none for test events and for what is no notification of this bucket."""
        try:
            content = json.loads(body)
            if "Message" in content:  # it came through an SNS topic
                content = json.loads(content["Message"])
            for record in content.get("Records", ()):
                s3 = record["s3"]
                key = unquote_plus(s3["object"]["key"])
                if s3["bucket"]["name"] == self._bucket and key.startswith(self._prefix):
                    yield key.removeprefix(self._prefix)
        except (ValueError, TypeError, KeyError, AttributeError):
            return
