"""Opening, committing, refusing: a namespace that cannot be trusted is never touched."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import psycopg
import pytest

from gsfs.errors import Busy, ConfigError, DatabaseCorrupt, EntryExists, NotFoundError, SchemaMismatch
from gsfs.model import ROOT_INO
from gsfs.namespace.fsck import check
from gsfs.namespace.schema import SCHEMA_VERSION
from gsfs.namespace.store import create, give_back, open_database, open_store, parse_url
from tests.namespace import making


def execute(url: str, sql: str) -> None:
    """A statement by somebody else, while nobody has the namespace open."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(sql)
        connection.close()
    else:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(sql)


def test_a_new_namespace_is_consistent_and_has_a_root(url: str) -> None:
    store = open_store(url)
    assert check(store) == []
    assert store.inodes.get(ROOT_INO).is_dir
    store.close()


def test_creating_twice_is_refused_and_changes_nothing(url: str) -> None:
    store = open_store(url)
    before = store.namespace_id
    store.close()
    database = open_database(url)
    with pytest.raises(EntryExists):
        create(database, "other", uid=0, gid=0)
    database.close()
    store = open_store(url)
    assert (store.namespace_id, store.name) == (before, "test")
    store.close()


def test_a_database_without_a_namespace_says_what_to_do(empty: str) -> None:
    if empty.startswith("sqlite"):
        open_database(empty, create=True).close()
    with pytest.raises(NotFoundError, match="gsfs init"):
        open_store(empty)


def test_a_second_opener_is_refused_while_the_first_has_it(url: str) -> None:
    store = open_store(url)
    with pytest.raises(Busy, match="in use"):
        open_store(url)
    store.close()
    open_store(url).close()


def test_a_newer_schema_is_refused_and_nothing_is_changed(url: str) -> None:
    execute(url, f"UPDATE meta SET value = '{SCHEMA_VERSION + 1}' WHERE name = 'schema_version'")
    for _ in range(2):
        with pytest.raises(SchemaMismatch, match=r"upgrade gsfs; nothing was changed"):
            open_store(url)


def test_what_was_committed_is_there_and_what_was_not_is_gone(url: str) -> None:
    store = open_store(url)
    bucket = making.bucket(store)
    making.file(store, bucket, b"kept")
    store.commit()
    making.file(store, bucket, b"lost")
    store.flush()
    give_back(store.database)
    store = open_store(url)
    assert store.entries.find(bucket.ino, b"kept") is not None
    assert store.entries.find(bucket.ino, b"lost") is None
    assert check(store) == []
    store.close()


def test_numbers_are_never_handed_out_twice_across_commits(url: str) -> None:
    handed: list[int] = []
    for _ in range(3):
        store = open_store(url)
        handed += [store.new_object() for _ in range(3)]
        store.close()
    assert len(set(handed)) == len(handed)


def test_names_are_any_bytes(url: str) -> None:
    store = open_store(url)
    bucket = making.bucket(store)
    names = [b"\xff\xfe", b"new\nline", b"'; drop table entry", b"\xe2\x82\xac", b"x" * 255]
    for name in names:
        making.file(store, bucket, name)
    store.commit()
    listed = [bytes(row[0]) for row in store.entries.page(bucket.ino, b"", store.last_entry_number, 100)]
    assert listed == sorted(names)
    store.close()


@pytest.mark.parametrize("text", ["mysql://x/y", "sqlite:///relative.db", "no url at all"])
def test_a_url_that_cannot_be_used_says_what_it_takes(text: str) -> None:
    with pytest.raises(ConfigError, match=r"namespace\.url"):
        parse_url(text)


# --- SQLite alone: its file can be damaged by others


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "namespace.db"
    database = open_database(f"sqlite:///{path}", create=True)
    create(database, "test", uid=0, gid=0)
    database.close()
    return path


@pytest.mark.parametrize("damage", ["header", "cut", "not sqlite", "not gsfs"])
def test_a_corrupt_database_gives_a_clear_error_and_is_not_changed(file: Path, damage: str) -> None:
    store = open_store(f"sqlite:///{file}")
    making.bucket(store)
    store.commit()
    store.database.sync()
    wal = Path(f"{file}-wal")
    shutil.copy(wal, file.parent / "wal")
    store.close()
    if damage == "header":
        file.write_bytes(b"\0" * 100 + file.read_bytes()[100:])
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[: 4096 + 1000])
    elif damage == "not sqlite":
        file.write_bytes(b"this is a letter to my aunt\n" * 100)
    else:
        file.unlink()
        with sqlite3.connect(file) as other:
            other.execute("CREATE TABLE recipes (name)")
        other.close()
    before = file.read_bytes()
    with pytest.raises(DatabaseCorrupt, match="namespace"):
        open_store(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_giving_a_namespace_back_does_not_fold_its_log(file: Path) -> None:
    store = open_store(f"sqlite:///{file}")
    before = file.read_bytes()
    making.bucket(store)
    store.commit()
    give_back(store.database)
    assert file.read_bytes() == before
    assert Path(f"{file}-wal").stat().st_size > 0


def test_a_commit_that_finds_no_space_for_its_log_waits_and_loses_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"sqlite:///{file}")
    making.bucket(store, b"one")
    with monkeypatch.context() as patch:
        patch.setattr("gsfs.namespace.sqlite.LOG_RESERVE_BYTES", 1 << 60)
        with pytest.raises(OSError, match="left for the namespace's log"):
            store.commit()
    making.bucket(store, b"two")
    store.commit()
    give_back(store.database)
    store = open_store(f"sqlite:///{file}")
    assert store.entries.find(ROOT_INO, b"one") and store.entries.find(ROOT_INO, b"two")
    store.close()
