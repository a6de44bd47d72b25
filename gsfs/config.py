"""The configuration file: typed, checked once, frozen. Reads TOML and nothing else.

``${VAR}`` in any text value stands for the environment variable, which must be set. The annotated sample is
``docs/gsfs.sample.toml``; a test parses it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import msgspec.inspect

from gsfs.backends.secret import secret_dec_hook
from gsfs.backends.spec import LocationSpec
from gsfs.errors import ConfigError
from gsfs.model import GIB, KIB, MIB, Durability

_UNITS = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": 1 << 40, "PIB": 1 << 50,
          "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}  # fmt: skip
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_URL = re.compile(r"sqlite:////[^/].*|postgresql(\+psycopg)?://.*")
UPLOADS_MAX = 1024
SEGMENT_MIN, SEGMENT_MAX = MIB, 256 * MIB


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: an unknown key is an error."""


class Filesystem(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[filesystem]"""

    name: str


class Namespace(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[namespace]"""

    url: str
    """sqlite:////absolute/path or postgresql://user@host/database"""
    ship_to: str = ""
    """SQLite: location to which the namespace itself is shipped; empty: the home of ``bucket_defaults``."""
    ship_interval_s: float = 10.0
    """Seconds between two shipments while something changes; 0: only when fsync on a ``remote`` bucket asks."""


class Cache(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[cache]"""

    path: str
    size: str = "10GiB"
    """Most bytes on the local disk, those waiting for upload included."""
    min_free: str = "1GiB"
    """Free space that is left on the disk whatever ``size`` says."""


class Mount(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[mount]"""

    region: str = ""
    """Where this machine is, as in the price table (aws:us-east-1); empty: outside of every region, and every
    object stays at its bucket's home. With a region, every location's id must have its prices."""
    allow_other: bool = True
    """Other users may use the mount (needs root or user_allow_other in /etc/fuse.conf)."""
    xattr: bool = True
    """Extended attributes. Off, each write and each ``ls -l`` of a file saves a request."""
    acl: bool = True
    """POSIX access control lists; needs ``xattr``."""
    read_ahead: str = "1MiB"
    """The kernel's read-ahead for this mount; set when root mounts."""
    read_deadline_s: float = 60.0
    """Seconds after which a read of bytes that cannot be had fails with EIO."""
    hedge_reads: Literal["free", "always", "never"] = "free"
    """When a location is slower than it usually is, whether a second one that has the bytes is asked as well: where
    its egress costs nothing by the price table, always, never. A silent location is given up in every case."""
    drain_timeout_s: float = 300.0
    """Seconds a stop may take to upload what is waiting; the rest resumes at the next start."""


class Transfer(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[transfer]"""

    upload: Literal["auto", "held"] = "auto"
    """held: upload only on flush and on unmounting."""
    uploads_per_location: int = 4
    segment_size: str = "16MiB"
    seal_idle_s: float = 2.0
    """A segment nobody has appended to for so long is uploaded."""
    seal_age_s: float = 30.0
    """A segment is uploaded when it gets this old, even if it is still being appended to."""
    full_wait_s: float = 60.0
    """How long a writer waits for room while nothing moves, before ENOSPC."""


class BucketSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[bucket_defaults]: what a virtual bucket made by mkdir gets."""

    home: str
    durability: Durability = Durability.LOCAL
    copies: int = 1


class Policy(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[policy]"""

    prices: str = ""
    """CSV file whose rows replace those of the shipped price table (kind,region,dst,value)."""


class Log(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[log]"""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: str = ""
    """Empty: the journal or standard error in the foreground, else ``gsfs.log`` in the cache directory."""


class Config(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    filesystem: Filesystem
    namespace: Namespace
    cache: Cache
    location: tuple[LocationSpec, ...]
    bucket_defaults: BucketSettings
    mount: Mount = msgspec.field(default_factory=Mount)
    transfer: Transfer = msgspec.field(default_factory=Transfer)
    policy: Policy = msgspec.field(default_factory=Policy)
    log: Log = msgspec.field(default_factory=Log)
    path: str = ""
    """The file it was read from; set by ``load``."""

    @property
    def cache_dir(self) -> Path:
        return Path(self.cache.path)

    @property
    def cache_bytes(self) -> int:
        return parse_size(self.cache.size)

    @property
    def min_free_bytes(self) -> int:
        return parse_size(self.cache.min_free)

    @property
    def ship_to(self) -> str:
        """The location that holds the shipped namespace."""
        return self.namespace.ship_to or self.bucket_defaults.home

    @property
    def segment_bytes(self) -> int:
        return parse_size(self.transfer.segment_size)


def parse_size(text: str) -> int:
    """Bytes of ``10GiB``, ``500 MB``, ``4096``. Raises ConfigError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigError(f"{text!r} is not a size; takes a number and a unit, such as 10GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def load(path: Path, environment: Mapping[str, str]) -> Config:
    """Read and check a configuration file. Raises ConfigError, one line that names file, key and what it takes."""
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return parse(raw, environment, str(path))


def parse(raw: dict[str, Any], environment: Mapping[str, str], source: str) -> Config:
    """Check values that came from ``source``."""
    try:
        values = _substitute(raw, environment, "")
        if "path" in values:
            raise ConfigError("unknown key path")
        config = msgspec.convert(
            {**values, "path": os.path.abspath(source)}, Config, dec_hook=secret_dec_hook
        )
        _check(config)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(str(error), source)) from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return config


def _substitute(value: Any, environment: Mapping[str, str], key: str) -> Any:
    """``${VAR}`` replaced in every text."""
    if isinstance(value, dict):
        return {k: _substitute(v, environment, f"{key}.{k}" if key else k) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, environment, f"{key}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if found is None:
            raise ConfigError(f"{key}: the environment variable {match[1]} is not set")
        return found

    return _VARIABLE.sub(lookup, value)


def _readable(message: str, source: str) -> str:
    """msgspec's message with the place first and what is accepted last: ``[cache] unknown key 'sise'; takes path, …``."""
    match = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*)`)?", message, re.DOTALL)
    assert match is not None
    what, place = match[1], match[2] or ""
    takes = _takes(place)
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        what = f"unknown key {unknown[1]!r}; takes {takes}"
    elif missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        what = f"the key {missing[1]!r} is missing"
    elif what.startswith("Invalid enum value"):
        what = f"{what.removeprefix('Invalid enum value ')} is not known; takes {takes}"
    elif wrong := re.fullmatch(r"Expected `(.*)`, got `(.*)`", what):
        what = f"takes {_TYPES.get(wrong[1], wrong[1])}, got {_TYPES.get(wrong[2], wrong[2])}"
    return f"{source}: [{place}] {what}" if place else f"{source}: {what}"


_TYPES = {"str": "text in quotes", "int": "a whole number", "float": "a number", "bool": "true or false",
          "array": "a list ([[location]])", "object": "a table"}  # fmt: skip


def _takes(place: str) -> str:
    """What the table or the key at ``place`` (``cache``, ``location[0].kind``) accepts."""
    info: Any = msgspec.inspect.type_info(Config)
    for step in filter(None, re.split(r"\.|\[[0-9]+\]", place)):
        info = next((f.type for f in info.fields if f.encode_name == step), None)
        info = getattr(info, "item_type", info)
    if isinstance(info, msgspec.inspect.StructType):
        return ", ".join(f.encode_name for f in info.fields if (info.cls, f.encode_name) != (Config, "path"))
    if isinstance(info, msgspec.inspect.LiteralType):
        return ", ".join(map(str, info.values))
    return (
        ", ".join(member.value for member in info.cls)
        if isinstance(info, msgspec.inspect.EnumType)
        else "another value"
    )


def _check(config: Config) -> None:
    if not config.location:
        raise ConfigError("needs at least one [[location]]")
    ids = [spec.id for spec in config.location]
    for id_ in ids:
        if ids.count(id_) > 1:
            raise ConfigError(f"location: {id_!r} is there twice; each id is used once")
    _check_places(config)
    if config.bucket_defaults.home not in ids:
        raise ConfigError(
            f"bucket_defaults.home: {config.bucket_defaults.home!r} is no location; takes one of {', '.join(ids)}"
        )
    if config.ship_to not in ids:
        raise ConfigError(
            f"namespace.ship_to: {config.ship_to!r} is no location; takes one of {', '.join(ids)}"
        )
    if not _NAME.fullmatch(config.filesystem.name):
        raise ConfigError(
            f"filesystem.name: {config.filesystem.name!r}; takes letters, digits, dot, dash and underscore"
        )
    if not 1 <= config.bucket_defaults.copies <= len(ids):
        raise ConfigError(
            f"bucket_defaults.copies: {config.bucket_defaults.copies}; takes 1 to {len(ids)}, the number of locations"
        )
    _check_sizes(config)
    if not 1 <= config.transfer.uploads_per_location <= UPLOADS_MAX:
        raise ConfigError(
            f"transfer.uploads_per_location: {config.transfer.uploads_per_location}; takes 1 to {UPLOADS_MAX}"
        )
    _check_texts(config)
    _check_times(config)


def _check_places(config: Config) -> None:
    """Two names for one place would count one copy twice: the last one could be removed as if there were another."""
    places: dict[tuple[str, ...], str] = {}
    for spec in config.location:
        if spec.kind == "memory":
            continue
        place = (
            spec.kind,
            spec.endpoint,
            spec.account,
            spec.bucket,
            os.path.normpath(spec.path),
            spec.prefix,
        )
        if place in places:
            raise ConfigError(
                f"location: {places[place]!r} and {spec.id!r} are the same place; each takes its own"
            )
        places[place] = spec.id
        cache = os.path.normpath(config.cache.path)
        if spec.kind == "local" and _overlap(os.path.normpath(spec.path), cache):
            raise ConfigError(
                f"location {spec.id!r}: path {spec.path} and cache.path {config.cache.path}: one lies in the other; "
                "takes a directory of its own"
            )


def _overlap(one: str, other: str) -> bool:
    return os.path.isabs(one) and os.path.isabs(other) and os.path.commonpath([one, other]) in (one, other)


def _check_texts(config: Config) -> None:
    if not _URL.fullmatch(config.namespace.url):  # it may hold a password: not shown
        raise ConfigError(
            "namespace.url: takes sqlite:////absolute/path (four slashes) or postgresql://user@host/database"
        )
    for key, path in (("cache.path", config.cache.path), ("log.file", config.log.file),
                      ("policy.prices", config.policy.prices)):  # fmt: skip
        if not os.path.isabs(path) and (path or key == "cache.path"):
            hint = "; ~ stands for nothing here, ${HOME} does" if path.startswith("~") else ""
            raise ConfigError(f"{key}: {path!r}; takes an absolute path{hint}")


def _check_times(config: Config) -> None:
    """Comparisons are written so that nan fails them."""
    for name in ("seal_idle_s", "seal_age_s", "full_wait_s"):
        if not getattr(config.transfer, name) > 0:
            raise ConfigError(
                f"transfer.{name}: {getattr(config.transfer, name)}; takes seconds, more than 0"
            )
    if not config.namespace.ship_interval_s >= 0:
        raise ConfigError(
            f"namespace.ship_interval_s: {config.namespace.ship_interval_s}; takes seconds, or 0 for never"
        )
    if not config.mount.read_deadline_s > 0:
        raise ConfigError(
            f"mount.read_deadline_s: {config.mount.read_deadline_s}; takes seconds, more than 0"
        )
    if not config.mount.drain_timeout_s >= 0:
        raise ConfigError(f"mount.drain_timeout_s: {config.mount.drain_timeout_s}; takes seconds, 0 or more")


def _check_sizes(config: Config) -> None:
    for key, text in (("cache.size", config.cache.size), ("cache.min_free", config.cache.min_free),
                      ("transfer.segment_size", config.transfer.segment_size),
                      ("mount.read_ahead", config.mount.read_ahead)):  # fmt: skip
        try:
            parse_size(text)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
    if not SEGMENT_MIN <= config.segment_bytes <= SEGMENT_MAX:
        raise ConfigError(f"transfer.segment_size: {config.transfer.segment_size}; takes 1MiB to 256MiB")
    if config.cache_bytes < 4 * config.segment_bytes:
        raise ConfigError(
            f"cache.size: {config.cache.size}; takes at least four segments ({4 * config.segment_bytes // MIB} MiB)"
        )
