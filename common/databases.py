"""SQLite files of Baton's own, told from those of other programs before anything is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

_MOST_NAMED = 3


@dataclass(frozen=True)
class Kind:
    """What files of one kind have in common.

    application_id: in the header; tables: some columns of each table, by which files are known that
    were made before there was an id.
    """

    application_id: int
    tables: Mapping[str, frozenset[str]]

    def is_marked(self, connection: sqlite3.Connection) -> bool:
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        return bool(found == self.application_id)

    def mark(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA application_id = {self.application_id}")

    def why_foreign(self, connection: sqlite3.Connection) -> str:
        """Empty for a file of this kind, and for one without content."""
        if self.is_marked(connection):
            return ""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application:
            return f"its application id is {application:#x}"
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")]
        if not names:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            return f"its version is {version}" if version else ""
        if self._is_older(connection):
            return ""
        more = ", ..." if len(names) > _MOST_NAMED else ""
        return f"it holds {', '.join(names[:_MOST_NAMED])}{more}"

    def _is_older(self, connection: sqlite3.Connection) -> bool:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        if {name for (name,) in connection.execute(query)} != set(self.tables):
            return False
        return all(
            columns <= {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for table, columns in self.tables.items()
        )
