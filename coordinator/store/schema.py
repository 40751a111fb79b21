"""The tables on disk, version by version."""

from __future__ import annotations

import json
import re
import sqlite3

from baton.common.arm import Arm
from baton.common.errors import UnknownName

#: Entries of the context before decisions said which theirs were.
_FIRST_FEATURES = (
    "bias",
    "words",
    "objects",
    "attributes",
    "relations",
    "count",
    "complexity",
    "prefers_quality",
    "prefers_balanced",
    "prefers_speed",
    "steps",
    "network_rtt",
    "device_cpu",
    "edge_busy",
    "edge_queue",
)
#: One entry per version; user_version counts those that were applied.
_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE decisions (
        seq INTEGER PRIMARY KEY,
        decision_id TEXT NOT NULL UNIQUE,
        request_id TEXT NOT NULL,
        created_unix REAL NOT NULL,
        family TEXT NOT NULL,
        preference TEXT NOT NULL,
        arm TEXT NOT NULL,
        propensity REAL NOT NULL,
        explored INTEGER NOT NULL,
        context BLOB NOT NULL -- float64, little endian
    ) STRICT;
    CREATE INDEX decisions_by_request ON decisions (request_id, seq);
    CREATE TABLE details ( -- apart, so that old ones give whole pages back
        seq INTEGER PRIMARY KEY REFERENCES decisions (seq),
        detail TEXT NOT NULL -- JSON: scores, edges, rejected edges, reason
    ) STRICT;
    CREATE TABLE rewards (
        seq INTEGER PRIMARY KEY,
        decision_id TEXT NOT NULL UNIQUE REFERENCES decisions (decision_id),
        state TEXT NOT NULL CHECK (state IN ('rewarded', 'expired')),
        reward REAL NOT NULL,
        resolved_unix REAL NOT NULL,
        outcome TEXT -- JSON: the report, if there was one
    ) STRICT;
    """,
    """
    ALTER TABLE decisions ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE rewards RENAME TO old_rewards;
    CREATE TABLE rewards ( -- how decisions ended: one that was withdrawn has no reward
        seq INTEGER PRIMARY KEY,
        decision_id TEXT NOT NULL UNIQUE REFERENCES decisions (decision_id),
        state TEXT NOT NULL CHECK (state IN ('rewarded', 'expired', 'withdrawn')),
        reward REAL CHECK ((reward IS NULL) = (state = 'withdrawn')),
        resolved_unix REAL NOT NULL,
        outcome TEXT -- JSON: the report, if there was one
    ) STRICT;
    INSERT INTO rewards SELECT * FROM old_rewards;
    DROP TABLE old_rewards;
    """,
    f"""
    UPDATE decisions SET arm = canonical_arm(arm);
    UPDATE details SET detail = with_canonical_arms(detail);
    UPDATE rewards SET outcome = with_canonical_arms(outcome) WHERE outcome IS NOT NULL;
    CREATE TABLE contexts (
        id INTEGER PRIMARY KEY,
        features TEXT NOT NULL UNIQUE -- JSON: names of the entries, in order
    ) STRICT;
    INSERT INTO contexts VALUES (1, '{json.dumps(_FIRST_FEATURES)}');
    ALTER TABLE decisions ADD COLUMN context_id INTEGER REFERENCES contexts (id);
    UPDATE decisions SET context_id = 1 WHERE length(context) = {8 * len(_FIRST_FEATURES)};
    ALTER TABLE decisions ADD COLUMN latent_space TEXT NOT NULL DEFAULT '';
    """,
    """
    ALTER TABLE decisions ADD COLUMN own_arm INTEGER NOT NULL DEFAULT 0; -- of the family itself
    """,
)
VERSION = len(_MIGRATIONS)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables of an older version up to date."""
    for function in (canonical_arm, with_canonical_arms):
        connection.create_function(function.__name__, 1, function, deterministic=True)
    for number, script in enumerate(_MIGRATIONS[version:], version + 1):
        # One transaction: a crash leaves the old schema or the new one.
        connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;"
        )


def canonical_arm(text: str) -> str:
    """An arm's text as it is written now; it may be an older one.

    Names of members could hold signs then that an arm has another use for.
    """
    try:
        return str(Arm.parse(text))
    except UnknownName:
        kind, _, rest = text.partition(":")
        return str(Arm.parse(f"{kind}:{re.sub('[/*:^]', '_', rest)}"))


def with_canonical_arms(text: str) -> str:
    """A detail or an outcome, JSON, with its arms' texts as they are written now."""
    values = json.loads(text)
    for score in values.get("scores", ()):
        score["arm"] = canonical_arm(score["arm"])
    if values.get("arm"):
        values["arm"] = _reported_arm(values["arm"])
    return json.dumps(values)


def _reported_arm(text: str) -> str:
    """Empty for one that no node could have run: a device reports what it likes."""
    try:
        return canonical_arm(text)
    except UnknownName:
        return ""
