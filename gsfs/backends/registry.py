"""From a spec to a backend. Owns the choice and the lazy import of cloud SDKs; makes no request."""

from __future__ import annotations

from pathlib import Path

from gsfs.backends.base import Backend
from gsfs.backends.location import Location
from gsfs.backends.prefix import PrefixedBackend
from gsfs.backends.sdklogs import quiet_sdks
from gsfs.backends.spec import LocationSpec
from gsfs.errors import Misconfigured
from gsfs.model import LocationId


def open_backend(spec: LocationSpec) -> Backend:
    """The backend of a spec, its prefix applied. Blocking: importing an SDK takes a quarter of a second.

    Raises Misconfigured when the SDK of this kind is not installed or rejects its options.
    """
    backend = _bare_backend(spec)
    return PrefixedBackend(backend, spec.prefix) if spec.prefix else backend


def open_location(spec: LocationSpec) -> Location:
    """A location with its wrappers, ready for use. Blocking, like ``open_backend``."""
    return Location(LocationId(spec.id), open_backend(spec), spec.options())


def _bare_backend(spec: LocationSpec) -> Backend:
    # The imports are here, because an SDK costs 40 MB and 200 ms: only those that are used are loaded.
    try:
        if spec.kind == "memory":
            from gsfs.backends.memory import MemoryBackend

            return MemoryBackend()
        if spec.kind == "local":
            from gsfs.backends.local import LocalBackend

            return LocalBackend(Path(spec.path))
        quiet_sdks()
        if spec.kind == "s3":
            from gsfs.backends.s3 import S3Backend

            return S3Backend(spec)
        if spec.kind == "azure":
            from gsfs.backends.azure import AzureBackend

            return AzureBackend(spec)
        from gsfs.backends.gcs import GcsBackend

        return GcsBackend(spec)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gsfs"):
            raise
        extra = f"pip install 'gsfs[{spec.kind}]'"
        raise Misconfigured(f"location {spec.id!r}: {error.name} is not installed: {extra}") from None
