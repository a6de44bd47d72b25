"""Memory that is free again goes back to the system. Owns the calls into glibc's allocator; knows nobody's buffers.

Buffers of whole segments and blocks come and go in many threads. glibc gives threads arenas of their own and
keeps what each of them had at its peak: a gigabyte moved left the daemon at twice its size for good. Python's lock
lets one thread allocate at a time anyway, so one arena is enough; of that one, everything can be given back.
"""

from __future__ import annotations

import ctypes
from typing import Final

_LIBC: Final = ctypes.CDLL(None)
_M_ARENA_MAX: Final = -8


def share_one_arena() -> bool:
    """For threads to come. False where the C library is another one, which then does as it thinks best."""
    set_option = getattr(_LIBC, "mallopt", None)
    return set_option is not None and bool(set_option(_M_ARENA_MAX, 1))


def give_back() -> bool:
    """Return pages without an allocation in them. Takes milliseconds; False where there was none, or no way."""
    trim = getattr(_LIBC, "malloc_trim", None)
    return trim is not None and bool(trim(ctypes.c_size_t(0)))
