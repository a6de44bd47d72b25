"""A text that must not be shown. Owns the hiding; ``reveal`` is for the call that needs it, nothing else."""

from __future__ import annotations

from typing import Any


class Secret:
    """Credentials as read from the configuration: ``repr``, ``str`` and formatting give ``***``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: pass it on at once, keep and log nothing."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not written anywhere")


def secret_dec_hook(type_: type, value: Any) -> Any:
    """msgspec ``dec_hook``: makes a Secret of a string."""
    if type_ is Secret:
        if not isinstance(value, str):  # msgspec adds the place, and never the value
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        return Secret(value)
    raise NotImplementedError(f"no way to make {type_.__name__} of {type(value).__name__}")


def secret_enc_hook(value: Any) -> Any:
    """msgspec ``enc_hook``: a Secret is written as ``***``, so that a configuration can be shown."""
    if isinstance(value, Secret):
        return repr(value)
    raise NotImplementedError(f"no way to write {type(value).__name__}")
