"""The device's own account of its requests, the newest few hundred, for ``baton explain``.

A small SQLite file: processes may write at once, and one that dies in the middle leaves it whole.
It holds no prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from baton.common.arm import Arm
from baton.common.databases import Kind
from baton.common.decision import EdgeChoice
from baton.common.errors import ExecutionFailed, InvalidRequest, UnknownName
from baton.common.limits import Location
from baton.common.outcome import EdgeAttempt
from baton.common.size import Size
from baton.device_client.result import Seconds, Traffic

_log = logging.getLogger(__name__)

JOURNAL_FILE = "journal.db"
LAST = "last"
_BUSY_SECONDS = 1.0
_MAX_NAMED = 5
_KIND = Kind(int.from_bytes(b"Btnj"), {"requests": frozenset({"seq", "request_id", "entry"})})
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS requests (
        seq INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        entry TEXT NOT NULL -- JSON
    ) STRICT
"""


@dataclass(frozen=True)
class Stretch:
    """Steps ``start <= i < stop`` on one member at one place; node_id: empty before they ran.

    share: of the blocks that a full step runs, as they ran; calls: of the model, 0 before it ran;
    lean: steps that left out guidance that they had been planned with.
    """

    start: int
    stop: int
    member: str
    location: Location
    node_id: str = ""
    share: float = 1.0
    calls: int = 0
    lean: int = 0


def _sized(value: object) -> object:
    """Entries of earlier versions hold the side of a square."""
    return str(Size.of(value)) if isinstance(value, int) else value


def _renamed(value: object) -> object:
    """Entries of earlier versions name arms as ``relay:large>small@0.4``."""
    return str(Arm.parse(value)) if isinstance(value, str) else value


@dataclass(frozen=True)
class Settled:
    """The decision. coordinator: whose it was, ``host:port``; empty if the device decided alone."""

    decision_id: str
    arm: Annotated[str, BeforeValidator(_renamed)]
    reason: str
    edges: tuple[EdgeChoice, ...] = ()
    coordinator: str = ""


@dataclass(frozen=True)
class Entry:
    """One request. None, or an empty tuple, stands for what it never came to.

    guidance_budget: what guidance an edge might leave out; error, message: status name and text of
    the failure.
    """

    request_id: str
    created_unix: float
    ending: Literal["picture", "failed", "cancelled"]
    family: str
    preference: str
    seed: int
    sampler: str
    steps: int | None = None
    guidance: float | None = None
    guidance_budget: str = ""
    size: Annotated[str | None, BeforeValidator(_sized)] = None
    decision: Settled | None = None
    planned: tuple[Stretch, ...] = ()
    attempts: tuple[EdgeAttempt, ...] = ()
    executed: tuple[Stretch, ...] = ()
    seconds: Seconds = field(default_factory=Seconds)
    traffic: Traffic = field(default_factory=Traffic)
    quality: float | None = None
    verified: bool | None = None
    error: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()


_ENTRY = TypeAdapter(Entry)


class Journal:
    """The newest ``keep`` requests in the file ``path``; with 0, or without a path, none."""

    def __init__(self, path: Path | None, keep: int) -> None:
        self._path = path or Path(JOURNAL_FILE)
        self._keep = keep if path else 0
        self._nowhere = path is None

    @classmethod
    def within(cls, folder: Path | None, keep: int) -> Journal:
        """In a file of that folder, if there is one."""
        return cls(None if folder is None else folder / JOURNAL_FILE, keep)

    async def write(self, entry: Entry) -> None:
        """Add an entry. A journal that cannot be written costs a warning, never a picture."""
        if not self._keep:
            return
        try:
            await asyncio.to_thread(self.add, entry)
        except (OSError, sqlite3.Error, ValueError) as error:
            _log.warning(
                "journal %s was not written (%s); make room, delete it, or set journal_requests=0",
                self._path,
                error,
            )

    def add(self, entry: Entry) -> None:
        """Raises OSError, sqlite3.Error, or ValueError for text that no JSON can hold."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        with closing(sqlite3.connect(self._path, _BUSY_SECONDS)) as connection, connection:
            # Survives the death of a process; after a power cut it may have to be deleted, which
            # beats the 20 ms that every picture would wait for a disk.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE")
            if reason := _KIND.why_foreign(connection):
                raise sqlite3.DatabaseError(f"it is another program's: {reason}")
            _KIND.mark(connection)
            connection.execute(_SCHEMA)
            cursor = connection.execute(
                "INSERT INTO requests (request_id, entry) VALUES (?, ?)",
                (entry.request_id, _ENTRY.dump_json(entry).decode()),
            )
            oldest = (cursor.lastrowid or 0) - self._keep
            connection.execute("DELETE FROM requests WHERE seq <= ?", (oldest,))

    def find(self, key: str) -> Entry:
        """The request whose id is, or alone begins with, ``key``, or the ``last`` one.

        Raises UnknownName, InvalidRequest if several begin so, ExecutionFailed for a file that
        cannot be read.
        """
        if self._nowhere:
            raise UnknownName("no request is known: there is no state_folder to keep a journal in")
        known = self._read("SELECT request_id, seq FROM requests ORDER BY seq DESC")
        if not known:
            raise UnknownName(
                f"no request is known: journal {self._path} is empty; draw a picture with"
                " journal_requests above 0"
            )
        if key == LAST:
            return self._entry(known[0][1])
        found = [row for row in known if key and row[0].startswith(key)]
        found = [row for row in found if row[0] == key][:1] or found
        if not found:
            raise UnknownName(
                f"no request {key[:64]!r} is known; `{LAST}` is {known[0][0]}, the newest of"
                f" {len(known)}"
            )
        if len(found) > 1:
            names = ", ".join(name for name, _ in found[:_MAX_NAMED])
            more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
            raise InvalidRequest(f"{len(found)} requests begin with {key}: {names}{more}")
        return self._entry(found[0][1])

    def _read(self, query: str, *values: object) -> list[tuple[str, int]]:
        if not self._path.exists() or not self._path.stat().st_size:  # nothing was written yet
            return []
        with self._legible(), closing(self._open_existing()) as connection:
            if reason := _KIND.why_foreign(connection):
                raise InvalidRequest(
                    f"{self._path} is a database of another program ({reason}); name another"
                    " state_folder"
                )
            return connection.execute(query, values).fetchall()

    def _open_existing(self) -> sqlite3.Connection:
        """Writable, to roll back what a process that died has left."""
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        return sqlite3.connect(uri, _BUSY_SECONDS, uri=True)

    def _entry(self, seq: int) -> Entry:
        rows = self._read("SELECT entry, seq FROM requests WHERE seq = ?", seq)
        if not rows:
            raise UnknownName("the journal has just dropped that request; it keeps the newest ones")
        with self._legible():
            return _ENTRY.validate_json(rows[0][0])

    @contextlib.contextmanager
    def _legible(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, ValidationError) as error:
            cause = "an entry of another version" if isinstance(error, ValueError) else error
            raise ExecutionFailed(
                f"journal {self._path} cannot be read ({cause}); delete it to begin a new one"
            ) from error
