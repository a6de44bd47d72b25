"""Importing: foreign objects become files without moving a byte. Owns what one object, or its end, means here.

A file that was changed here is never overwritten or removed; a file that was removed here does not return
until its object changes. Knows nothing of listings and queues (``watching``).
"""

from __future__ import annotations

import time

from gsfs.backends.base import ObjectInfo
from gsfs.exchange.keys import Misfit, Report, names_of
from gsfs.filesystem.core import Caller, Core
from gsfs.filesystem.names import Names
from gsfs.model import ROOT_INO, Ino, ObjectId, ObjectState
from gsfs.namespace.follows import Imported, Place, Settings
from gsfs.namespace.inodes import Inode
from gsfs.namespace.objects import PhysicalObject
from gsfs.namespace.runs import Run
from gsfs.transfer.downloads import CRC_UNKNOWN

NOTHING = ObjectId(0)
"""Stands for the physical object of an empty file, which has none."""
FILE_MODE, DIRECTORY_MODE = 0o644, 0o755


class Importer:
    """One import. Plain functions: each object is taken whole, in one transaction."""

    def __init__(self, core: Core, names: Names, place: Place, settings: Settings) -> None:
        self._core = core
        self._store = core.store
        self._names = names
        self._place = place
        self._settings = settings
        self._caller = Caller(settings.uid, settings.gid)
        mine = core.store.namespace_id
        self._ours = (f"{mine}/", f"meta/{core.store.name}/{mine}/")

    def take(self, info: ObjectInfo, report: Report) -> None:
        """An object is there: a new file, a changed one, or nothing new. Raises QuotaExceeded."""
        if info.key.startswith(self._ours):
            report.own_objects += 1
            return
        try:
            self._take(info, info.key.removeprefix(self._place.prefix), report)
        except Misfit as why:
            report.problems.append((info.key, str(why)))

    def _take(self, info: ObjectInfo, key: str, report: Report) -> None:
        if not key:
            return  # the marker of the prefix itself: the bucket's directory
        path = names_of(key)
        row = self._store.imported.get(self._place.bucket, key.encode())
        if row is not None and row.etag == info.etag:
            report.unchanged += 1
            return
        parent = self._directory(path[:-1])
        if key.endswith("/"):
            directory = self._directory(path)
            self._remember(key, directory.ino, NOTHING, info.etag)
            if info.size_bytes:
                raise Misfit(f"marks a directory, and its {info.size_bytes} bytes are in no file")
            return
        present = self._core.find(parent.ino, path[-1])
        attributes = self._clear_the_way(present, row)
        if present is not None:
            assert row is not None
            self._let_go(row)
            self._remove(parent, path[-1])
        inode, object_ = self._register(parent, path[-1], info)
        if attributes is not None:
            inode.mode, inode.uid, inode.gid = attributes
        self._remember(key, inode.ino, object_, info.etag)
        report.added += present is None
        report.changed += present is not None
        report.bytes += info.size_bytes

    def _clear_the_way(self, present: Inode | None, row: Imported | None) -> tuple[int, int, int] | None:
        """Mode, owner and group of the file that the object replaces, if there is one. Raises Misfit."""
        if present is None:
            return None
        if present.is_dir:
            raise Misfit("is a directory here, because other keys go on below it")
        if row is None or present.ino != row.ino:
            raise Misfit("has the name of a file that was made here, which stays")
        if not self._is_pristine(present, row):
            raise Misfit("was changed here and at its location; the file stays as it is here")
        return present.mode, present.uid, present.gid

    def _directory(self, path: list[bytes]) -> Inode:
        """The directory of that path, made where it is missing. Raises Misfit."""
        directory = self._core.directory(self._place.bucket)
        for name in path:
            inode = self._core.find(directory.ino, name)
            if inode is None:
                inode = self._names.mkdir(directory.ino, name, DIRECTORY_MODE, self._caller)
                self._tell_kernel(directory, name)
            elif not inode.is_dir:
                raise Misfit(f"lies below {name.decode(errors='replace')}, which is a file")
            directory = inode
        return directory

    def _register(self, parent: Inode, name: bytes, info: ObjectInfo) -> tuple[Inode, ObjectId]:
        """A new file whose bytes are those of the foreign object."""
        store = self._store
        self._core.check_quota(self._core.bucket_of(parent), info.size_bytes)
        inode = self._names.create(parent.ino, name, FILE_MODE, self._caller)
        id_ = NOTHING
        if info.size_bytes:
            id_ = store.new_object()
            crc = CRC_UNKNOWN if info.crc32c is None else info.crc32c
            bucket, size = self._place.bucket, info.size_bytes
            store.objects.add(
                PhysicalObject(
                    id_,
                    bucket,
                    store.epoch,
                    ObjectState.SEALED,
                    size,
                    0,
                    crc,
                    None,
                    time.time_ns(),
                    synced=size,
                )
            )
            owned = self._settings.owned
            store.objects.add_foreign(id_, self._place.location, info.key, info.etag, owned=owned)
            store.extents.write(inode, 0, size, id_, 0)
            inode.size = size
            store.charge(inode)
        inode.mtime_ns = info.mtime_ns or inode.mtime_ns
        store.inodes.touch(inode)
        store.changed()
        self._tell_kernel(parent, name)
        return inode, id_

    def _remember(self, key: str, ino: Ino, object_: ObjectId, etag: str) -> None:
        self._store.imported.put(Imported(self._place.bucket, key.encode(), ino, object_, etag))
        self._store.changed()

    def _is_pristine(self, inode: Inode, row: Imported) -> bool:
        """Whether the file's content is what was imported, and nobody is about to write to it."""
        if inode.writers:
            return False
        object_ = self._store.objects.get(row.object) if row.object else None
        size = object_.size if object_ is not None else 0
        if inode.size != size:
            return False
        return self._store.extents.runs(inode, 0, size) == ([Run(0, size, row.object, 0)] if size else [])

    # --- what went

    def gone(self, key: bytes, report: Report) -> None:
        """The object is there no more: its file goes, unless it was changed here."""
        row = self._store.imported.get(self._place.bucket, key)
        if row is None:
            return
        path = key.removesuffix(b"/").split(b"/")
        parent, inode = self._found(path)
        if parent is None or inode is None or inode.ino != row.ino:
            self._forget(key)  # it was removed or renamed here
        elif inode.is_dir:
            self._forget(key)
            self._prune([*path, b""])
        elif not self._is_pristine(inode, row):
            text = self._place.prefix + key.decode(errors="replace")
            report.problems.append((text, "is gone at its location, but was changed here; the file stays"))
        else:
            self._let_go(row)
            self._forget(key)
            self._remove(parent, path[-1])
            self._prune(path)
            report.removed += 1

    def _found(self, path: list[bytes]) -> tuple[Inode | None, Inode | None]:
        """(directory, inode) of a path."""
        parent, inode = None, self._core.directory(self._place.bucket)
        for name in path:
            parent = inode
            found = self._core.find(parent.ino, name)
            if found is None:
                return None, None
            inode = found
        return parent, inode

    def _let_go(self, row: Imported) -> None:
        """What lies under the key now is not what was imported: removing the file must not delete it."""
        if row.object:
            self._store.objects.disown(row.object)

    def _forget(self, key: bytes) -> None:
        self._store.imported.remove(self._place.bucket, key)
        self._store.changed()

    def _remove(self, parent: Inode, name: bytes) -> None:
        self._names.unlink(parent.ino, name)
        self._tell_kernel(parent, name)

    def _prune(self, path: list[bytes]) -> None:
        """Directories above that are empty now and have no marker of their own: listings show none either."""
        for depth in range(len(path) - 1, 0, -1):
            marker = b"/".join(path[:depth]) + b"/"
            parent, inode = self._found(path[:depth])
            if parent is None or inode is None or not inode.is_dir or self._store.entries.has_any(inode.ino):
                return
            if self._store.imported.get(self._place.bucket, marker) is not None:
                return
            self._names.rmdir(parent.ino, path[depth - 1])
            self._tell_kernel(parent, path[depth - 1])

    def _tell_kernel(self, parent: Inode, name: bytes) -> None:
        """The kernel keeps names, and the absence of names, for a day."""
        if parent.lookups or parent.ino == ROOT_INO:
            self._core.on_entry_changed(parent.ino, name)
            self._core.on_attributes_changed(parent.ino)
