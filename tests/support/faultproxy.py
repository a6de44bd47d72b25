"""An HTTP proxy that misbehaves on demand, in front of a real server. Owns the faults; knows no provider.

It stands where the server stands (a location's ``endpoint`` points at it) and passes requests on unchanged,
so that signatures stay valid, except for those it was told to spoil.
"""

from __future__ import annotations

import contextlib
import enum
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Final
from urllib.parse import urlsplit


class Fault(enum.Enum):
    """What can go wrong with one request."""

    ERROR_500 = "500, request not passed on"
    ERROR_503 = "503 with Retry-After, request not passed on"
    ERROR_429 = "429 with Retry-After, request not passed on"
    ERROR_403 = "403, request not passed on"
    SLOW = "answer in small pieces"
    STALL = "no answer at all"
    STALL_BODY = "half of the answer, then nothing"
    RESET = "connection reset instead of an answer"
    RESET_BODY = "connection reset in the middle of the answer"
    TRUNCATE = "connection closed in the middle of the answer"
    SHORTEN = "half of the answer, declared as if it were all"
    CORRUPT_ANSWER = "one byte of the answer changed"
    CORRUPT_UPLOAD = "one byte of the request's body changed"
    LANDED_500 = "carried out, and reported as 500"
    LANDED_RESET = "carried out, then the connection is reset"


HOP_BY_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"}
STATUS: Final = {
    Fault.ERROR_500: 500,
    Fault.ERROR_503: 503,
    Fault.ERROR_429: 429,
    Fault.ERROR_403: 403,
    Fault.LANDED_500: 500,
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request as it came in."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for given, value in self.headers if given.lower() == name), "")


@dataclass(slots=True)
class Plan:
    """Which requests are spoiled, and how: the first entry that applies is used up by one."""

    entries: list[tuple[Fault, int, Callable[[Exchange], bool]]] = field(default_factory=list)
    chaos: tuple[random.Random, float, tuple[Fault, ...]] | None = None

    def take(self, exchange: Exchange) -> Fault | None:
        for number, (fault, left, applies) in enumerate(self.entries):
            if left > 0 and applies(exchange):
                self.entries[number] = (fault, left - 1, applies)
                return fault
        if self.chaos is not None:
            rng, rate, faults = self.chaos
            if rng.random() < rate:
                return rng.choice(faults)
        return None


class FaultProxy:
    """A running proxy; ``url`` is where clients go. Use as a context manager."""

    def __init__(self, upstream_url: str, *, retry_after_s: float = 0.05) -> None:
        parts = urlsplit(upstream_url)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._path = parts.path
        self._retry_after_s = retry_after_s
        self._lock = threading.Lock()  # guards the plan and the counts
        self._plan = Plan()
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.latency_s = 0.0
        """Added to every answer."""
        self.bytes_per_s = 0.0
        """Speed of every answer's body; 0 for as fast as it goes."""
        self.down = False
        """Connections are reset as soon as they come, and those that are open break."""
        self.requests: Counter[str] = Counter()
        """Requests that came in, by HTTP method."""
        self.injected: Counter[Fault] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}{self._path}"

    def inject(
        self, fault: Fault, times: int = 1, applies: Callable[[Exchange], bool] = lambda exchange: True
    ) -> None:
        """Spoil the next ``times`` requests for which ``applies`` is true."""
        with self._lock:
            self._plan.entries.append((fault, times, applies))

    def chaos(self, seed: int, rate: float, faults: tuple[Fault, ...]) -> None:
        """Spoil a share of all requests from now on, the same for the same seed and order of requests."""
        with self._lock:
            self._plan.chaos = (random.Random(seed), rate, faults)

    def calm(self) -> None:
        """Spoil nothing more."""
        with self._lock:
            self._plan = Plan()

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._accept, name="faultproxy", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_connections()

    def break_connections(self) -> None:
        """Reset every connection that is open."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # --- one thread for each connection

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _address = self._listener.accept()
            except OSError:  # closed
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
        try:
            with connection.makefile("rb") as stream:
                while not self._closing.is_set() and self._one_exchange(connection, stream):
                    pass
        except (OSError, ValueError, http.client.HTTPException):
            _reset(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _one_exchange(self, connection: socket.socket, stream: BinaryIO) -> bool:
        """Serve one request; whether the connection goes on."""
        if self.down:
            _reset(connection)
            return False
        exchange = _read_request(connection, stream)
        if exchange is None or self.down:
            return False
        with self._lock:
            self.requests[exchange.method] += 1
            fault = self._plan.take(exchange)
            if fault is not None:
                self.injected[fault] += 1
        if self.latency_s:
            self._closing.wait(self.latency_s)
        return self._answer(connection, exchange, fault)

    def _answer(self, connection: socket.socket, exchange: Exchange, fault: Fault | None) -> bool:
        if fault is Fault.STALL:
            return self._stall(connection)
        if fault is Fault.RESET:
            _reset(connection)
            return False
        if fault in (Fault.ERROR_500, Fault.ERROR_503, Fault.ERROR_429, Fault.ERROR_403):
            return self._send_error(connection, exchange, STATUS[fault])
        if fault is Fault.CORRUPT_UPLOAD:
            exchange = _spoiled_upload(exchange)
        status, reason, headers, body = self._forward(exchange)
        if fault is Fault.LANDED_500:
            return self._send_error(connection, exchange, 500)
        if fault is Fault.LANDED_RESET:
            _reset(connection)
            return False
        return self._send(connection, exchange, (status, reason, headers), body, fault)

    def _forward(self, exchange: Exchange) -> tuple[int, str, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            upstream.putrequest(exchange.method, exchange.target, skip_host=True, skip_accept_encoding=True)
            for name, value in exchange.headers:
                if name.lower() not in HOP_BY_HOP | {"content-length", "expect"}:
                    upstream.putheader(name, value)
            if exchange.body or exchange.method in ("PUT", "POST"):
                upstream.putheader("Content-Length", str(len(exchange.body)))
            upstream.endheaders(exchange.body or None)
            answer = upstream.getresponse()
            return answer.status, answer.reason, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _send(
        self,
        connection: socket.socket,
        exchange: Exchange,
        head: tuple[int, str, list[tuple[str, str]]],
        body: bytes,
        fault: Fault | None,
    ) -> bool:
        half = body[: len(body) // 2]
        if fault is Fault.SHORTEN:
            body = half
        elif fault is Fault.CORRUPT_ANSWER:
            body = _flipped(body)
        _send_head(connection, exchange, head, len(body))
        if exchange.method == "HEAD":
            return True
        if fault is Fault.STALL_BODY:
            connection.sendall(half)
            return self._stall(connection)
        if fault is Fault.RESET_BODY:
            connection.sendall(half)
            _reset(connection)
            return False
        if fault is Fault.TRUNCATE:
            connection.sendall(half)
            connection.shutdown(socket.SHUT_WR)
            return False
        self._send_body(connection, body, slowly=fault is Fault.SLOW)
        return True

    def _send_body(self, connection: socket.socket, body: bytes, *, slowly: bool) -> None:
        if not slowly and not self.bytes_per_s:
            connection.sendall(body)
            return
        piece = max(1, len(body) // 8)
        pause_s = 0.05 if slowly else piece / self.bytes_per_s
        for at in range(0, len(body), piece):
            self._closing.wait(pause_s)
            connection.sendall(body[at : at + piece])

    def _stall(self, connection: socket.socket) -> bool:
        """Say nothing until the client gives up or the proxy closes."""
        connection.settimeout(0.1)
        until = time.monotonic() + 120
        while not self._closing.is_set() and time.monotonic() < until:
            try:
                if not connection.recv(1, socket.MSG_PEEK):
                    return False
                self._closing.wait(0.1)
            except TimeoutError:
                continue
        return False

    def _send_error(self, connection: socket.socket, exchange: Exchange, status: int) -> bool:
        reason = http.client.responses[status]
        headers = [("Retry-After", str(self._retry_after_s))] if status in (429, 503) else []
        _send_head(connection, exchange, (status, reason, headers), 0)
        return True


def _read_request(connection: socket.socket, stream: BinaryIO) -> Exchange | None:
    """The next request; None when the client has closed."""
    line = stream.readline(65537)
    if not line.strip():
        return None
    method, target, _version = line.decode("latin-1").split(" ", 2)
    if target.startswith("http://"):  # it is used as a forward proxy
        target = "/" + target.split("/", 3)[3]
    headers: list[tuple[str, str]] = []
    while (line := stream.readline(65537)) not in (b"\r\n", b"\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name.strip(), value.strip()))
    exchange = Exchange(method, target, tuple(headers), b"")
    if exchange.header("expect").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if exchange.header("transfer-encoding").lower() == "chunked":
        body = _read_chunks(stream)
    else:
        body = stream.read(int(exchange.header("content-length") or 0))
    return Exchange(method, target, tuple(headers), body)


def _read_chunks(stream: BinaryIO) -> bytes:
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass  # trailers
    return body


def _send_head(
    connection: socket.socket,
    exchange: Exchange,
    head: tuple[int, str, list[tuple[str, str]]],
    body_bytes: int,
) -> None:
    status, reason, headers = head
    lines = [f"HTTP/1.1 {status} {reason}"]
    kept = HOP_BY_HOP | (set() if exchange.method == "HEAD" else {"content-length"})
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in kept]
    if exchange.method != "HEAD" and status not in (204, 304):
        lines.append(f"Content-Length: {body_bytes}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))


def _reset(connection: socket.socket) -> None:
    """Close so that the other side sees a reset, not an end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0x20]) + body[middle + 1 :] if body else body


def _spoiled_upload(exchange: Exchange) -> Exchange:
    return Exchange(exchange.method, exchange.target, exchange.headers, _flipped(exchange.body))
