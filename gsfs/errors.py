"""Every error gsfs raises on purpose. Owns the errno and the exit code of each; imports nothing of gsfs."""

from __future__ import annotations

import enum
import errno as codes


class ExitCode(enum.IntEnum):
    """Exit codes of the command line; documented in docs/cli.md."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    """Bad arguments or a bad configuration file."""
    NOT_FOUND = 3
    """A path, bucket, location or namespace that does not exist."""
    BUSY = 4
    """Held by somebody else: a second mount, a mount point in use."""
    UNAVAILABLE = 5
    """A location, database or mount does not answer."""
    CORRUPT = 6
    """Data or a database that fails its own checks; nothing was overwritten."""
    INCOMPLETE = 7
    """Work remains: a drain that did not finish, bytes not uploaded."""
    DENIED = 8
    """Permission refused by the machine or by a location."""
    NO_SPACE = 9
    """The cache disk is full or below its free-space floor."""


class GsfsError(Exception):
    """Base of every expected error. The message is one line: what, where, what is accepted."""

    errno: int = codes.EIO
    exit_code: ExitCode = ExitCode.INTERNAL


# --- answers of the file system: each carries the errno that the caller sees


class NoSuchEntry(GsfsError):
    errno = codes.ENOENT
    exit_code = ExitCode.NOT_FOUND


class EntryExists(GsfsError):
    errno = codes.EEXIST
    exit_code = ExitCode.USAGE


class NotADirectory(GsfsError):
    errno = codes.ENOTDIR


class IsADirectory(GsfsError):
    errno = codes.EISDIR


class NotEmpty(GsfsError):
    errno = codes.ENOTEMPTY
    exit_code = ExitCode.USAGE


class NameTooLong(GsfsError):
    errno = codes.ENAMETOOLONG


class InvalidArgument(GsfsError):
    errno = codes.EINVAL
    exit_code = ExitCode.USAGE


class NotPermitted(GsfsError):
    errno = codes.EPERM


class AccessDenied(GsfsError):
    errno = codes.EACCES


class CrossesBuckets(GsfsError):
    errno = codes.EXDEV


class BeyondEnd(GsfsError):
    errno = codes.ENXIO


class TooManyLinks(GsfsError):
    errno = codes.EMLINK


class TooLarge(GsfsError):
    errno = codes.EFBIG


class NoAttribute(GsfsError):
    errno = codes.ENODATA


class ResultTooSmall(GsfsError):
    errno = codes.ERANGE


class ArgumentTooBig(GsfsError):
    errno = codes.E2BIG


class NotSupported(GsfsError):
    errno = codes.EOPNOTSUPP


class NoSpace(GsfsError):
    errno = codes.ENOSPC
    exit_code = ExitCode.NO_SPACE


class QuotaExceeded(GsfsError):
    errno = codes.EDQUOT


class BadHandle(GsfsError):
    errno = codes.EBADF


class Stale(GsfsError):
    errno = codes.ESTALE


class ReadOnly(GsfsError):
    errno = codes.EROFS


class InputOutput(GsfsError):
    """Bytes that cannot be had within the deadline, or that fail their checksum everywhere."""

    errno = codes.EIO


# --- start-up and command line


class ConfigError(GsfsError):
    """A configuration that cannot be used: names the file, the key, what it got and what it takes."""

    errno = codes.EINVAL
    exit_code = ExitCode.USAGE


class NotFoundError(GsfsError):
    """A thing the user named (namespace, bucket, location, path) does not exist."""

    errno = codes.ENOENT
    exit_code = ExitCode.NOT_FOUND


class Busy(GsfsError):
    """Another process holds the namespace, the cache or the mount point."""

    errno = codes.EBUSY
    exit_code = ExitCode.BUSY


class NotAnswering(GsfsError):
    """The daemon or the database does not answer."""

    errno = codes.EIO
    exit_code = ExitCode.UNAVAILABLE


class DatabaseCorrupt(GsfsError):
    """The namespace fails its own checks. Nothing has been overwritten."""

    exit_code = ExitCode.CORRUPT


class DatabaseLost(GsfsError):
    """A commit failed and took its changes with it: memory and database differ, and only a new start helps."""

    exit_code = ExitCode.UNAVAILABLE


class SchemaMismatch(GsfsError):
    """The namespace was written by a newer (or an unknown) version of gsfs."""

    exit_code = ExitCode.CORRUPT


class Incomplete(GsfsError):
    """A drain, flush or evacuation stopped with work left; it resumes later."""

    exit_code = ExitCode.INCOMPLETE


class PermissionRefused(GsfsError):
    """The machine refuses something gsfs needs (a directory, /dev/fuse)."""

    errno = codes.EACCES
    exit_code = ExitCode.DENIED


# --- locations: errors by what the caller can do about them


class BackendError(GsfsError):
    """Base of what a location can answer; ``retryable`` says whether trying again may help."""

    errno = codes.EIO
    exit_code = ExitCode.UNAVAILABLE
    retryable = False


class ObjectNotFound(BackendError):
    """No object under that key."""

    exit_code = ExitCode.NOT_FOUND


class ObjectChanged(BackendError):
    """There is an object under that key, but no longer the one that is meant."""


class ObjectExists(BackendError):
    """An if-absent put found an object under that key."""


class BackendPermission(BackendError):
    """Credentials are missing, wrong or not allowed to do this."""

    exit_code = ExitCode.DENIED


class Throttled(BackendError):
    """The location asks for fewer requests; ``retry_after_s`` is what it asked to wait, if it said."""

    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(BackendError):
    """The location does not answer, answers 5xx, or broke off: trying again may help."""

    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BackendCorrupt(BackendError):
    """Bytes that came back (or were stored) fail their checksum or size."""

    retryable = True


class Misconfigured(BackendError):
    """No such bucket, wrong region, wrong endpoint, bad option: trying again cannot help."""

    exit_code = ExitCode.USAGE
