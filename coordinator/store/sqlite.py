"""The store on disk: SQLite in WAL mode, every commit synced before it is acknowledged.

One coordinator owns the file while it runs: the lock is exclusive, so that a second one is refused
instead of learning beside it. The file never holds a prompt: no column could take one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from baton.common.arm import Arm
from baton.common.databases import Kind
from baton.common.errors import (
    BatonError,
    ExecutionFailed,
    Incompatible,
    InvalidRequest,
    Unreachable,
)
from baton.common.explanation import DecisionRecord
from baton.coordinator.store import rows, schema
from baton.coordinator.store.base import NewDecision, Resolution, RewardRow, Write

_KIND = Kind(
    int.from_bytes(b"Btnc"),
    {
        "decisions": frozenset({"seq", "decision_id", "request_id", "arm", "propensity"}),
        "details": frozenset({"seq", "detail"}),
        "rewards": frozenset({"seq", "decision_id", "state", "reward"}),
    },
)
#: Decisions whose scores and edges are kept; older ones keep what learning needs, a tenth in size.
KEEP_DETAILS = 10_000
_BUSY_SECONDS = 2.0

_SELECT = """
    SELECT d.*, c.features, t.detail, r.state, r.reward, r.outcome
    FROM decisions d LEFT JOIN details t ON t.seq = d.seq
    LEFT JOIN contexts c ON c.id = d.context_id
    LEFT JOIN rewards r ON r.decision_id = d.decision_id
"""


class SqliteStore:
    """Decisions and rewards in the file ``path``, which is made if it is not there.

    Only the newest ``keep_details`` decisions keep their scores, edges and reason.

    ``unmarked``: it was made before such files had an application id; now it has one.

    Raises InvalidRequest (no such place, or another program's), Unreachable (another coordinator
    holds it), Incompatible (written by a newer version) or ExecutionFailed (damaged).
    """

    def __init__(self, path: Path, keep_details: int = KEEP_DETAILS) -> None:
        self._path = path
        self._keep_details = keep_details
        _make_folder(path)
        with _translated(path):
            self.unmarked = _check_kind(path)
            # Opened on one thread and used on another, but never on two at once.
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
        try:
            with _translated(path):
                self._prepare()
        except BatonError:
            self._connection.close()
            raise

    def write(self, items: Sequence[Write]) -> list[bool]:
        with _translated(self._path), self._transaction():
            return [
                self._insert(item.record) if isinstance(item, NewDecision) else self._resolve(item)
                for item in items
            ]

    def find(self, key: str, owner: str = "") -> DecisionRecord | None:
        own = "AND ? IN ('', d.owner)"
        found = self._select(f"WHERE d.decision_id = ? {own}", key, owner) or self._select(
            f"WHERE d.request_id = ? {own} ORDER BY d.seq DESC LIMIT 1", key, owner
        )
        return found[0] if found else None

    def recent(self, limit: int) -> list[DecisionRecord]:
        return self._select("ORDER BY d.seq DESC LIMIT ?", limit)

    def pending(self) -> list[DecisionRecord]:
        return self._select("WHERE r.seq IS NULL ORDER BY d.seq")

    def rewards(self) -> Iterator[RewardRow]:
        query = """
            SELECT d.family, d.latent_space, d.arm, c.features, d.context, r.reward, d.own_arm
            FROM rewards r JOIN decisions d ON d.decision_id = r.decision_id
            LEFT JOIN contexts c ON c.id = d.context_id
            WHERE r.reward IS NOT NULL ORDER BY r.seq
        """
        arm, names = functools.cache(Arm.parse), functools.cache(rows.features)
        with _translated(self._path):
            for family, space, text, features, context, reward, own in self._connection.execute(
                query
            ):
                told = family, space, arm(text), names(features)
                yield RewardRow(*told, rows.vector(context), reward, bool(own))

    def first_spaces(self) -> dict[str, str]:
        query = """
            SELECT family, latent_space, MIN(seq) FROM decisions
            WHERE latent_space != '' GROUP BY family -- SQLite: both of the row that has the minimum
        """
        with _translated(self._path):
            return {family: space for family, space, _ in self._connection.execute(query)}

    def close(self) -> None:
        with _translated(self._path):
            self._connection.close()

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        (verdict,) = execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _damaged(self._path, verdict)
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > schema.VERSION:
            raise Incompatible(
                f"database {self._path} has schema version {version}, this coordinator knows"
                f" {schema.VERSION}: update Baton or choose another file with --db"
            )
        schema.migrate(self._connection, version)
        if not _KIND.is_marked(self._connection):
            _KIND.mark(self._connection)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk may have rolled back already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _insert(self, record: DecisionRecord) -> bool:
        execute, columns = self._connection.execute, rows.columns(record)
        names = rows.features_text(record.features)
        execute("INSERT OR IGNORE INTO contexts (features) SELECT ? WHERE ? != ''", (names, names))
        cursor = execute(
            f"INSERT INTO decisions ({', '.join(columns)}, context_id)"
            f" SELECT {', '.join('?' * len(columns))},"
            " (SELECT id FROM contexts WHERE features = ?)"
            " WHERE true ON CONFLICT (decision_id) DO NOTHING",
            (*columns.values(), names),
        )
        if cursor.rowcount != 1:
            return False
        self._insert_detail(cursor.lastrowid or 0, record)
        return True

    def _insert_detail(self, seq: int, record: DecisionRecord) -> None:
        execute = self._connection.execute
        execute("INSERT INTO details VALUES (?, ?)", (seq, rows.detail(record)))
        # Decisions are never deleted, so seq has no gaps.
        execute("DELETE FROM details WHERE seq <= ?", (seq - self._keep_details,))

    def _resolve(self, item: Resolution) -> bool:
        outcome = None if item.outcome is None else rows.outcome(item.outcome)
        cursor = self._connection.execute(
            "INSERT INTO rewards (decision_id, state, reward, resolved_unix, outcome)"
            " SELECT decision_id, ?, ?, ?, ? FROM decisions WHERE decision_id = ?"
            " ON CONFLICT (decision_id) DO NOTHING",
            (item.state, item.reward, item.resolved_unix, outcome, item.decision_id),
        )
        return cursor.rowcount == 1

    def _select(self, where: str, *values: object) -> list[DecisionRecord]:
        with _translated(self._path):
            return [rows.record(row) for row in self._connection.execute(_SELECT + where, values)]


def _check_kind(path: Path) -> bool:
    """Whether the file has content and no mark yet. Raises InvalidRequest for another program's.

    By a connection of its own, since this one is to have its locks from the beginning.
    """
    if not os.path.exists(path) or not os.path.getsize(path):
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
        if reason := _KIND.why_foreign(connection):
            raise InvalidRequest(
                f"{path} is a database of another program ({reason}); choose another with --db"
            )
        return not _KIND.is_marked(connection)


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"cannot make the folder of database {path}: {error.strerror}; choose one with --db"
        ) from error


def _damaged(path: Path, detail: str) -> ExecutionFailed:
    line = " ".join(detail.split())
    return ExecutionFailed(
        f"database {path} is damaged ({line}): restore a copy or move it away, then start again"
    )


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as Baton's, each one line."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _translate(path, error) from error


def _translate(path: Path, error: sqlite3.DatabaseError) -> BatonError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unreachable(
            f"database {path} is in use by another process: stop it or choose another with --db"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _damaged(path, str(error))
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return InvalidRequest(f"cannot use database {path}: {error}; choose another with --db")
    return ExecutionFailed(f"database {path} failed: {error}; the last change was not kept")
