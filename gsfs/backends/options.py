"""How a location is to be treated by its wrappers. Owns the defaults; the configuration overrides them.

Quick to import: every command reads the configuration, and few need what the wrappers need.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to stop asking, and for how long."""

    consecutive_failures: int = 6
    """So many retryable failures in a row open the circuit."""
    failure_rate: float = 0.5
    """So large a share of the attempts within ``window_s`` opens it too, given ``minimum_attempts``."""
    window_s: float = 30.0
    minimum_attempts: int = 20
    first_pause_s: float = 2.0
    """Time from opening to the first probe; doubles with each probe that fails, up to ``longest_pause_s``."""
    longest_pause_s: float = 30.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often to try."""

    deadline_s: float = 60.0
    """From the first attempt to giving up, when the caller set no deadline of its own."""
    base_s: float = 0.1
    """Shortest delay between two attempts."""
    longest_s: float = 10.0
    """Longest delay that is chosen here; a location may ask for more by Retry-After."""
    attempts: int = 12
    corrupt_attempts: int = 3
    """Bytes that fail their checksum so often are taken as damaged where they lie."""


@dataclass(frozen=True, slots=True)
class LocationOptions:
    """Rates are in bytes per second (0: unlimited), times in seconds."""

    concurrency: int = 16
    """Requests under way at once; a quarter is kept for requests of less than 1 MiB."""
    bandwidth_up_bytes_per_s: float = 0
    bandwidth_down_bytes_per_s: float = 0
    timeout_s: float = 30.0
    """One attempt, on top of the time its payload needs at 32 KiB/s."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    in_thread: bool = True
    """False runs calls on the event loop: for backends that never block, and for tests on a virtual clock."""
