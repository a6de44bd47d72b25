"""How a location is to be treated by its wrappers. Owns the defaults; the configuration overrides them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gsfs.backends.breaker import BreakerPolicy
from gsfs.backends.retry import RetryPolicy


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
