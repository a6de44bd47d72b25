"""Trace files. Owns the formats that can be read and written (documented in traces/README.md); replays nothing.

Readers are generators over lines, so a trace of any length takes no memory. A line that cannot be read is an error
that names the file and the line, except where a format is known to contain noise (access logs).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, cast

from gsfs.errors import ConfigError, NotFoundError
from gsfs.sim.requests import DELETE, GET, OTHER, PUT, Request, Row

CSV_COLUMNS = ("time_ms", "op", "key", "size_bytes")
CSV_OPTIONAL = ("length_bytes", "region", "bucket")
RECORDED_HEADER = "# gsfs-trace 1"
"""First line of a trace recorded from a mount; the rest is the CSV format with every column."""
RECORDED_COLUMNS = (*CSV_COLUMNS, *CSV_OPTIONAL)
OP_NAMES = {"get": GET, "put": PUT, "delete": DELETE, "other": OTHER}
OP_WORDS = {code: name for name, code in OP_NAMES.items()}
IBM_OPS = {"REST.GET.OBJECT": GET, "REST.PUT.OBJECT": PUT, "REST.DELETE.OBJECT": DELETE}


def read_ibm(lines: Iterable[str], origin: str) -> Iterator[Row]:
    """SNIA IBM Object Store traces: ``ms REST.GET.OBJECT id [size [begin end]]``, space separated."""
    operation = IBM_OPS.get
    for number, line in enumerate(lines, 1):
        cells = line.split()
        try:
            op = operation(cells[1], OTHER)
            if op == GET and len(cells) == 6:
                size = int(cells[3])
                length = int(cells[5]) - int(cells[4]) + 1
                yield int(cells[0]), op, cells[2], size, length if length < size else size, ""
            else:
                size = int(cells[3]) if len(cells) > 3 else 0
                yield int(cells[0]), op, cells[2], size, size, ""
        except (IndexError, ValueError):
            if cells:
                raise ConfigError(
                    f"{origin}:{number}: got {line[:80]!r}, takes 'ms OPERATION id size begin end'"
                ) from None


def read_csv(lines: Iterable[str], origin: str) -> Iterator[Row]:
    """The simple format and recorded traces: a header with the columns' names, then one request per line."""
    content = ((n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#"))
    first = next(content, (1, ""))
    header = tuple(cell.strip() for cell in first[1].split(","))
    if header[:4] != CSV_COLUMNS or not set(header[4:]) <= set(CSV_OPTIONAL):
        takes = f"{','.join(CSV_COLUMNS)}[,{'][,'.join(CSV_OPTIONAL)}]"
        raise ConfigError(f"{origin}:{first[0]}: the first line is {first[1].strip()!r}, takes {takes}")
    at_length = header.index("length_bytes") if "length_bytes" in header else 3
    at_region = header.index("region") if "region" in header else -1
    for number, line in content:
        cells = next(csv.reader([line])) if '"' in line else line.rstrip("\n").split(",")
        try:
            size = int(cells[3] or 0)
            length = int(cells[at_length] or size)
            region = cells[at_region].strip() if at_region >= 0 else ""
            yield int(cells[0]), OP_NAMES[cells[1].strip().lower()], cells[2], size, min(length, size), region
        except (IndexError, ValueError, KeyError):
            raise ConfigError(
                f"{origin}:{number}: got {line.strip()[:80]!r}, takes {','.join(header)}"
            ) from None


S3_LINE = re.compile(
    r"\S+ \S+ \[(?P<time>[^\]]+)\] \S+ \S+ \S+ (?P<op>\S+) (?P<key>\S+) "
    r'(?:"(?:[^"\\]|\\.)*"|-) (?P<status>\S+) \S+ (?P<sent>\S+) (?P<size>\S+)'
)
"""Fields of an S3 server access log up to the object's size (Amazon S3 user guide, "Log format")."""


def read_s3_log(lines: Iterable[str], origin: str) -> Iterator[Row]:
    """S3 server access logs. Requests that failed, and lines that are not of this format, are left out."""
    for line in lines:
        found = S3_LINE.match(line)
        if found is None or not found["status"].startswith("2"):
            continue
        when = datetime.strptime(found["time"], "%d/%b/%Y:%H:%M:%S %z")
        op = IBM_OPS.get(found["op"], OTHER)
        size = _number(found["size"])
        sent = _number(found["sent"]) or size
        yield int(when.timestamp()) * 1000, op, found["key"], size, min(sent, size), ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


Reader = Callable[[Iterable[str], str], Iterator[Row]]
READERS: dict[str, Reader] = {"ibm": read_ibm, "csv": read_csv, "recorded": read_csv, "s3": read_s3_log}


def detect(head: str, origin: str) -> str:
    """The format of a trace by its first lines. Raises ConfigError when it is none of ``READERS``."""
    line = next((text for text in head.splitlines() if text.strip()), "")
    if line.startswith(RECORDED_HEADER):
        return "recorded"
    if line.startswith(",".join(CSV_COLUMNS)) or line.startswith("#"):
        return "csv"
    if re.match(r"\d+ REST\.\w+\.\w+ \S+", line):
        return "ibm"
    if S3_LINE.match(line):
        return "s3"
    raise ConfigError(
        f"{origin}: got {line[:60]!r}, takes one of the formats {', '.join(READERS)} (traces/README.md)"
    )


@dataclass(slots=True)
class OpenTrace:
    """A trace being read; a context manager."""

    raw: IO[bytes]
    text: IO[str]
    """Kept here, because a text layer that is forgotten closes the file beneath it."""
    rows: Iterator[Row]

    def position(self) -> int:
        """Bytes of the file read so far, compressed ones where it is compressed."""
        return self.raw.tell()

    def __enter__(self) -> OpenTrace:
        return self

    def __exit__(self, *_: object) -> None:
        self.text.close()
        self.raw.close()


def open_trace(path: Path) -> OpenTrace:
    """Open a file and recognise its format; gzip is recognised by its content. Raises NotFoundError, ConfigError."""
    try:
        raw = path.open("rb")
    except OSError as e:
        raise NotFoundError(f"{path}: cannot read the trace: {e.strerror}") from e
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream: IO[bytes] = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
    text = io.TextIOWrapper(cast("io.BufferedReader", stream), "utf-8", errors="replace")
    head = list(itertools.islice(text, 20))
    reader = READERS[detect("".join(head), str(path))]
    return OpenTrace(raw, text, reader(itertools.chain(head, text), str(path)))


def write_ibm(rows: Iterable[Row], out: IO[str]) -> int:
    """Write the IBM format; returns the number of requests."""
    names = {code: name for name, code in IBM_OPS.items()}
    count = 0
    for time_ms, op, key, size, length, _region in rows:
        if op == GET:
            out.write(f"{time_ms} {names[op]} {key} {size} 0 {max(0, length - 1)}\n")
        else:
            out.write(f"{time_ms} {names.get(op, 'REST.HEAD.OBJECT')} {key} {size}\n")
        count += 1
    return count


def write_csv(rows: Iterable[Row], out: IO[str]) -> int:
    """Write the simple CSV format; returns the number of requests."""
    out.write(",".join((*CSV_COLUMNS, "length_bytes", "region")) + "\n")
    count = 0
    for time_ms, op, key, size, length, region in rows:
        out.write(f"{time_ms},{OP_WORDS[op]},{key},{size},{length},{region}\n")
        count += 1
    return count


def recorded_head() -> str:
    """The first two lines of a recorded trace."""
    return f"{RECORDED_HEADER}\n{','.join(RECORDED_COLUMNS)}\n"


def recorded_line(request: Request, bucket: str) -> str:
    """One line of a recorded trace. Keys are to be hashed before (``hashed_key``)."""
    op = OP_WORDS[request.op]
    return f"{request.time_ms},{op},{request.key},{request.size_bytes},{request.length_bytes},{request.region},{bucket}\n"


def hashed_key(name: bytes, secret: bytes) -> str:
    """A key that tells nothing of the name but equality: 64 bits of a keyed hash (BLAKE2b)."""
    return hashlib.blake2b(name, digest_size=8, key=secret).hexdigest()


def sampled(hashed: str, share: float) -> bool:
    """Whether an object belongs to a sample: all of its requests or none, decided by its hashed key."""
    return int(hashed, 16) < share * 2.0**64
