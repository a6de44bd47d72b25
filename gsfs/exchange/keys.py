"""Keys of plain objects and paths of files: which key is which path, and which cannot be. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gsfs.errors import GsfsError, InvalidArgument, NotFoundError
from gsfs.model import NAME_MAX, LocationId


class Misfit(GsfsError):
    """A key that cannot be a path, or a path that cannot be a key; the message says why."""


@dataclass(slots=True)
class Report:
    """What an import or export did. Counts are of objects."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    own_objects: int = 0
    """Objects of this very file system that lie under the prefix; they are no files."""
    bytes: int = 0
    """Import: of what was added or changed; export: written."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(key or path, why it was left out)."""

    def to_json(self) -> dict[str, Any]:
        return {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "unchanged": self.unchanged,
            "own_objects": self.own_objects,
            "bytes": self.bytes,
            "problems": [{"name": name, "problem": why} for name, why in self.problems],
        }


def parse_place(text: str, locations: Iterable[str]) -> tuple[LocationId, str]:
    """``LOCATION[/prefix]`` as (location, prefix ending in / or empty). Raises NotFoundError, InvalidArgument."""
    known = sorted(locations, key=len, reverse=True)
    for id_ in known:
        if text == id_ or text.startswith(f"{id_}/"):
            prefix = text[len(id_) + 1 :].removesuffix("/")
            if prefix.startswith("/") or "//" in prefix or "\0" in prefix:
                raise InvalidArgument(f"{text}: takes LOCATION/prefix without empty parts")
            return LocationId(id_), f"{prefix}/" if prefix else ""
    raise NotFoundError(f"{text}: begins with no location; there are {', '.join(sorted(known))}")


def overlap(one: str, other: str) -> bool:
    """Whether keys can lie under both prefixes."""
    return one.startswith(other) or other.startswith(one)


def names_of(key: str) -> list[bytes]:
    """The components of a key; a trailing / means a directory and counts for none. Raises Misfit."""
    try:
        names = key.removesuffix("/").encode().split(b"/")
    except UnicodeEncodeError:
        raise Misfit("is not Unicode text") from None
    for name in names:
        if not name:
            raise Misfit("has an empty component")
        if name in (b".", b".."):
            raise Misfit(f"has the component {name.decode()}")
        if b"\0" in name:
            raise Misfit("has a NUL character")
        if len(name) > NAME_MAX:
            raise Misfit(f"has a component of {len(name)} bytes; names take {NAME_MAX}")
    return names


def key_of(prefix: str, path: bytes, max_key_bytes: int) -> str:
    """The key of a path in an export. Raises Misfit."""
    try:
        key = prefix + path.decode()
    except UnicodeDecodeError:
        raise Misfit("is not UTF-8, as keys must be") from None
    if len(key.encode()) > max_key_bytes:
        raise Misfit(f"makes a key of more than {max_key_bytes} bytes")
    return key
