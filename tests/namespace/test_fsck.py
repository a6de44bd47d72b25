"""Each kind of damage is found, and named."""

from __future__ import annotations

import pytest

from gsfs.namespace.fsck import CHECKS, check
from gsfs.namespace.sqlite import SqliteDatabase
from gsfs.namespace.store import Store
from tests.namespace import making

DAMAGE: dict[str, str] = {
    "entry leads to an inode that does not exist": "DELETE FROM inode WHERE ino = {file}",
    "entry in a directory that does not exist": "UPDATE entry SET parent = 999 WHERE ino = {file}",
    "inode has neither a name nor a place among the orphans": "DELETE FROM entry WHERE ino = {file}",
    "number of links of a file differs from its names": "UPDATE inode SET nlink = 5 WHERE ino = {file}",
    "number of links of a directory differs from its subdirectories": "UPDATE inode SET nlink = 9 WHERE ino = {bucket}",
    "extents of a file overlap": "INSERT INTO extent VALUES ({file}, 5, 10, {object}, 500)",
    "extent of a file that does not exist": "INSERT INTO extent VALUES (999, 5, 10, {object}, 500)",
    "extent lies past the end of its file": "UPDATE inode SET size = 3 WHERE ino = {file}",
    "extent lies past the end of its object": "UPDATE object SET size = 3 WHERE id = {object}",
    "allocated bytes of a file differ from its extents": "UPDATE inode SET allocated = 1 WHERE ino = {file}",
    "live bytes of an object differ from the extents that refer to it": "UPDATE object SET live = 999 WHERE id = {object}",
    "live object without a readable replica": "DELETE FROM replica WHERE object = {object}",
    "replica of an object that does not exist": "DELETE FROM object WHERE id = {object}",
    "bucket without its directory": "UPDATE entry SET parent = {file} WHERE ino = {bucket}",
    "used bytes of a bucket differ from its files": "UPDATE bucket SET used_bytes = 1 WHERE ino = {bucket}",
    "used inodes of a bucket differ from its files": "UPDATE bucket SET used_inodes = 77 WHERE ino = {bucket}",
}


def test_every_check_has_its_damage() -> None:
    assert {what for what, _sql in CHECKS} == DAMAGE.keys()


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_named(store: Store, what: str) -> None:
    bucket = making.bucket(store)
    inode, object_ = making.file(store, bucket, b"f"), making.object_(store, bucket)
    store.extents.write(inode, 0, 10, object_, 0)
    inode.size = 10
    store.inodes.touch(inode)
    store.commit()
    assert check(store) == []
    store.database.cursor.execute(DAMAGE[what].format(file=inode.ino, bucket=bucket.ino, object=object_))
    found = check(store)
    assert [line for line in found if line.startswith(what)], found


@pytest.mark.parametrize(("what", "sql"), CHECKS)
def test_no_check_looks_through_a_table_for_each_row_of_another(store: Store, what: str, sql: str) -> None:
    """Thirty thousand names took a minute."""
    if not isinstance(store.database, SqliteDatabase):
        pytest.skip("the plan is SQLite's")
    store.database.cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
    steps = [row[-1] for row in store.database.cursor.fetchall()]
    assert not [step for step in steps if step.startswith("SCAN") and step.endswith("LEFT-JOIN")], what
