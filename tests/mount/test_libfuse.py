"""Finding libfuse's table of operations: only what is exactly pyfuse3's is ever changed, and mounts live without it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gsfs import libfuse
from gsfs.errors import Stale
from tests.mount.conftest import MakeMount

NOT_FOUND = "from gsfs import libfuse\nlibfuse.find_table = lambda mountpoint: None\n"
"""A module that Python imports by itself when it starts."""

COUNTING = """
from gsfs.fuse import Operations
def counted(name):
    handler = getattr(Operations, name)
    async def count(self, *args):
        with open({path!r}, "a") as out:
            print(name, *[arg for arg in args if isinstance(arg, bytes) and len(arg) < 100], file=out)
        return await handler(self, *args)
    setattr(Operations, name, count)
for name in ("getxattr", "flush", "readlink"):
    counted(name)
"""
"""Writes down which of these requests the kernel makes."""


@pytest.fixture
def session() -> tuple[ctypes.Array[ctypes.c_uint64], list[libfuse._Mapping]]:
    """Memory that looks like a session, with the table at word 5; handlers are addresses in pyfuse3's code."""
    mappings = list(libfuse._mappings())
    code = next(m for m in libfuse._own(mappings) if "x" in m.flags)
    words = (ctypes.c_uint64 * libfuse.SESSION_WORDS)()
    for slot in libfuse.FILLED:
        words[5 + slot] = code.start + 16 * slot
    return words, mappings


def test_the_table_is_where_every_slot_is_as_pyfuse3_fills_it(
    session: tuple[ctypes.Array[ctypes.c_uint64], list[libfuse._Mapping]],
) -> None:
    words, mappings = session
    address = ctypes.addressof(words)
    assert libfuse._table_in(address, mappings) == address + 5 * libfuse.WORD


@pytest.mark.parametrize("slot", [libfuse.Slot.FALLOCATE, libfuse.Slot.STATFS])
def test_one_slot_that_differs_and_nothing_is_changed(
    session: tuple[ctypes.Array[ctypes.c_uint64], list[libfuse._Mapping]], slot: libfuse.Slot
) -> None:
    """A newer pyfuse3 with a handler of its own there, or another structure altogether."""
    words, mappings = session
    words[5 + slot] = 0 if words[5 + slot] else words[5]
    assert libfuse._table_in(ctypes.addressof(words), mappings) is None


def test_there_is_no_table_without_a_session(tmp_path: Path) -> None:
    assert libfuse.find_table(str(tmp_path)) is None


def test_a_mount_without_the_table_says_so_and_works(make_mount: MakeMount, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOT_FOUND)
    mount = make_mount(environment={"PYTHONPATH": str(tmp_path)})
    assert "libfuse's table of operations is not where it is expected" in mount.log.read_text()
    with open(mount.bucket / "f", "w+b", buffering=0) as file:
        file.write(b"x" * 5000)
        os.posix_fallocate(file.fileno(), 0, 9000)
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 9000
        with open(mount.bucket / "g", "wb") as other:
            assert os.copy_file_range(file.fileno(), other.fileno(), 9000, 0) == 9000
    assert (mount.bucket / "g").read_bytes() == b"x" * 5000 + bytes(4000)
    assert os.statvfs(mount.bucket).f_namemax == 255
    old = os.umask(0o027)
    try:
        (mount.bucket / "h").touch()
    finally:
        os.umask(old)
    assert (mount.bucket / "h").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Where a mount with ``environment={"PYTHONPATH": ...}`` of the same directory writes down requests."""
    path = tmp_path / "asked"
    (tmp_path / "sitecustomize.py").write_text(COUNTING.format(path=str(path)))
    path.touch()
    return path


def test_the_kernel_asks_once_and_not_before_each_write(make_mount: MakeMount, asked: Path) -> None:
    """A second request, for security.capability, had made every small write half as expensive again."""
    mount = make_mount(environment={"PYTHONPATH": str(asked.parent)})
    with (mount.bucket / "f").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 4096)
    assert asked.read_text().splitlines().count("getxattr b'security.capability'") == 1


def test_closing_is_a_request_only_where_close_promises_something(make_mount: MakeMount, asked: Path) -> None:
    mount = make_mount(environment={"PYTHONPATH": str(asked.parent)})
    file = mount.bucket / "f"
    file.write_bytes(b"x")
    file.read_bytes()
    assert "flush" not in asked.read_text()
    mount.run("bucket", "set", str(mount.bucket), "durability=remote")
    file.read_bytes()
    assert "flush" not in asked.read_text()
    file.write_bytes(b"y")
    (mount.bucket / "g").write_bytes(b"z")
    assert asked.read_text().split().count("flush") == 2


def test_a_look_at_an_inode_that_is_gone_leaves_the_answer_to_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def gone(*_args: object) -> None:
        raise Stale("inode 7: does not exist")

    answered: list[tuple[int, ...]] = []
    table = libfuse.Table.__new__(libfuse.Table)
    table._present = lambda _slot: lambda *args: answered.append(args)  # type: ignore[method-assign]  # no pyfuse3 here
    replaced: list[Callable[..., None]] = []
    table._replace = lambda _slot, handler: replaced.append(handler)  # type: ignore[method-assign]  # likewise
    table.precede(libfuse.Slot.OPEN, gone)
    replaced[0](1, 7, 0)
    assert answered == [(1, 7, 0)]
    assert caplog.records == []


def test_where_a_symbolic_link_leads_is_asked_once(make_mount: MakeMount, asked: Path) -> None:
    mount = make_mount(environment={"PYTHONPATH": str(asked.parent)})
    link = mount.bucket / "link"
    for target in ("one", "two"):
        link.symlink_to(target)
        assert {os.readlink(link) for _ in range(3)} == {target}
        link.unlink()
    assert asked.read_text().split().count("readlink") == 2
