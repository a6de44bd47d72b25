"""The asking side of the control socket. Owns the line protocol; quick to import, for every command does.

A request is one JSON line {"command", "arguments"}; answers are JSON lines: any number of {"progress"}, then
one {"result"} or {"error", "exit_code"}. The socket lies in the cache directory and is its owner's only.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gsfs.errors import ExitCode, GsfsError, NotAnswering, PermissionRefused

NAME = "control.sock"
SILENCE_S = 30.0
"""How long the asking side waits for a sign of life. Commands that tell progress give one every PROGRESS_S."""


class NotResponding(GsfsError):
    """There is a daemon, but it says nothing: it must not be treated as one that ended (NotAnswering)."""

    exit_code = ExitCode.UNAVAILABLE


def address(cache_dir: Path) -> tuple[str, int]:
    """(a name short enough for a socket, the descriptor it goes through; close it afterwards)."""
    fd = os.open(cache_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{fd}/{NAME}", fd


def ask(
    cache_dir: Path, command: str, *, silence_s: float | None = SILENCE_S, **arguments: Any
) -> Iterator[dict[str, Any]]:
    """Answers of the daemon: progress, then the result.

    Raises NotAnswering where no daemon listens, and NotResponding where one does but says nothing for ``silence_s``.
    """
    sock = connected(cache_dir)
    with sock:
        sock.settimeout(silence_s)
        try:
            sock.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                for line in lines:
                    yield json.loads(line)
        except TimeoutError:
            raise NotResponding(
                f"the daemon at {cache_dir / NAME} has said nothing for {silence_s:.0f} s; is it stopped?"
            ) from None
        except ConnectionError as error:
            raise NotAnswering(f"the daemon at {cache_dir / NAME} hung up: {error.strerror}") from None


def connected(cache_dir: Path) -> socket.socket:
    """A connection to the daemon. Raises NotAnswering, PermissionRefused."""
    try:
        name, directory = address(cache_dir)
    except PermissionError:
        raise PermissionRefused(
            f"cache directory {cache_dir}: belongs to another user; ask as the one who mounted"
        ) from None
    except OSError as error:
        raise NotAnswering(f"cache directory {cache_dir}: {error.strerror}") from None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(name)
    except PermissionError:
        sock.close()
        raise PermissionRefused(
            f"{cache_dir / NAME}: belongs to another user; ask as the one who mounted"
        ) from None
    except OSError as error:
        sock.close()
        raise NotAnswering(
            f"no mount answers at {cache_dir / NAME}: {error.strerror}; gsfs mount starts one"
        ) from None
    finally:
        os.close(directory)
    return sock
