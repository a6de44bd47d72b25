"""SQLite as the namespace's database: WAL, group commit, and rewinding to a durable commit.

Owns every SQLite-only thing: pragmas, the lock against a second mount, the write-ahead log's file format.
Commits write the log without syncing it, so they cost no disk flush; ``sync`` flushes the log's file from
a thread. After a power cut the log may hold commits whose *data* never reached the disk. Each commit
therefore carries the mark of the last commit known to be durable together with its data, and ``rewind``
cuts the log there: the file system returns to a state that was true, never to a mixture.
Log format: https://www.sqlite.org/fileformat2.html#walformat (sections 4.1 to 4.3).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import struct
from pathlib import Path
from typing import Any, cast

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from gsfs.errors import Busy, DatabaseCorrupt, DatabaseLost, NotFoundError, PermissionRefused
from gsfs.namespace.database import Cursor

APPLICATION_ID = 0x67736673  # "gsfs"
PAGE_SIZE = 4096
WAL_HEADER_BYTES = 32
FRAME_HEADER = struct.Struct(">6I")  # page, size after commit (0: not a commit), salt 1, salt 2, checksums
CHECKPOINT_FRAMES = 4096
"""Fold the log back from 16 MiB on: rarely enough to cost nothing, early enough to keep recovery short."""
PREPARED_BYTES = 20 << 20
"""Written zeros in which the log grows: a flush then changes no size, and ext4 needs no journal commit for it."""

LOG_RESERVE_BYTES = 8 << 20
"""Free space below which nothing is committed: more than the log ever grows by one commit."""
CONNECT: dict[str, Any] = {"uri": True, "isolation_level": None, "cached_statements": 512}


class SqliteDatabase:
    """See ``namespace.database.Database``. One process at a time, held by a lock file beside the database."""

    commits_need_synced_data = False

    def __init__(self, path: Path, *, create: bool = False, read_only: bool = False) -> None:
        self.path = path
        self.dialect = SQLiteDialect_pysqlite(paramstyle="qmark")
        if not create and not path.exists():
            raise NotFoundError(
                f"namespace {path}: no such database; run `gsfs init` with this configuration first"
            )
        self._lock_fd = -1 if read_only else _lock(path)
        self._wal_fd = -1
        self._closed = False
        try:
            self._connection = sqlite3.connect(_uri(path, "ro" if read_only else "rwc"), **CONNECT)
        except sqlite3.Error as error:
            self._unlock()
            raise _explain(path, error) from None
        self._sqlite_cursor = self._connection.cursor()
        self.cursor = cast(Cursor, self._sqlite_cursor)
        try:
            self._open(read_only)
        except sqlite3.DatabaseError as error:
            self.abandon()
            raise _explain(path, error) from None
        except BaseException:
            self.abandon()
            raise
        self._frames = 0
        self._salt = b""

    def _open(self, read_only: bool) -> None:
        self._connection.execute("PRAGMA busy_timeout=5000")
        if not read_only:
            application = self._connection.execute("PRAGMA application_id").fetchone()[0]
            tables = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if tables and application != APPLICATION_ID:
                raise DatabaseCorrupt(f"namespace {self.path}: an SQLite database, but not one of gsfs")
            for pragma in (
                f"page_size={PAGE_SIZE}",
                f"application_id={APPLICATION_ID}" if not tables else "application_id",
                "journal_mode=WAL",
                "synchronous=NORMAL",
                "wal_autocheckpoint=0",
                "cache_size=-65536",
                "temp_store=MEMORY",
                "foreign_keys=OFF",
            ):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        if not self._connection.in_transaction:
            return
        self._refuse_on_full_disk()
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:  # SQLite has rolled back: what memory holds is no longer true
            self.abandon()
            raise DatabaseLost(
                f"namespace {self.path}: a commit failed ({error}); stopping, to go on from the last one"
            ) from None

    def _refuse_on_full_disk(self) -> None:
        """A commit that meets a full disk is lost; one that is not tried yet can wait. Raises OSError."""
        status = os.statvfs(self.path.parent)
        if (
            status.f_bavail * status.f_frsize < LOG_RESERVE_BYTES
            and self._prepared_room() < LOG_RESERVE_BYTES // 2
        ):
            raise OSError(
                errno.ENOSPC,
                f"{self.path.parent}: less than {LOG_RESERVE_BYTES >> 20} MiB left for the namespace's log",
            )

    def _prepared_room(self) -> int:
        """Bytes of the log's file that lie behind its last commit: written already, so they need no space."""
        mark = self.durable_mark()
        end = WAL_HEADER_BYTES + (mark[1] if mark else 0) * (FRAME_HEADER.size + PAGE_SIZE)
        log = Path(f"{self.path}-wal")
        return log.stat().st_size - end if log.exists() else 0

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    # --- durability

    def sync(self) -> None:
        """Flush the log. A second descriptor is safe: SQLite keeps its locks on other files."""
        if self._wal_fd < 0:
            self._wal_fd = os.open(f"{self.path}-wal", os.O_RDONLY)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        os.fdatasync(self._wal_fd)

    def prepare_log(self) -> None:
        """Let the log's file have its size beforehand. SQLite takes what follows its last frame for nothing.

        Only while no transaction is open: SQLite writes to the same file.
        """
        try:
            fd = os.open(f"{self.path}-wal", os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            size, zeros = os.fstat(fd).st_size, bytes(1 << 16)
            while size < PREPARED_BYTES:
                size += os.pwrite(fd, zeros[: PREPARED_BYTES - size], size)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def durable_mark(self) -> tuple[int, int] | None:
        """(salts as one integer, frames) of the last commit in the log; (0, 0) while there is no log."""
        try:
            fd = self._wal_fd if self._wal_fd >= 0 else os.open(f"{self.path}-wal", os.O_RDONLY)
        except FileNotFoundError:
            return (0, 0)
        try:
            header = os.pread(fd, WAL_HEADER_BYTES, 0)
            if len(header) < WAL_HEADER_BYTES:
                return (0, 0)
            if header[16:24] != self._salt:
                self._salt, self._frames = header[16:24], 0
            self._frames = _last_commit(fd, self._salt, self._frames)
        finally:
            if fd != self._wal_fd:
                os.close(fd)
        return (_salt_number(self._salt), self._frames)

    def checkpoint_due(self) -> bool:
        return self._frames >= CHECKPOINT_FRAMES

    def checkpoint(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
            _fold(connection)
        finally:
            connection.close()

    def checkpoint_between(self) -> None:
        _fold(self._connection)

    def check(self) -> list[str]:
        rows = self._connection.execute("PRAGMA integrity_check(20)").fetchall()
        return [row[0] for row in rows if row[0] != "ok"]

    def abandon(self) -> None:
        """Close without folding the log back (which closing the last connection would do). May be called again."""
        if self._closed:
            return
        self._closed = True
        self._sqlite_cursor.close()  # an unfinished statement would keep the connection half open, with its view of the log
        _close_unfolded(self._connection, self.path)
        self._unlock()

    def close(self) -> None:
        self.rollback()
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._sqlite_cursor.close()
        self._connection.close()
        self._closed = True
        self._unlock()

    def _unlock(self) -> None:
        if self._wal_fd >= 0:
            os.close(self._wal_fd)
            self._wal_fd = -1
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _fold(connection: sqlite3.Connection) -> None:
    """A checkpoint that fails, on a full disk say, changes nothing that counts. Raises OSError."""
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.OperationalError as error:
        raise OSError(errno.EIO, f"the namespace's log could not be folded back: {error}") from None


def _close_unfolded(connection: sqlite3.Connection, path: Path) -> None:
    """Another connection that is still open, and may only read, keeps the last one from folding the log."""
    with contextlib.suppress(sqlite3.Error):
        connection.rollback()
    keeper = sqlite3.connect(_uri(path, "ro"), **CONNECT)
    with contextlib.suppress(sqlite3.Error):
        keeper.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.close()
    keeper.close()


def rewind(path: Path, salt: int, frames: int) -> int:
    """Cut the log of a closed database after its first ``frames`` frames, the last durable commit.

    Where the log began afresh since the mark was taken, all that is durable is in the database itself and
    the whole log goes. Returns the number of bytes cut.
    """
    wal = Path(f"{path}-wal")
    if not wal.exists():
        return 0
    with open(wal, "r+b") as file:
        header = file.read(WAL_HEADER_BYTES)
        keep = frames if _salt_number(header[16:24]) == salt else 0
        end = WAL_HEADER_BYTES + keep * (FRAME_HEADER.size + PAGE_SIZE) if keep else 0
        before = file.seek(0, os.SEEK_END)
        file.truncate(min(end, before))
        os.fsync(file.fileno())
    Path(f"{path}-shm").unlink(missing_ok=True)
    return before - min(end, before)


def _last_commit(fd: int, salt: bytes, start: int) -> int:
    """Number of the last commit frame of the log, scanning from frame ``start`` on."""
    frame, last = start, start
    step = FRAME_HEADER.size + PAGE_SIZE
    while True:
        header = os.pread(fd, FRAME_HEADER.size, WAL_HEADER_BYTES + frame * step)
        if len(header) < FRAME_HEADER.size or header[8:16] != salt:
            return last
        frame += 1
        if header[4:8] != b"\0\0\0\0":
            last = frame


def _salt_number(salt: bytes) -> int:
    return int.from_bytes(salt, "big") & 0x7FFF_FFFF_FFFF_FFFF


def _lock(path: Path) -> int:
    """Hold the namespace. Raises Busy with the holder's process id."""
    lock = Path(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PermissionRefused(f"namespace {path}: cannot open {lock}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise Busy(
            f"namespace {path}: in use by process {holder}; one mount at a time holds an SQLite namespace"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _explain(path: Path, error: sqlite3.Error) -> Exception:
    text = str(error)
    if "unable to open" in text or "readonly" in text or "permission" in text:
        return PermissionRefused(f"namespace {path}: {text}")
    if "locked" in text:
        return Busy(f"namespace {path}: {text}")
    return DatabaseCorrupt(
        f"namespace {path}: {text}; nothing was overwritten (see `gsfs recover` in docs/operations.md)"
    )


def _uri(path: Path, mode: str) -> str:
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{quoted}?mode={mode}"
