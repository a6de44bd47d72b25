"""POSIX semantics without FUSE: the rules that a mount cannot show on its own, and bugs that were found there."""

from __future__ import annotations

import os
import stat
from itertools import islice

import pytest

from gsfs.errors import (
    CrossesBuckets,
    EntryExists,
    InvalidArgument,
    NameTooLong,
    NoAttribute,
    NotEmpty,
    NotPermitted,
    NotSupported,
)
from gsfs.filesystem import acl
from gsfs.filesystem.attributes import TIME_MAX_NS, TIME_MIN_NS, Changes
from gsfs.filesystem.core import Caller
from gsfs.filesystem.directories import PAGE_FIRST, PAGE_NEXT
from gsfs.filesystem.names import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from gsfs.model import FILE_SIZE_MAX, ROOT_INO, Ino
from gsfs.volume import Volume
from tests.support.volumes import ROOT, SOMEBODY, list_names, make_bucket, read_file, write_file

MANY = PAGE_FIRST + PAGE_NEXT + 100


def fill(volume: Volume, bucket: Ino, count: int = MANY) -> tuple[Ino, list[bytes]]:
    """A directory with that many files; (its number, their names in order)."""
    directory = volume.names.mkdir(bucket, b"many", 0o755, ROOT).ino
    names = [b"%06d" % i for i in range(count)]
    for name in names:
        volume.names.create(directory, name, 0o644, ROOT)
    return directory, names


# --- listings


def test_cookie_taken_before_rewinding_leads_to_the_same_entry_after_it(volume: Volume, bucket: Ino) -> None:
    directory, _ = fill(volume, bucket)
    handle = volume.directories.opendir(directory)
    first = list(volume.directories.listing(handle, 0))
    list(islice(volume.directories.listing(handle, 0), 1))
    place = MANY // 2
    following = next(volume.directories.listing(handle, first[place].cookie))
    assert following.name == first[place + 1].name


def test_a_small_directory_is_listed_whole_again_after_rewinding(volume: Volume, bucket: Ino) -> None:
    """Its only page had been remembered as the end of the listing."""
    directory, names = fill(volume, bucket, 5)
    handle = volume.directories.opendir(directory)
    for _ in range(2):
        assert [entry.name for entry in volume.directories.listing(handle, 0)][2:] == names


def test_resuming_behind_removed_entries_lists_each_remaining_one_once(volume: Volume, bucket: Ino) -> None:
    directory, names = fill(volume, bucket, 20)
    handle = volume.directories.opendir(directory)
    listed = list(volume.directories.listing(handle, 0))
    for name in names[5:10]:
        volume.names.unlink(directory, name)
    seen, cookie = [], listed[6].cookie  # two dots and five names
    while entries := list(islice(volume.directories.listing(handle, cookie), 1)):
        seen.append(entries[0].name)
        cookie = entries[0].cookie
    assert seen == names[10:]


def test_name_removed_while_listing_is_not_listed_although_its_inode_lives_on(
    volume: Volume, bucket: Ino
) -> None:
    """It would be put into the kernel's cache of names, and be found there for a day."""
    directory, names = fill(volume, bucket, 50)
    volume.names.link(volume.names.lookup(directory, names[40]).ino, bucket, b"elsewhere")  # type: ignore[union-attr]
    handle = volume.directories.opendir(directory)
    start = list(islice(volume.directories.listing(handle, 0), 10))
    volume.names.unlink(directory, names[40])
    rest = [entry.name for entry in volume.directories.listing(handle, start[-1].cookie)]
    assert names[40] not in rest
    assert names[41] in rest


def test_name_replaced_while_listing_is_listed_once_and_leads_to_the_new_inode(
    volume: Volume, bucket: Ino
) -> None:
    directory, names = fill(volume, bucket, 50)
    coming = volume.names.create(bucket, b"new", 0o644, ROOT)
    handle = volume.directories.opendir(directory)
    start = list(islice(volume.directories.listing(handle, 0), 10))
    volume.names.rename(bucket, b"new", directory, names[40], 0)
    rest = [
        entry for entry in volume.directories.listing(handle, start[-1].cookie) if entry.name == names[40]
    ]
    assert [entry.inode.ino for entry in rest] == [coming.ino]


def test_renaming_what_is_listed_ends_and_misses_nothing(volume: Volume, bucket: Ino) -> None:
    directory, names = fill(volume, bucket)
    handle = volume.directories.opendir(directory)
    seen, cookie = [], 0
    while entries := list(islice(volume.directories.listing(handle, cookie), 100)):
        cookie = entries[-1].cookie
        for entry in entries:
            if entry.name not in (b".", b".."):
                seen.append(entry.name)
                volume.names.rename(directory, entry.name, directory, b"z" + entry.name, 0)
    assert seen == names
    assert list_names(volume, directory) == [b"z" + name for name in names]


def test_rewinding_shows_what_was_made_since(volume: Volume, bucket: Ino) -> None:
    directory, _ = fill(volume, bucket, 5)
    handle = volume.directories.opendir(directory)
    list(volume.directories.listing(handle, 0))
    volume.names.create(directory, b"later", 0o644, ROOT)
    assert b"later" in [entry.name for entry in volume.directories.listing(handle, 0)]


def test_removed_directory_that_is_held_can_be_opened_again_and_is_empty(volume: Volume, bucket: Ino) -> None:
    inode = volume.names.mkdir(bucket, b"d", 0o755, ROOT)
    inode.lookups = 1
    volume.names.rmdir(bucket, b"d")
    assert list_names(volume, inode.ino) == []


def test_removed_directory_is_let_go_by_its_last_handle(volume: Volume, bucket: Ino) -> None:
    inode = volume.names.mkdir(bucket, b"d", 0o755, ROOT)
    inode.lookups = 1
    volume.names.rmdir(bucket, b"d")
    handle = volume.directories.opendir(inode.ino)
    volume.store.inodes.forget(inode.ino, 1)
    volume.directories.releasedir(handle)
    assert volume.store.inodes.cached(inode.ino) is None


# --- rename


def test_whiteout_leaves_a_device_0_0_of_the_caller(volume: Volume, bucket: Ino) -> None:
    moved = write_file(volume, bucket, b"a", b"x")
    volume.names.rename(bucket, b"a", bucket, b"b", RENAME_WHITEOUT, SOMEBODY)
    left = volume.names.lookup(bucket, b"a")
    assert left is not None
    assert (stat.S_IFMT(left.mode), left.rdev, left.uid) == (stat.S_IFCHR, 0, SOMEBODY.uid)
    assert volume.names.lookup(bucket, b"b") is volume.core.inode(moved)


def test_whiteout_and_exchange_exclude_each_other(volume: Volume, bucket: Ino) -> None:
    write_file(volume, bucket, b"a", b"x")
    write_file(volume, bucket, b"b", b"x")
    for flags in (RENAME_EXCHANGE | RENAME_WHITEOUT, RENAME_EXCHANGE | RENAME_NOREPLACE, 8):
        with pytest.raises(InvalidArgument):
            volume.names.rename(bucket, b"a", bucket, b"b", flags)


def test_directory_is_not_moved_into_itself_nor_over_one_that_holds_something(
    volume: Volume, bucket: Ino
) -> None:
    above = volume.names.mkdir(bucket, b"above", 0o755, ROOT).ino
    volume.names.mkdir(above, b"below", 0o755, ROOT)
    volume.names.mkdir(bucket, b"other", 0o755, ROOT)
    with pytest.raises(InvalidArgument):
        volume.names.rename(bucket, b"above", above, b"x", 0)
    with pytest.raises(NotEmpty):
        volume.names.rename(bucket, b"other", bucket, b"above", 0)


def test_exchange_keeps_link_counts_of_both_parents(volume: Volume, bucket: Ino) -> None:
    one = volume.names.mkdir(bucket, b"one", 0o755, ROOT)
    two = volume.names.mkdir(bucket, b"two", 0o755, ROOT)
    child = volume.names.mkdir(one.ino, b"d", 0o755, ROOT)
    write_file(volume, two.ino, b"f", b"x")
    volume.names.rename(one.ino, b"d", two.ino, b"f", RENAME_EXCHANGE)
    assert (one.nlink, two.nlink, child.parent) == (2, 3, two.ino)


# --- the root and its buckets


def test_root_takes_directories_only(volume: Volume) -> None:
    with pytest.raises(NotPermitted):
        volume.names.create(ROOT_INO, b"file", 0o644, ROOT)
    with pytest.raises(NotPermitted):
        volume.names.symlink(ROOT_INO, b"link", b"target", ROOT)
    assert make_bucket(volume, b"b") in {b.ino for b in volume.store.buckets.all()}


def test_trees_move_between_buckets_and_hard_links_do_not(volume: Volume, bucket: Ino) -> None:
    other = make_bucket(volume, b"other")
    tree = volume.names.mkdir(bucket, b"tree", 0o755, ROOT).ino
    ino = write_file(volume, tree, b"file", b"bytes")
    volume.names.rename(bucket, b"tree", other, b"tree", 0)
    assert volume.core.inode(tree).bucket == other
    assert read_file(volume, volume.names.lookup(tree, b"file").ino) == b"bytes"  # type: ignore[union-attr]
    with pytest.raises(CrossesBuckets):
        volume.names.link(ino, bucket, b"again")


def test_buckets_are_not_moved_into_buckets_and_nothing_is_moved_to_the_root(
    volume: Volume, bucket: Ino
) -> None:
    make_bucket(volume, b"other")
    volume.names.mkdir(bucket, b"d", 0o755, ROOT)
    for arguments in ((ROOT_INO, b"other", bucket, b"x"), (bucket, b"d", ROOT_INO, b"x")):
        with pytest.raises(CrossesBuckets):
            volume.names.rename(*arguments, 0)


# --- modes and owners


@pytest.mark.parametrize(
    ("mode", "caller", "left"),
    [
        (0o6777, SOMEBODY, 0o777),
        (0o4755, SOMEBODY, 0o755),
        (0o2767, Caller(1, 65534), 0o2767),
        (0o2767, Caller(1, 1), 0o767),
        (0o6777, ROOT, 0o6777),
    ],
)
def test_opening_to_truncate_drops_setuid_and_setgid(
    volume: Volume, bucket: Ino, mode: int, caller: Caller, left: int
) -> None:
    ino = write_file(volume, bucket, b"f", b"x")
    volume.attributes.setattr(ino, Changes(mode=mode, uid=65534, gid=65534), ROOT)
    handle, _ = volume.content.open(ino, os.O_WRONLY | os.O_TRUNC, caller)
    volume.content.release(handle)
    assert stat.S_IMODE(volume.core.inode(ino).mode) == left


def test_setgid_directory_hands_down_its_group_and_to_directories_the_bit(
    volume: Volume, bucket: Ino
) -> None:
    parent = volume.names.mkdir(bucket, b"d", 0o777, ROOT)
    volume.attributes.setattr(parent.ino, Changes(mode=0o2777, gid=100), ROOT)
    inside = volume.names.mkdir(parent.ino, b"d", 0o755, SOMEBODY)
    file = volume.names.create(parent.ino, b"f", 0o644, SOMEBODY)
    assert (inside.gid, inside.mode & stat.S_ISGID) == (100, stat.S_ISGID)
    assert (file.gid, file.mode & stat.S_ISGID) == (100, 0)


def test_the_root_hands_its_group_down_to_buckets_like_any_setgid_directory(volume: Volume) -> None:
    volume.attributes.setattr(ROOT_INO, Changes(mode=0o2777, gid=100), ROOT)
    made = volume.names.mkdir(ROOT_INO, b"bucket2", 0o755, SOMEBODY)
    assert (made.uid, made.gid, made.mode & 0o7777) == (SOMEBODY.uid, 100, 0o2755)


# --- extended attributes


def test_attribute_namespaces_that_do_not_exist_are_not_supported(volume: Volume, bucket: Ino) -> None:
    ino = write_file(volume, bucket, b"f", b"x")
    for name in (b"plain", b"system.other"):
        with pytest.raises(NotSupported):
            volume.attributes.getxattr(ino, name)
        with pytest.raises(NotSupported):
            volume.attributes.setxattr(ino, name, b"1", ROOT)
        with pytest.raises(NotSupported):
            volume.attributes.removexattr(ino, name)
    with pytest.raises(InvalidArgument):
        volume.attributes.setxattr(ino, b"user.", b"1", ROOT)
    with pytest.raises(NoAttribute):
        volume.attributes.getxattr(ino, b"user.none")


def test_trusted_attributes_are_listed_for_root_only(volume: Volume, bucket: Ino) -> None:
    ino = write_file(volume, bucket, b"f", b"x")
    volume.attributes.setxattr(ino, b"trusted.t", b"1", ROOT)
    volume.attributes.setxattr(ino, b"user.u", b"1", ROOT)
    assert volume.attributes.listxattr(ino, ROOT) == [b"trusted.t", b"user.u"]
    assert volume.attributes.listxattr(ino, SOMEBODY) == [b"user.u"]


def test_default_acl_is_inherited_within_the_mode(volume: Volume, bucket: Ino) -> None:
    entries = [(acl.USER_OBJ, 7, acl.UNDEFINED_ID), (acl.USER, 7, 65534), (acl.GROUP_OBJ, 5, acl.UNDEFINED_ID),
               (acl.MASK, 7, acl.UNDEFINED_ID), (acl.OTHER, 0, acl.UNDEFINED_ID)]  # fmt: skip
    directory = volume.names.mkdir(bucket, b"d", 0o755, ROOT)
    volume.attributes.setxattr(directory.ino, acl.DEFAULT, acl.encode(entries), ROOT)
    file = volume.names.create(directory.ino, b"f", 0o640, ROOT)
    assert stat.S_IMODE(file.mode) == 0o640
    given = {tag: perm for tag, perm, _ in acl.decode(volume.attributes.getxattr(file.ino, acl.ACCESS))}
    assert given == {acl.USER_OBJ: 6, acl.USER: 7, acl.GROUP_OBJ: 5, acl.MASK: 4, acl.OTHER: 0}


# --- names and sizes


def test_names_are_any_bytes_up_to_255(volume: Volume, bucket: Ino) -> None:
    names = [b"new\nline", b"\xff\xfe", b"n" * 255, b" ", b"\x01"]
    for name in names:
        write_file(volume, bucket, name, name)
    assert list_names(volume, bucket) == sorted(names)
    for function in (volume.names.lookup, volume.names.unlink, volume.names.rmdir):
        with pytest.raises(NameTooLong):
            function(bucket, b"n" * 256)


def test_sparse_file_of_the_largest_size_reads_zeros_and_takes_no_space(volume: Volume, bucket: Ino) -> None:
    ino = write_file(volume, bucket, b"f", b"")
    inode = volume.attributes.setattr(ino, Changes(size=FILE_SIZE_MAX), ROOT)
    assert (inode.size, inode.allocated) == (2**63 - 1, 0)
    volume.attributes.setattr(ino, Changes(size=10), ROOT)
    assert read_file(volume, ino) == bytes(10)


def test_what_was_cut_off_never_comes_back_when_the_file_grows_again(volume: Volume, bucket: Ino) -> None:
    ino = write_file(volume, bucket, b"f", b"a" * 10_000)
    volume.attributes.setattr(ino, Changes(size=100), ROOT)
    volume.attributes.setattr(ino, Changes(size=10_000), ROOT)
    assert read_file(volume, ino) == b"a" * 100 + bytes(9_900)


@pytest.mark.parametrize("seconds", [-(2**31), -1, 2**31, 2**32, 15_032_385_535, 2**60, -(2**60)])
def test_times_out_of_range_are_the_nearest_that_can_be_kept(
    volume: Volume, bucket: Ino, seconds: int
) -> None:
    """They once ended the daemon, at the commit."""
    ino = write_file(volume, bucket, b"f", b"x")
    time_ns = seconds * 10**9 + 7
    volume.attributes.setattr(ino, Changes(atime_ns=time_ns, mtime_ns=time_ns), ROOT)
    volume.store.commit()
    kept = min(max(time_ns, TIME_MIN_NS), TIME_MAX_NS)
    assert (volume.core.inode(ino).atime_ns, volume.core.inode(ino).mtime_ns) == (kept, kept)


def test_opening_after_direct_writes_drops_what_the_kernel_cached(volume: Volume, bucket: Ino) -> None:
    """The kernel may have cached, beside an asynchronous direct write, what that write replaced."""
    ino = write_file(volume, bucket, b"f", b"x")
    direct, kept = volume.content.open(ino, os.O_WRONLY | os.O_DIRECT)
    assert not kept
    beside, kept = volume.content.open(ino, os.O_WRONLY)
    assert not kept
    volume.content.release(beside)
    volume.content.release(direct)
    assert [volume.content.open(ino, os.O_WRONLY)[1] for _ in range(2)] == [False, True]


def test_creating_an_existing_name_is_refused(volume: Volume, bucket: Ino) -> None:
    write_file(volume, bucket, b"f", b"x")
    with pytest.raises(EntryExists):
        volume.names.create(bucket, b"f", 0o644, ROOT)
    with pytest.raises(EntryExists):
        volume.names.rename(bucket, b"f", bucket, b"f", RENAME_NOREPLACE)


def test_selinux_labels_are_unsupported_until_a_file_has_one(volume: Volume, bucket: Ino) -> None:
    """``ls -l`` then asks once for the whole mount instead of once for each file."""
    one, two = write_file(volume, bucket, b"one", b"x"), write_file(volume, bucket, b"two", b"x")
    with pytest.raises(NotSupported):
        volume.attributes.getxattr(one, b"security.selinux")
    volume.attributes.setxattr(two, b"security.selinux", b"label", ROOT)
    assert volume.attributes.getxattr(two, b"security.selinux") == b"label"
    with pytest.raises(NoAttribute):
        volume.attributes.getxattr(one, b"security.selinux")
