"""libfuse's table of operations, as pyfuse3 has filled it. Owns finding it, and the handlers that pyfuse3 lacks.

pyfuse3 keeps its session to itself, so the table is looked for in its memory: a pointer to a session of our mount
point, whose libfuse descriptor is /dev/fuse, and in it a table whose handlers are pyfuse3's, slot for slot. Only when
all of that holds is anything changed; otherwise the kernel goes without the further requests, and the caller is told.

Structures and slots: fuse_lowlevel.h and fuse_common.h of libfuse 3, whose binary interface has kept them since 3.0
(copy_file_range since 3.4, lseek since 3.8).
"""

from __future__ import annotations

import ctypes
import enum
import errno
import logging
import os
import struct
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyfuse3
import trio
import trio.lowlevel

from gsfs.errors import GsfsError

log = logging.getLogger(__name__)

WORD = 8
LIBFUSE_OLDEST = 38
"""3.8: the first that knows every slot used here, as ``fuse_version`` tells it."""
SESSION_WORDS = 128
"""How much of a session is searched for the table, which stands near its beginning."""
CACHE_SYMLINKS = 1 << 23
"""FUSE_CAP_CACHE_SYMLINKS: where a symbolic link leads is asked once; it never changes."""
CUSTOM_IO = range(313, 317)
"""3.13 to 3.16: versions in which fuse_session_custom_io exists, and takes three arguments."""
DONT_MASK = 1 << 6
"""FUSE_CAP_DONT_MASK: the umask is ours to apply, because a default ACL stands for it."""
NO_FLUSH = 1 << 7
"""``noflush`` among the bits of ``struct fuse_file_info``."""
HANDLE_KILLPRIV_V2 = 1 << 28
"""FUSE_HANDLE_KILLPRIV_V2 of linux/fuse.h: setuid and setgid are ours to take away when a file changes. The kernel need
not ask for security.capability before each write then, but only once for a file whose attributes it has just learned."""


class Slot(enum.IntEnum):
    """Places in ``struct fuse_lowlevel_ops``."""

    INIT = 0
    OPEN = 14
    STATFS = 24
    CREATE = 30
    FALLOCATE = 40
    COPY_FILE_RANGE = 42
    LSEEK = 43


SLOTS = 44
FILLED = frozenset({*range(SLOTS)} - {1, 21, 31, 32, 33, 34, 37, 39, 40, 42, 43})
"""The slots in which pyfuse3 has a handler: what tells the table from everything else."""

_PTR, _INO, _OFF, _INT = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int
ARGUMENTS: dict[Slot, tuple[Any, ...]] = {
    Slot.INIT: (_PTR, _PTR),
    Slot.OPEN: (_PTR, _INO, _PTR),
    Slot.STATFS: (_PTR, _INO),
    Slot.CREATE: (_PTR, _INO, _PTR, ctypes.c_uint32, _PTR),
    Slot.FALLOCATE: (_PTR, _INO, _INT, _OFF, _OFF, _PTR),
    Slot.COPY_FILE_RANGE: (_PTR, _INO, _OFF, _PTR, _INO, _OFF, _PTR, ctypes.c_size_t, _INT),
    Slot.LSEEK: (_PTR, _INO, _OFF, _INT, _PTR),
}
WRITEV = ctypes.CFUNCTYPE(ctypes.c_ssize_t, _INT, _PTR, _INT, _PTR)


class _Connection(ctypes.Structure):
    """The beginning of ``struct fuse_conn_info``."""

    _fields_ = tuple(
        (name, ctypes.c_uint)
        for name in ("major", "minor", "max_write", "max_read", "max_readahead", "capable", "want")
    )


class Statvfs(ctypes.Structure):
    """``struct statvfs`` of glibc and musl on 64-bit machines."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail",
            "f_fsid", "f_flag", "f_namemax", "_spare0", "_spare1", "_spare2",
        )
    )  # fmt: skip


class _FileInfo(ctypes.Structure):
    """The beginning of ``struct fuse_file_info``."""

    _fields_ = (
        ("flags", _INT), ("bits", ctypes.c_uint32), ("_padding", ctypes.c_uint32 * 2), ("fh", ctypes.c_uint64),
    )  # fmt: skip


class _Mapping(NamedTuple):
    start: int
    end: int
    flags: str
    path: str


def handle_of(file_info: int) -> int:
    """The number of the open file that a request is about."""
    return int(_FileInfo.from_address(file_info).fh)


def flags_of(file_info: int) -> int:
    """The flags of the open(2) that a request is about."""
    return int(_FileInfo.from_address(file_info).flags)


def close_unasked(file_info: int) -> None:
    """Let the kernel close the file without asking (no FLUSH), in the answer to OPEN or CREATE. Since Linux 5.16."""
    _FileInfo.from_address(file_info).bits |= NO_FLUSH


class _CustomIo(ctypes.Structure):
    """``struct fuse_custom_io``: how a session reads and writes its descriptor."""

    _fields_ = tuple((name, _PTR) for name in ("writev", "read", "splice_receive", "splice_send"))


class _IoVector(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", _PTR), ("length", ctypes.c_size_t))


class _InitReply(ctypes.Structure):
    """The beginning of ``struct fuse_init_out``."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("major", "minor", "max_readahead", "flags"))


_REFUSED = object()
WAITING_MAX = 16
"""Requests that wait in threads at once."""


class Table:
    """The operations of one session. What libfuse calls lives as long as this object."""

    def __init__(self, session: int, address: int, library: ctypes.CDLL) -> None:
        self._session = session
        self._address = address
        self._library = library
        self._kept: list[Any] = []
        self._limiter = trio.CapacityLimiter(WAITING_MAX)
        library.fuse_lowlevel_notify_inval_inode.argtypes = (_PTR, _INO, _OFF, _OFF)
        library.fuse_session_custom_io.argtypes = (_PTR, _PTR, _INT)
        library.fuse_reply_err.argtypes = (_PTR, _INT)
        library.fuse_reply_write.argtypes = (_PTR, ctypes.c_size_t)
        library.fuse_reply_lseek.argtypes = (_PTR, _OFF)
        library.fuse_reply_statfs.argtypes = (_PTR, _PTR)

    def handle(
        self,
        slot: Slot,
        handler: Callable[..., Callable[[int], None]],
        first: Callable[..., Callable[[], None] | None] = lambda *_args: None,
    ) -> None:
        """Let ``handler`` answer: called with the request's arguments, it gives what sends the answer.

        It runs to its end without suspending. An error of gsfs becomes its errno, everything else EIO. What ``first``
        gives for the arguments, if anything, is waited for in a thread before.
        """

        def answer(request: int, *args: Any) -> None:
            wait = self._door(slot, request, first, args)
            if wait is _REFUSED:
                return
            if wait is None:
                self._answer(slot, request, handler, args)
            else:
                trio.lowlevel.spawn_system_task(self._answer_after, wait, slot, request, handler, args)

        self._replace(slot, answer)

    async def _answer_after(self, wait: Callable[[], None], slot: Slot, request: int, *rest: Any) -> None:
        try:
            await trio.to_thread.run_sync(wait, limiter=self._limiter)
        except OSError as error:
            log.error("%s: %s", slot.name.lower(), error)
            self._library.fuse_reply_err(request, errno.EIO)
        else:
            self._answer(slot, request, *rest)

    def _answer(self, slot: Slot, request: int, handler: Callable[..., Any], args: tuple[Any, ...]) -> None:
        reply = self._door(slot, request, handler, args)
        if reply is not _REFUSED:
            reply(request)

    def _door(self, slot: Slot, request: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What the function returns; ``_REFUSED`` when it raised, and its error was the answer."""
        name = slot.name.lower()
        try:
            return function(*args)
        except GsfsError as error:
            if error.errno == errno.EIO:
                log.error("%s: %s", name, error)
            self._library.fuse_reply_err(request, error.errno)
        except BaseException:  # nothing leaves a callback of C: who asked would wait for ever
            log.exception("%s%r failed", name, args)
            self._library.fuse_reply_err(request, errno.EIO)
        return _REFUSED

    def collect(self, ino: int, offset: int) -> None:
        """Have the kernel send what mappings changed in the file from there on. Blocks: not in the thread that serves.

        It has no request for that alone: it drops its pages, and writes changed ones before.
        """
        error = self._library.fuse_lowlevel_notify_inval_inode(self._session, ino, offset, 0)
        if error not in (0, -errno.ENOENT, -errno.ENOSYS):  # ENOENT: the kernel does not hold the inode
            raise OSError(-error, f"inode {ino}: what mappings changed cannot be had: {os.strerror(-error)}")

    def want(self, capability: int) -> None:
        """Ask the kernel for a capability that it may have, beside those that pyfuse3 asks for. Before serving."""
        pyfuse3_init = self._present(Slot.INIT)

        def init(user_data: int, connection: int) -> None:
            pyfuse3_init(user_data, connection)
            info = _Connection.from_address(connection)
            info.want |= info.capable & capability

        self._replace(Slot.INIT, init)

    def precede(self, slot: Slot, look: Callable[..., None]) -> None:
        """Let ``look`` see the arguments of a request before pyfuse3 answers it."""
        answer, name = self._present(slot), slot.name.lower()

        def first_look(request: int, *args: Any) -> None:
            try:
                look(*args)
            except GsfsError:
                pass  # of an inode that is gone: the answer says so
            except BaseException:  # the request must be answered whatever happened here
                log.exception("before %s%r", name, args)
            answer(request, *args)

        self._replace(slot, first_look)

    def claim(self, flags: int) -> None:
        """Answer INIT with flags that this libfuse does not know; nothing where it has another way to do that.

        The first thing that a session writes is its answer to INIT; from then on it writes by itself again. (An old
        kernel ignores flags that it did not offer.) Before serving.
        """
        if self._library.fuse_version() not in CUSTOM_IO:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        libc.writev.argtypes, libc.writev.restype = (_INT, _PTR, _INT), ctypes.c_ssize_t
        plain = _CustomIo(*(ctypes.cast(f, ctypes.c_void_p).value for f in (libc.writev, libc.read)))

        def writev(fd: int, vectors: int, count: int, _user_data: int) -> int:
            self._set_io(plain)
            parts = (_IoVector * count).from_address(vectors)
            if count > 1 and parts[1].length >= ctypes.sizeof(_InitReply):
                _InitReply.from_address(parts[1].base).flags |= flags
            return int(libc.writev(fd, vectors, count))

        callback = WRITEV(writev)
        self._kept.append(callback)
        self._set_io(_CustomIo(ctypes.cast(callback, ctypes.c_void_p).value, plain.read))

    def _set_io(self, io: _CustomIo) -> None:
        fd = self._library.fuse_session_fd(self._session)
        self._library.fuse_session_custom_io(self._session, ctypes.byref(io), fd)

    def _present(self, slot: Slot) -> Any:
        """The handler that is there: pyfuse3's take for granted that the interpreter's lock is held."""
        return ctypes.PYFUNCTYPE(None, *ARGUMENTS[slot])(self._word(slot).value or 0)

    def _replace(self, slot: Slot, handler: Callable[..., None]) -> None:
        callback = ctypes.CFUNCTYPE(None, *ARGUMENTS[slot])(handler)
        self._kept.append(callback)
        self._word(slot).value = ctypes.cast(callback, ctypes.c_void_p).value

    def _word(self, slot: Slot) -> ctypes.c_void_p:
        return ctypes.c_void_p.from_address(self._address + slot * WORD)

    # --- answers

    def done(self) -> Callable[[int], None]:
        return lambda request: self._library.fuse_reply_err(request, 0)

    def written(self, count: int) -> Callable[[int], None]:
        return lambda request: self._library.fuse_reply_write(request, count)

    def position(self, offset: int) -> Callable[[int], None]:
        return lambda request: self._library.fuse_reply_lseek(request, offset)

    def space(self, status: Statvfs) -> Callable[[int], None]:
        return lambda request: self._library.fuse_reply_statfs(request, ctypes.addressof(status))


def find_table(mountpoint: str) -> Table | None:
    """The table of the session that ``pyfuse3.init`` has just made for the mount point; None: not to be found."""
    if struct.calcsize("P") != WORD or not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL("libfuse3.so.3")
        known = library.fuse_version() >= LIBFUSE_OLDEST
    except (OSError, AttributeError):
        return None
    if not known:
        return None
    mappings = list(_mappings())
    library.fuse_session_fd.argtypes = (_PTR,)
    for session in _pointers_to(os.fsencode(os.path.abspath(mountpoint)), mappings):
        if _is_fuse(library.fuse_session_fd(session)):
            address = _table_in(session, mappings)
            if address is not None:
                return Table(session, address, library)
    return None


def _mappings() -> Iterator[_Mapping]:
    """What this process has in its memory (proc(5), /proc/pid/maps)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, flags, _offset, _device, _inode, *path = line.split(maxsplit=5)
        start, end = (int(edge, 16) for edge in span.split("-"))
        yield _Mapping(start, end, flags, path[0] if path else "")


def _own(mappings: list[_Mapping]) -> Iterator[_Mapping]:
    """pyfuse3's library: its code, its data, and the zeroed data that has no file behind it."""
    end = 0
    for mapping in mappings:
        if mapping.path == pyfuse3.__file__ or (not mapping.path and mapping.start == end):
            end = mapping.end
            yield mapping


def _words(start: int, end: int) -> tuple[int, ...]:
    return struct.unpack(f"{(end - start) // WORD}Q", ctypes.string_at(start, end - start))


def _pointers_to(mountpoint: bytes, mappings: list[_Mapping]) -> Iterator[int]:
    """Pointers in pyfuse3's data to something whose first member points to the mount point's name: a session's."""
    writable = [m for m in mappings if m.flags.startswith("rw")]
    starts = [m.start for m in writable]
    name = mountpoint + b"\0"

    def is_readable(address: int, size: int) -> bool:
        at = bisect_right(starts, address) - 1
        return at >= 0 and address + size <= writable[at].end

    for mapping in _own(mappings):
        if not mapping.flags.startswith("rw"):
            continue
        for word in _words(mapping.start, mapping.end):
            if word % WORD or not is_readable(word, SESSION_WORDS * WORD):
                continue
            (first,) = _words(word, word + WORD)
            if is_readable(first, len(name)) and ctypes.string_at(first, len(name)) == name:
                yield word


def _is_fuse(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "/dev/fuse"
    except OSError:
        return False


def _table_in(session: int, mappings: list[_Mapping]) -> int | None:
    """Where in the session the handlers are pyfuse3's in every slot that it fills, and no other slot has one."""
    code = [m for m in _own(mappings) if "x" in m.flags]
    words = _words(session, session + SESSION_WORDS * WORD)
    filled = [any(m.start <= word < m.end for m in code) for word in words]
    for first in range(SESSION_WORDS - SLOTS):
        table = range(first, first + SLOTS)
        if all(filled[i] if i - first in FILLED else not words[i] for i in table):
            return session + first * WORD
    return None
