"""The typed description of one location, as the configuration holds it. Owns its checks; opens nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from gsfs.backends.options import BreakerPolicy, LocationOptions, RetryPolicy
from gsfs.backends.secret import Secret, secret_dec_hook
from gsfs.errors import ConfigError

Kind = Literal["local", "memory", "s3", "azure", "gcs"]
ChecksumMode = Literal["when_required", "when_supported"]


class LocationSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One location. Empty text means "not set"; a key that its kind does not know is an error."""

    id: str
    """Name of the location, such as ``aws:us-east-1``; what buckets, prices and the ledger refer to."""
    kind: Kind
    """Which backend speaks to it. Anything that speaks the S3 protocol is ``s3``."""

    # --- where the objects are
    bucket: str = ""
    """s3 and gcs: the bucket; azure: the container. Must exist already."""
    path: str = ""
    """local: the directory, absolute. Must exist already."""
    prefix: str = ""
    """Put in front of every key, as it is (end it in ``/`` for a folder). Default: none."""
    region: str = ""
    """The provider's name of the region. s3: also signed with; default: the SDK's own choice."""
    endpoint: str = ""
    """URL of the service, for compatible stores and emulators. Default: the provider's own."""

    # --- who asks; by default the SDK's own chain decides (environment, profile, instance role)
    access_key: Secret | None = None
    """s3: access key id; needs ``secret_key``."""
    secret_key: Secret | None = None
    """s3: secret access key."""
    session_token: Secret | None = None
    """s3: token of temporary credentials."""
    profile: str = ""
    """s3: profile of the shared AWS configuration."""
    account: str = ""
    """azure: name of the storage account; not needed with ``connection_string`` or ``endpoint``."""
    account_key: Secret | None = None
    """azure: shared key of the account."""
    connection_string: Secret | None = None
    """azure: connection string, instead of account and key."""
    sas: Secret | None = None
    """azure: shared access signature for the container."""
    project: str = ""
    """gcs: project that is billed, where it differs from the credentials' own."""
    credentials_file: str = ""
    """gcs: path of a service account's JSON file."""
    anonymous: bool = False
    """Ask without credentials: public data and emulators. Default: false."""

    # --- how it is spoken to
    path_style: bool | None = None
    """s3: bucket in the path instead of the host name. Default: true exactly when ``endpoint`` is set."""
    request_checksum_calculation: ChecksumMode = "when_required"
    """s3: boto3's option of that name. gsfs sends its own CRC32C; ``when_supported`` costs CPU on top."""
    response_checksum_validation: ChecksumMode = "when_required"
    """s3: boto3's option of that name. gsfs checks what it reads itself."""
    put_checksum: Literal["auto", "crc32c", "md5"] = "auto"
    """s3: what proves an upload. ``auto``: CRC32C, and MD5 as well once the server did not confirm it."""
    storage_class: str = ""
    """Storage class (s3, gcs) or access tier (azure) of new objects. Default: the bucket's own."""
    ca_bundle: str = ""
    """Path of the certificates to trust instead of the system's. Default: the SDK's own."""
    proxy: Secret | None = None
    """URL of an HTTP proxy; may hold a password, hence hidden. Default: the environment's, as SDKs do."""

    # --- how much and how long
    concurrency: int = 16
    """Requests under way at once, 1 to 1024. Default: 16."""
    bandwidth_up_bytes_per_s: int = 0
    """Limit on uploads, bytes per second on average. Default: 0, no limit."""
    bandwidth_down_bytes_per_s: int = 0
    """Limit on downloads, bytes per second on average. Default: 0, no limit."""
    timeout_s: float = 30.0
    """Seconds without an answer or a byte after which one attempt is given up. Default: 30."""
    connect_timeout_s: float = 5.0
    """Seconds to wait for a connection. Default: 5."""
    deadline_s: float = 60.0
    """Seconds after which a request fails for good, with repeats; large payloads get more. Default: 60."""
    retry_attempts: int = 12
    """How often one request is tried within its deadline, at least 1. Default: 12."""
    breaker_failures: int = 6
    """So many failures in a row and the location is left alone for a while, at least 1. Default: 6."""
    breaker_pause_s: float = 2.0
    """How long at first; doubles up to ``breaker_longest_pause_s``. Default: 2."""
    breaker_longest_pause_s: float = 30.0
    """Longest pause between two probes of a location that is down. Default: 30."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError("location: key id is empty, takes a name such as aws:us-east-1")
        if not self.id.isprintable() or any(c in "/," or c.isspace() for c in self.id):
            raise ConfigError(
                f"location: key id is {self.id!r}, takes a name without spaces, commas and slashes"
            )
        _check_known(self)
        _check_needed(self)
        _check_numbers(self)
        _check_credentials(self)

    def options(self) -> LocationOptions:
        """What the wrappers around this location take."""
        return LocationOptions(
            concurrency=self.concurrency,
            bandwidth_up_bytes_per_s=self.bandwidth_up_bytes_per_s,
            bandwidth_down_bytes_per_s=self.bandwidth_down_bytes_per_s,
            timeout_s=self.timeout_s,
            retry=RetryPolicy(deadline_s=self.deadline_s, attempts=self.retry_attempts),
            breaker=BreakerPolicy(
                consecutive_failures=self.breaker_failures,
                first_pause_s=self.breaker_pause_s,
                longest_pause_s=self.breaker_longest_pause_s,
            ),
            in_thread=self.kind != "memory",
        )

    def secrets(self) -> tuple[str, ...]:
        """Every secret text, for the one purpose of cutting it out of messages."""
        values = (getattr(self, name) for name in self.__struct_fields__)
        return tuple(value.reveal() for value in values if isinstance(value, Secret))


_EVERYWHERE: Final = frozenset(
    [
        *("id", "kind", "prefix", "region", "concurrency", "timeout_s", "deadline_s", "retry_attempts"),
        *("bandwidth_up_bytes_per_s", "bandwidth_down_bytes_per_s"),
        *("breaker_failures", "breaker_pause_s", "breaker_longest_pause_s"),
    ]
)
_CLOUD: Final = frozenset(
    ("bucket", "endpoint", "anonymous", "storage_class", "ca_bundle", "proxy", "connect_timeout_s")
)
KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "memory": _EVERYWHERE,
    "local": _EVERYWHERE | {"path"},
    "s3": _EVERYWHERE
    | _CLOUD
    | {"access_key", "secret_key", "session_token", "profile", "path_style", "put_checksum"}
    | {"request_checksum_calculation", "response_checksum_validation"},
    "azure": _EVERYWHERE | _CLOUD | {"account", "account_key", "connection_string", "sas"},
    "gcs": _EVERYWHERE | _CLOUD | {"project", "credentials_file"},
}
"""Which keys each kind takes."""


def spec_from_mapping(values: Mapping[str, Any]) -> LocationSpec:
    """A spec from plain values (a table of a TOML file). Raises ConfigError, one line, naming the key."""
    try:
        return msgspec.convert(values, LocationSpec, dec_hook=secret_dec_hook)
    except msgspec.ValidationError as error:
        raise ConfigError(f"location {values.get('id', '?')!r}: {error}") from None


def _check_known(spec: LocationSpec) -> None:
    defaults = dict(zip(spec.__struct_fields__[2:], LocationSpec.__struct_defaults__, strict=True))
    for name, default in defaults.items():
        if name not in KNOWN[spec.kind] and getattr(spec, name) != default:
            takers = ", ".join(kind for kind, known in KNOWN.items() if name in known)
            raise ConfigError(f"location {spec.id!r}: key {name} is for kind {takers}, not for {spec.kind}")


def _check_needed(spec: LocationSpec) -> None:
    needed = {"local": "path", "s3": "bucket", "azure": "bucket", "gcs": "bucket"}.get(spec.kind)
    if needed and not getattr(spec, needed):
        raise ConfigError(f"location {spec.id!r}: key {needed} is missing, kind {spec.kind} needs it")
    if spec.kind == "local" and not spec.path.startswith("/"):
        raise ConfigError(f"location {spec.id!r}: key path is {spec.path!r}, takes an absolute path")
    if spec.endpoint and not spec.endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"location {spec.id!r}: key endpoint is {spec.endpoint!r}, takes a http(s) URL")
    if spec.prefix.startswith("/"):
        raise ConfigError(f"location {spec.id!r}: key prefix is {spec.prefix!r}, takes no leading slash")


_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "concurrency": (1, 1024),
    "bandwidth_up_bytes_per_s": (0, 1 << 50),
    "bandwidth_down_bytes_per_s": (0, 1 << 50),
    "timeout_s": (0.01, 86400),
    "connect_timeout_s": (0.01, 86400),
    "deadline_s": (0.01, 86400),
    "retry_attempts": (1, 1000),
    "breaker_failures": (1, 1000),
    "breaker_pause_s": (0.01, 3600),
    "breaker_longest_pause_s": (0.01, 86400),
}


def _check_numbers(spec: LocationSpec) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(spec, name)
        if not least <= value <= most:
            raise ConfigError(f"location {spec.id!r}: key {name} is {value}, takes {least} to {most}")


def _check_credentials(spec: LocationSpec) -> None:
    if (spec.access_key is None) != (spec.secret_key is None):
        missing = "secret_key" if spec.secret_key is None else "access_key"
        raise ConfigError(f"location {spec.id!r}: key {missing} is missing: the two keys go together")
    ways = (
        *("access_key", "profile", "account_key", "connection_string"),
        *("sas", "credentials_file", "anonymous"),
    )
    given = [name for name in ways if getattr(spec, name)]
    if len(given) > 1:
        raise ConfigError(f"location {spec.id!r}: keys {' and '.join(given)} exclude each other, takes one")
    if spec.kind == "azure" and not (spec.account or spec.connection_string or spec.endpoint):
        raise ConfigError(f"location {spec.id!r}: azure needs account, connection_string or endpoint")
