"""What the file itself promises; tests/contract/test_store.py has what every store promises."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from baton.common.arm import Arm
from baton.common.errors import BatonError, ExecutionFailed, Incompatible, InvalidRequest
from baton.common.explanation import DecisionRecord
from baton.common.outcome import Outcome
from baton.coordinator.store.base import NewDecision, Resolution
from baton.coordinator.store.sqlite import SqliteStore

SMALL = Arm.device("small")


def decision(number: int) -> DecisionRecord:
    return DecisionRecord(
        f"d{number}", f"r{number}", 1.0, "scenes", "speed", SMALL, 1.0, False, (1.0, 0.5),
        features=("bias", "words"),
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.db"


def fill(path: Path, count: int = 200) -> None:
    store = SqliteStore(path)
    store.write([NewDecision(decision(number)) for number in range(count)])
    store.write([Resolution(f"d{number}", "rewarded", 0.5, 2.0) for number in range(count)])
    store.close()


def open_fails(path: Path, error: type[BatonError]) -> str:
    with pytest.raises(error) as caught:
        SqliteStore(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    fill(path, 3)
    store = SqliteStore(path)
    found = store.find("d1")
    assert found is not None
    assert (found.state, found.reward, found.context) == ("rewarded", 0.5, (1.0, 0.5))
    assert len(list(store.rewards())) == 3
    store.close()


def test_it_runs_in_wal_mode_with_full_sync(path: Path) -> None:
    store = SqliteStore(path)
    pragmas = ("journal_mode", "synchronous", "user_version")
    values = [store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert values == ["wal", 2, 4]
    store.close()


def test_a_file_that_is_no_database_is_one_clear_line(path: Path) -> None:
    path.write_bytes(b"a red circle" * 1000)
    assert "damaged" in open_fails(path, ExecutionFailed)


def test_a_damaged_page_is_found_at_the_start(path: Path) -> None:
    fill(path)
    data = bytearray(path.read_bytes())
    assert len(data) > 5 * 4096
    data[4096 : 5 * 4096] = b"\x07" * (4 * 4096)
    path.write_bytes(data)
    assert "damaged" in open_fails(path, ExecutionFailed)


def test_a_truncated_file_is_found_at_the_start(path: Path) -> None:
    fill(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // 4096 * 4096])
    assert "damaged" in open_fails(path, ExecutionFailed)


_VERSION_1 = """
    CREATE TABLE decisions (
        seq INTEGER PRIMARY KEY, decision_id TEXT NOT NULL UNIQUE, request_id TEXT NOT NULL,
        created_unix REAL NOT NULL, family TEXT NOT NULL, preference TEXT NOT NULL,
        arm TEXT NOT NULL, propensity REAL NOT NULL, explored INTEGER NOT NULL,
        context BLOB NOT NULL
    ) STRICT;
    CREATE INDEX decisions_by_request ON decisions (request_id, seq);
    CREATE TABLE details (
        seq INTEGER PRIMARY KEY REFERENCES decisions (seq), detail TEXT NOT NULL
    ) STRICT;
    CREATE TABLE rewards (
        seq INTEGER PRIMARY KEY,
        decision_id TEXT NOT NULL UNIQUE REFERENCES decisions (decision_id),
        state TEXT NOT NULL CHECK (state IN ('rewarded', 'expired')), reward REAL NOT NULL,
        resolved_unix REAL NOT NULL, outcome TEXT
    ) STRICT;
    INSERT INTO decisions VALUES
        (1, 'd1', 'r1', 1.0, 'scenes', 'speed', 'device:small', 1.0, 0, zeroblob(16)),
        (2, 'd2', 'r2', 1.0, 'scenes', 'speed', 'device:small', 1.0, 0, zeroblob(16)),
        (3, 'd3', 'r3', 1.0, 'scenes', 'speed', 'device:small', 1.0, 0, zeroblob(16));
    INSERT INTO rewards VALUES
        (1, 'd2', 'expired', 0.0, 2.0, NULL),
        (2, 'd1', 'rewarded', 0.5, 2.0, '{"ok": true, "total_seconds": 1.5, "quality": null}');
    PRAGMA user_version = 1;
"""


def test_a_database_of_the_first_version_opens_with_all_it_holds(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(_VERSION_1)
    connection.close()
    for _ in range(2):
        store = SqliteStore(path)
        assert [row.reward for row in store.rewards()] == [0.0, 0.5]
        assert [item.decision_id for item in store.pending()] == ["d3"]
        found = store.find("d1")
        assert found is not None
        assert found.outcome == Outcome(ok=True, total_seconds=1.5)
        assert found.owner == ""
        store.close()
    store = SqliteStore(path)
    assert store.write([Resolution("d3", "withdrawn", None, 3.0)]) == [True]
    assert store.write([Resolution("d1", "withdrawn", None, 3.0)]) == [False]
    store.close()


def test_a_newer_schema_is_left_alone(path: Path) -> None:
    fill(path, 1)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "schema version 99" in open_fails(path, Incompatible)


def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    open_fails(tmp_path / "file" / "coordinator.db", InvalidRequest)
    open_fails(tmp_path, InvalidRequest)


def test_a_failing_batch_changes_nothing(path: Path) -> None:
    store = SqliteStore(path)
    bad = Resolution("d1", "nonsense", 0.5, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ExecutionFailed):
        store.write([NewDecision(decision(1)), bad])
    assert store.find("d1") is None
    assert store.write([NewDecision(decision(1))]) == [True]
    store.close()


def test_old_decisions_keep_only_what_learning_needs(path: Path) -> None:
    store = SqliteStore(path, keep_details=2)
    detailed = [replace(decision(number), reason="because") for number in range(5)]
    for record in detailed[:2]:
        store.write([NewDecision(record)])
    store.write([NewDecision(detailed[1]), *(NewDecision(record) for record in detailed[2:])])
    bare = [replace(record, reason="") for record in detailed]
    assert store.pending() == [*bare[:3], *detailed[3:]]
    store.close()


def test_no_column_could_hold_a_prompt(path: Path) -> None:
    """Free text is the only place for one, and every text column is an id, a name or our JSON."""
    fill(path, 1)
    connection = sqlite3.connect(path)
    text = {
        f"{table}.{name}"
        for table in ("decisions", "details", "rewards", "contexts")
        for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")
        if kind == "TEXT"
    }
    connection.close()
    assert text == {
        "decisions.decision_id",
        "decisions.request_id",
        "decisions.family",
        "decisions.preference",
        "decisions.arm",
        "decisions.owner",
        "decisions.latent_space",
        "contexts.features",
        "details.detail",
        "rewards.decision_id",
        "rewards.state",
        "rewards.outcome",
    }
