"""Claims about the description of a location: what it refuses, and that it hides its secrets."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gsfs.backends.registry import open_backend, open_location
from gsfs.backends.secret import Secret, secret_enc_hook
from gsfs.backends.spec import KNOWN, LocationSpec, spec_from_mapping
from gsfs.errors import ConfigError, Misconfigured

S3 = {"id": "aws:us-east-1", "kind": "s3", "bucket": "b"}
AZURE = {"id": "azure:westeurope", "kind": "azure", "bucket": "b", "account": "a"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({**S3, "id": ""}, "key id is empty"),
        ({**S3, "bukket": "x"}, "bukket"),
        ({**S3, "kind": "ftp"}, "ftp"),
        ({**S3, "concurrency": "many"}, "concurrency"),
        ({**S3, "concurrency": 0}, "key concurrency is 0, takes 1 to 1024"),
        ({**S3, "timeout_s": -1}, "key timeout_s is -1"),
        ({**S3, "account": "x"}, "key account is for kind azure, not for s3"),
        ({"id": "x", "kind": "s3"}, "key bucket is missing"),
        ({"id": "x", "kind": "local"}, "key path is missing"),
        ({"id": "x", "kind": "local", "path": "relative"}, "takes an absolute path"),
        ({**S3, "endpoint": "minio:9000"}, r"takes a http\(s\) URL"),
        ({**S3, "prefix": "/x"}, "takes no leading slash"),
        ({**S3, "access_key": "x"}, "key secret_key is missing"),
        ({**S3, "access_key": "x", "secret_key": "y", "anonymous": True}, "exclude each other"),
        ({"id": "x", "kind": "azure", "bucket": "b"}, "azure needs account"),
        ({**AZURE, "sas": "x", "account_key": "y"}, "account_key and sas exclude each other"),
    ],
)
def test_a_wrong_spec_is_one_line_that_names_the_key(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        spec_from_mapping(values)
    assert "\n" not in str(caught.value)


def test_secrets_are_hidden_wherever_a_spec_is_shown() -> None:
    spec = spec_from_mapping({**S3, "access_key": "AKIA", "secret_key": "hunter2", "proxy": "http://u:pw@p"})
    shown = f"{spec} {spec!r} {spec.secret_key} {spec.secret_key!r} {[spec]}"
    shown += msgspec.json.encode(spec, enc_hook=secret_enc_hook).decode()
    for secret in ("AKIA", "hunter2", "pw"):
        assert secret not in shown
    assert spec.secret_key is not None
    assert spec.secret_key.reveal() == "hunter2"
    assert set(spec.secrets()) == {"AKIA", "hunter2", "http://u:pw@p"}
    with pytest.raises(TypeError):
        pickle.dumps(Secret("x"))


def test_a_wrong_type_does_not_quote_the_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        spec_from_mapping({**S3, "access_key": "x", "secret_key": ["hunter2"]})
    assert "hunter2" not in str(caught.value)


def test_every_key_is_known_to_some_kind() -> None:
    assert set().union(*KNOWN.values()) == set(LocationSpec.__struct_fields__)


def test_numbers_reach_the_wrappers() -> None:
    options = spec_from_mapping({**S3, "concurrency": 3, "deadline_s": 7, "breaker_failures": 2}).options()
    assert (options.concurrency, options.retry.deadline_s, options.breaker.consecutive_failures) == (3, 7, 2)


def test_a_prefix_keeps_two_locations_in_one_place_apart(tmp_path: Path) -> None:
    from tests.backends.test_contract import source

    one, two = (
        open_backend(LocationSpec(id=name, kind="local", path=str(tmp_path), prefix=f"{name}/"))
        for name in ("one", "two")
    )
    one.put("key", source(b"1"))
    two.put("key", source(b"two"))
    assert [(info.key, info.size_bytes) for info in one.list_page("")] == [("key", 1)]
    assert (tmp_path / "two/key").read_bytes() == b"two"


def test_a_missing_sdk_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    for name in ("gsfs.backends.s3", "gsfs.backends.s3client"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(Misconfigured, match=r"pip install 'gsfs\[s3\]'"):
        open_backend(spec_from_mapping(S3))


def test_no_cloud_sdk_is_loaded_until_a_location_needs_it() -> None:
    code = (
        "import sys, gsfs.backends.registry as r; from gsfs.backends.spec import LocationSpec;"
        "r.open_backend(LocationSpec(id='m', kind='memory'));"
        "print([n for n in ('boto3', 'botocore', 'azure.core', 'google.cloud', 'requests') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_connection_string_that_is_wrong_is_not_quoted() -> None:
    spec = spec_from_mapping(
        {"id": "x", "kind": "azure", "bucket": "b", "connection_string": "AccountKey=hunter2"}
    )
    with pytest.raises(Misconfigured) as caught:
        open_backend(spec)
    assert "hunter2" not in str(caught.value)


def test_a_location_is_opened_with_the_specs_options() -> None:
    location = open_location(LocationSpec(id="m", kind="memory", concurrency=2))
    assert (location.id, location.options.concurrency) == ("m", 2)
