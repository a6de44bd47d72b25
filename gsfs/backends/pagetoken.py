"""Where a listing goes on. Owns the provider's continuation tokens, so that a page is one request and none
is read twice, for providers that cannot start after a key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

KEPT: Final = 256
"""Listings that can be under way at once; the oldest token is forgotten first, which costs only requests."""


class PageTokens:
    """Remembers, for ``(prefix, last key of a page)``, the token of the page after it. Safe over threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: OrderedDict[tuple[str, str], str] = OrderedDict()

    def remember(self, prefix: str, last_key: str, token: str) -> None:
        with self._lock:
            self._tokens[prefix, last_key] = token
            while len(self._tokens) > KEPT:
                self._tokens.popitem(last=False)

    def take(self, prefix: str, start_after: str) -> str | None:
        """The token for the page after ``start_after``, once."""
        with self._lock:
            return self._tokens.pop((prefix, start_after), None)
