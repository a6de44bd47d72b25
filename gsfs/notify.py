"""systemd's notification socket. Owns one datagram format; does nothing outside systemd."""

from __future__ import annotations

import socket

_address: str | None = None


def configure(address: str | None) -> None:
    """Where to send (``NOTIFY_SOCKET`` of the environment; the command line reads it)."""
    global _address
    _address = address


def send(message: str) -> None:
    """Tell systemd, as in sd_notify(3). A manager that went away is no reason to fail."""
    if not _address:
        return
    target = "\0" + _address[1:] if _address.startswith("@") else _address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(message.encode(), target)
        except OSError:
            return
