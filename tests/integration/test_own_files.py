"""A node's own files: none is shared or another program's, and a full disk blocks no start."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from baton.common.errors import ExecutionFailed, InvalidRequest
from baton.common.rpc.ticket_keys import kept_private_key
from baton.coordinator.daemon import running
from baton.coordinator.settings import Settings
from baton.coordinator.store.base import NewDecision
from baton.coordinator.store.sqlite import SqliteStore
from baton.device_client.journal import Journal
from tests.support.limits import no_file_above
from tests.unit.coordinator.test_sqlite_store import decision
from tests.unit.device_client.test_journal import FULL


def make(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path


def as_before_there_was_an_id(path: Path) -> None:
    make(path, "PRAGMA application_id = 0")


#: Databases of other programs, and what tells them.
FOREIGN = {
    "bookmarks": ("CREATE TABLE moz_places (id INTEGER)",),
    "an index alone": ("CREATE VIEW decisions AS SELECT 1",),
    "empty and versioned": ("PRAGMA user_version = 7",),
    "marked": ("PRAGMA application_id = 252006674",),
    "marked alike": (
        "CREATE TABLE decisions (seq, decision_id, request_id, arm, propensity)",
        "CREATE TABLE details (seq, detail)",
        "CREATE TABLE rewards (seq, decision_id, state, reward)",
        "CREATE TABLE requests (seq, request_id, entry)",
        "PRAGMA application_id = 1",
    ),
    "of the same names": (
        "CREATE TABLE decisions (id)",
        "CREATE TABLE details (id)",
        "CREATE TABLE rewards (id)",
    ),
    "of one such name": ("CREATE TABLE requests (id)",),
    "with a table more": (
        "CREATE TABLE requests (seq, request_id, entry)",
        "CREATE TABLE customers (id)",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_database_of_another_program_is_refused_by_name_and_left_as_it_is(
    what: str, tmp_path: Path
) -> None:
    path = make(tmp_path / "other.db", *FOREIGN[what])
    before = path.read_bytes()
    for use in (lambda: SqliteStore(path), lambda: Journal(path, 5).find("last")):
        with pytest.raises(InvalidRequest, match=r"other\.db is a database of another program"):
            use()
    with pytest.raises(sqlite3.DatabaseError, match="another program"):
        Journal(path, 5).add(FULL)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["other.db"]


def test_the_coordinators_database_and_the_devices_journal_are_not_each_others(
    tmp_path: Path,
) -> None:
    store, journal = tmp_path / "c.db", tmp_path / "journal.db"
    SqliteStore(store).close()
    Journal(journal, 5).add(FULL)
    for forget in (lambda path: None, as_before_there_was_an_id):
        forget(store)
        forget(journal)
        with pytest.raises(InvalidRequest, match="another program"):
            SqliteStore(journal)
        with pytest.raises(InvalidRequest, match="another program"):
            Journal(store, 5).find("last")


#: As a coordinator left it that knew no arms of a family's own.
VERSION_3 = ("ALTER TABLE decisions DROP COLUMN own_arm", "PRAGMA user_version = 3")
#: And neither latent spaces nor other contexts than its own.
VERSION_2 = (
    *VERSION_3,
    "ALTER TABLE decisions DROP COLUMN latent_space",
    "ALTER TABLE decisions DROP COLUMN context_id",
    "DROP TABLE contexts",
    "PRAGMA user_version = 2",
)


@pytest.mark.parametrize(
    "older",
    [
        VERSION_2,
        # as a coordinator left it that knew no owners and no withdrawals
        (*VERSION_2, "ALTER TABLE decisions DROP COLUMN owner", "PRAGMA user_version = 1"),
    ],
)
def test_a_database_from_before_there_was_an_id_opens_and_gets_one(
    older: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "c.db"
    store = SqliteStore(path)
    assert not store.unmarked
    store.write([NewDecision(decision(1))])
    store.close()
    as_before_there_was_an_id(make(path, *older))
    for unmarked in (True, False):
        store = SqliteStore(path)
        assert (store.find("d1") is not None, store.unmarked) == (True, unmarked)
        store.close()


def test_a_database_of_the_version_before_opens_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    store = SqliteStore(path)
    store.write([NewDecision(decision(1))])
    store.close()
    make(path, *VERSION_3)
    store = SqliteStore(path)
    found = store.find("d1")
    store.close()
    assert found == decision(1)


def test_a_journal_from_before_there_was_an_id_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal(path, 5).add(FULL)
    as_before_there_was_an_id(path)
    assert Journal(path, 5).find("last") == FULL
    Journal(path, 5).add(FULL)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() != (0,)


async def ran(db: Path) -> None:
    async with running(Settings(port=0, db=db, grace_seconds=0.0)):
        pass


def keys(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*key*")}


async def test_no_two_databases_share_a_key(tmp_path: Path) -> None:
    names = ["one.db", "one.sqlite", "one", "one.two.db", "one.two"]
    for name in names:
        await ran(tmp_path / name)
    made = keys(tmp_path)
    assert set(made) == {f"{name}.ticket-key" for name in names}
    assert len(set(made.values())) == len(names)
    (tmp_path / "link.db").symlink_to("one.db")
    await ran(tmp_path / "link.db")
    assert keys(tmp_path) == made


def test_a_database_in_memory_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(ran(Path(":memory:")))
    assert list(tmp_path.iterdir()) == []


async def test_an_older_database_keeps_the_key_that_was_named_after_its_stem(
    tmp_path: Path,
) -> None:
    await ran(tmp_path / "one.db")
    (first,) = keys(tmp_path).values()
    (tmp_path / "one.db.ticket-key").rename(tmp_path / "one.ticket-key")
    await ran(tmp_path / "one.sqlite")
    assert keys(tmp_path)["one.ticket-key"] == first
    as_before_there_was_an_id(make(tmp_path / "one.db", *VERSION_2))
    await ran(tmp_path / "one.db")
    found = keys(tmp_path)
    assert found.pop("one.db.ticket-key") == first
    assert set(found) == {"one.sqlite.ticket-key"}


def _cut_off(path: Path) -> None:
    with no_file_above(10), pytest.raises(InvalidRequest, match="cannot write"):
        kept_private_key(path)


@pytest.mark.parametrize("left", [_cut_off, Path.touch])
def test_a_disk_that_was_full_blocks_no_later_start(
    left: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "c.db.ticket-key"
    left(path)
    key = kept_private_key(path).private_bytes_raw()
    assert kept_private_key(path).private_bytes_raw() == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_key_that_was_cut_off_is_told_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.db.ticket-key"
    kept_private_key(path)
    path.write_bytes(path.read_bytes()[:50])
    before = path.read_bytes()
    with pytest.raises(InvalidRequest, match=path.name):
        kept_private_key(path)
    assert path.read_bytes() == before


def test_a_journal_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_text("a diary" * 1000)
    with pytest.raises(ExecutionFailed, match=r"journal\.db"):
        Journal(path, 5).find("last")
    with pytest.raises(sqlite3.DatabaseError):
        Journal(path, 5).add(FULL)
    assert path.read_text() == "a diary" * 1000
