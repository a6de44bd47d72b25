"""A directory as a location: safe against power loss. Owns the files below its root; never follows symlinks.

An object is written to a temporary file, synced, read back and compared, and only then given its name; the
directory is synced after that. Names are in ``localpath``, listing in ``locallist``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from gsfs.backends import localpath
from gsfs.backends.base import BytesSource, Capabilities, FileSource, ObjectInfo, Source
from gsfs.backends.checksum import crc32c_of_file, from_hex, to_hex
from gsfs.backends.locallist import list_keys
from gsfs.backends.source import SourceLost
from gsfs.errors import (
    BackendCorrupt,
    BackendError,
    BackendPermission,
    Misconfigured,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    Unavailable,
)

CAPABILITIES: Final = Capabilities(
    max_object_bytes=1 << 43,
    max_key_bytes=1024,
    copy_within=True,
    put_if_absent=True,
    native_crc32c=True,
)

CHECKSUM_ATTRIBUTE: Final = "user.gsfs.crc32c"
"""Extended attribute with the CRC32C; absent where the file system has none, or after others wrote."""

_COPY_REFUSALS: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class LocalBackend:
    """Objects as files below ``root``. Several processes may share a root: commits take a lock file.

    Lock order: ``_commits``, then the flock on the temporary directory.
    """

    def __init__(self, root: Path) -> None:
        self.capabilities = CAPABILITIES
        self._root = os.fsencode(root.absolute())
        self._temporary = os.path.join(self._root, localpath.TEMPORARY)
        self._commits = threading.Lock()
        with _translated(f"open {root}"):
            if not os.path.lexists(self._root):  # a disk that is mounted later: systemd is to try again
                raise Unavailable(f"local location: {root} does not exist; make it, or mount its disk")
            if not os.path.isdir(self._root):
                raise Misconfigured(f"local location: {root} is not a directory")
            os.makedirs(self._temporary, mode=0o700, exist_ok=True)
            self._lock_file = os.open(self._temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._clean()

    def put(self, key: str, source: Source, *, if_absent: bool = False) -> ObjectInfo:
        self._check_here()
        with _translated(f"put {key}"), self._temporary_file() as (descriptor, path):
            _fill(descriptor, source)
            _verify(key, descriptor, source)
            _keep_checksum(descriptor, source.crc32c)
            os.fsync(descriptor)  # not fdatasync: the attribute must survive too
            self._commit(key, path, if_absent=if_absent)
            return _info(key, os.fstat(descriptor), source.crc32c)

    def get_range(self, key: str, offset: int, length: int, *, if_match: str = "") -> bytes:
        with _translated(f"get {key}"), self._opened(key) as descriptor:
            facts = os.fstat(descriptor)
            wanted = max(0, min(length, facts.st_size - offset))
            data = _pread_all(descriptor, wanted, offset)
            # Others may write files in place: what was read counts only if the file is still the same.
            if if_match and _etag(os.fstat(descriptor)) != if_match:
                raise ObjectChanged(f"get {key}: the file was changed")
            if len(data) != wanted:
                raise Unavailable(f"get {key}: the file shrank while it was read")
            return data

    def head(self, key: str) -> ObjectInfo:
        with _translated(f"head {key}"), self._opened(key) as descriptor:
            return _info(key, os.fstat(descriptor), _kept_checksum(descriptor))

    def delete_many(self, keys: Sequence[str]) -> None:
        with _translated(f"delete {len(keys)} keys"):
            self._check_here()
            parents = {parent for key in keys for parent in self._unlink(key)}
            for parent in sorted(parents, key=len, reverse=True):
                self._prune(parent)

    def list_page(self, prefix: str, start_after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        page: list[ObjectInfo] = []
        with _translated(f"list {prefix}"):
            self._check_here()
            for key, path in list_keys(self._root, prefix, start_after):
                try:
                    facts = os.stat(path, follow_symlinks=False)
                except FileNotFoundError:  # deleted since its directory was read
                    continue
                page.append(_info(key, facts, None))
                if len(page) == limit:
                    break
        return page

    def copy(self, source_key: str, key: str) -> ObjectInfo:
        with _translated(f"copy {source_key}"), self._opened(source_key) as descriptor:
            size = os.fstat(descriptor).st_size
            checksum, _size = crc32c_of_file(descriptor, 0, size)
            return self.put(key, FileSource(Path(f"/proc/self/fd/{descriptor}"), size, checksum))

    def check(self) -> None:
        with _translated("check"):
            self._check_here()
            if not os.access(self._root, os.W_OK):
                raise BackendPermission(f"local location: {os.fsdecode(self._root)} is not writable")

    def close(self) -> None:
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def _check_here(self) -> None:
        """Nothing is found in a directory whose disk is not mounted, and that says nothing about the objects."""
        if not os.path.isdir(self._temporary):
            root = os.fsdecode(self._root)
            raise Unavailable(f"{root}: is not the directory that it was; is its disk mounted?")

    # --- names

    def _directory(self, key: str) -> bytes:
        return os.path.join(self._root, *localpath.directory_of(key))

    def _places(self, key: str) -> list[bytes]:
        """Where the object can be: under its plain name, or escaped because a directory has that name."""
        directory = self._directory(key)
        plain = localpath.plain_name(key)
        escaped = os.path.join(directory, *localpath.escaped_names(key))
        return [escaped] if plain is None else [os.path.join(directory, plain), escaped]

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        descriptor = self._open(key)
        if descriptor is None:
            with self._locked():  # it may have been on its way from the plain to the escaped name
                descriptor = self._open(key)
        if descriptor is None:
            self._check_here()
            raise ObjectNotFound(f"no object {key}")
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self, key: str) -> int | None:
        for place in self._places(key):
            try:
                # O_NONBLOCK, because opening a fifo would hang for ever.
                descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                    continue
                raise
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
        return None

    # --- writing

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One commit at a time, over threads and processes."""
        with self._commits:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    @contextmanager
    def _temporary_file(self) -> Iterator[tuple[int, bytes]]:
        """A new file, locked for as long as it is being written, removed unless it got another name."""
        path = os.path.join(self._temporary, os.urandom(12).hex().encode())
        with self._locked():  # so that _clean never sees it before its own lock is held
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield descriptor, path
        finally:
            _unlink_if_there(path)
            os.close(descriptor)

    def _clean(self) -> None:
        """Remove what crashes left behind: temporary files that no live process has locked."""
        with self._locked():
            for entry in list(os.scandir(self._temporary)):
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
                except BlockingIOError:  # still being written
                    continue
                finally:
                    os.close(descriptor)

    def _commit(self, key: str, temporary: bytes, *, if_absent: bool) -> None:
        """Give the file its name, then make the name durable."""
        with ExitStack() as held:
            with self._locked():
                place = self._free_place(key)
                touched = self._make_directories(os.path.dirname(place))
                descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in touched]
                for descriptor in descriptors:
                    held.callback(os.close, descriptor)
                if if_absent:
                    self._link(key, temporary, place)
                else:
                    os.rename(temporary, place)
                    self._drop_double(key, place)
            for descriptor in descriptors:  # outside the lock: a sync is slow
                os.fsync(descriptor)

    def _link(self, key: str, temporary: bytes, place: bytes) -> None:
        if any(_is_file(other) for other in self._places(key)):
            raise ObjectExists(f"put {key}: there is an object already")
        try:
            os.link(temporary, place)
        except FileExistsError:
            raise ObjectExists(f"put {key}: there is an object already") from None

    def _free_place(self, key: str) -> bytes:
        """The plain place, unless a directory or something foreign has it."""
        places = self._places(key)
        try:
            mode = os.lstat(places[0]).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return places[0]
        return places[0] if stat.S_ISREG(mode) else places[-1]

    def _drop_double(self, key: str, kept: bytes) -> None:
        """An object lives in one place: remove an escaped file when the plain one was written."""
        for place in self._places(key):
            if place != kept and _is_file(place):
                os.unlink(place)

    def _make_directories(self, directory: bytes) -> list[bytes]:
        """Make the directory; all directories that changed by it, and itself. Objects in the way move."""
        touched = [directory]
        path = self._root
        for name in os.path.relpath(directory, self._root).split(b"/"):
            parent, path = path, os.path.normpath(os.path.join(path, name))
            if os.path.isdir(path):
                continue
            if _is_file(path):
                self._move_aside(parent, path)
            os.mkdir(path)
            touched.append(parent)
        return touched

    def _move_aside(self, parent: bytes, path: bytes) -> None:
        """A plain object becomes an escaped one, atomically, because its name is needed for a directory."""
        escaped = os.path.join(parent, *localpath.escaped_names(os.fsdecode(os.path.basename(path))))
        self._make_directories(os.path.dirname(escaped))
        os.rename(path, escaped)

    # --- removing

    def _unlink(self, key: str) -> list[bytes]:
        """Remove the object wherever it is; the directories that held it."""
        with self._locked():
            return [os.path.dirname(place) for place in self._places(key) if _unlink_if_there(place)]

    def _prune(self, directory: bytes) -> None:
        """Sync the directory, and remove it and those above while they are empty, but never the root."""
        while directory != self._root:
            with self._locked():
                try:
                    os.rmdir(directory)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY):
                        raise
                    break
            directory = os.path.dirname(directory)
        _sync_directory(directory)


def _fill(descriptor: int, source: Source) -> None:
    if isinstance(source, BytesSource):
        view = memoryview(source.data)
        while view:
            view = view[os.write(descriptor, view) :]
        return
    try:
        origin = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceLost(f"{source.path}: {error.strerror}") from error
    try:
        _copy_run(origin, source, descriptor)
    finally:
        os.close(origin)


def _copy_run(origin: int, source: FileSource, descriptor: int) -> None:
    """Let the kernel copy (on some file systems it shares the blocks); else read and write."""
    done, by_kernel = 0, True
    while done < source.size_bytes:
        left, at = source.size_bytes - done, source.offset + done
        try:
            if by_kernel:
                copied = os.copy_file_range(origin, descriptor, left, at, done)
            else:
                copied = os.pwrite(descriptor, os.pread(origin, min(left, 1 << 20), at), done)
        except OSError as error:
            if not by_kernel or error.errno not in _COPY_REFUSALS:
                raise
            by_kernel = False
            continue
        if copied == 0:
            raise SourceLost(f"{source.path}: {done} bytes where {source.size_bytes} were promised")
        done += copied


def _verify(key: str, descriptor: int, source: Source) -> None:
    """Read back what was written: this is the destination, and its word counts."""
    checksum, size = crc32c_of_file(descriptor, 0, source.size_bytes + 1)
    if (size, checksum) != (source.size_bytes, source.crc32c):
        raise BackendCorrupt(f"put {key}: what was written differs from what was promised")


def _keep_checksum(descriptor: int, checksum: int) -> None:
    try:
        os.setxattr(descriptor, CHECKSUM_ATTRIBUTE, to_hex(checksum).encode())
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSPC, errno.EPERM):
            raise


def _kept_checksum(descriptor: int) -> int | None:
    try:
        return from_hex(os.getxattr(descriptor, CHECKSUM_ATTRIBUTE).decode("ascii", "replace"))
    except OSError:  # no such attribute, or none on this file system: then none is known
        return None


def _info(key: str, facts: os.stat_result, checksum: int | None) -> ObjectInfo:
    return ObjectInfo(key, facts.st_size, _etag(facts), facts.st_mtime_ns, checksum)


def _etag(facts: os.stat_result) -> str:
    return f"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"


def _pread_all(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _is_file(path: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:  # absent, or below something that is no directory
        return False


def _unlink_if_there(path: bytes) -> bool:
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            return False
        raise
    return True


def _sync_directory(path: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # pruned by another delete
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The operating system's errors as those of the contract."""
    try:
        yield
    except BackendError:
        raise
    except OSError as error:
        text = f"{what}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BackendPermission(text) from error
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise Misconfigured(text) from error
        raise Unavailable(text) from error
