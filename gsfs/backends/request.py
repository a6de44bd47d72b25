"""One request on its way through the wrappers. Owns the types they share; does no work itself."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class RequestKind(enum.StrEnum):
    """What is asked of a location: the unit in which providers bill."""

    PUT = "put"
    GET = "get"
    HEAD = "head"
    DELETE = "delete"
    LIST = "list"
    COPY = "copy"
    CHECK = "check"


@dataclass(slots=True)
class Request(Generic[T]):
    """A blocking call and what the wrappers need to know about it. Times are on trio's clock, in seconds."""

    kind: RequestKind
    run: Callable[[], T]
    """The backend's method, bound to its arguments; called once for each attempt, in a worker thread."""
    what: str
    """For messages: ``aws:us-east-1: get segments/12``. Never holds a secret."""
    bytes_up: int = 0
    bytes_down: int = 0
    """At most so many bytes will come back; what really came is measured."""
    fail_at: float = math.inf
    """The caller's own deadline: it covers waiting in queues too."""
    give_up_at: float = math.inf
    """Set by ``retry``: no attempt starts or goes on after it."""
    patient: bool = False
    """Wait for an open circuit to be probed again instead of failing at once."""
    attempts: int = 0
    """Set by ``retry``: how often it was tried so far."""

    @property
    def payload_bytes(self) -> int:
        return self.bytes_up + self.bytes_down


class Handler(Protocol):
    """What a wrapper is and what it wraps: something that carries out a request."""

    async def __call__(self, request: Request[T], /) -> T: ...
