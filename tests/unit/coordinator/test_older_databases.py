"""A database of the version before arms had places opens, and everything in it still teaches."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from baton.common.arm import Arm
from baton.common.decision import EdgeChoice
from baton.common.explanation import ArmScore
from baton.common.node import Registration
from baton.common.outcome import EdgeAttempt, Outcome
from baton.coordinator.bandit.context import FEATURES
from baton.coordinator.daemon import build_decider
from baton.coordinator.decider import Clocks, Decider
from baton.coordinator.fleet import Fleet
from baton.coordinator.learner import Restored
from baton.coordinator.settings import Settings
from baton.coordinator.store.sqlite import SqliteStore
from baton.coordinator.store.thread import StoreThread
from tests.unit.coordinator.test_decider import OK, query

_SCHEMA = """
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
    , owner TEXT NOT NULL DEFAULT '') STRICT;
    CREATE INDEX decisions_by_request ON decisions (request_id, seq);
    CREATE TABLE details ( -- apart, so that old ones give whole pages back
        seq INTEGER PRIMARY KEY REFERENCES decisions (seq),
        detail TEXT NOT NULL -- JSON: scores, edges, rejected edges, reason
    ) STRICT;
    CREATE TABLE rewards ( -- how decisions ended: one that was withdrawn has no reward
        seq INTEGER PRIMARY KEY,
        decision_id TEXT NOT NULL UNIQUE REFERENCES decisions (decision_id),
        state TEXT NOT NULL CHECK (state IN ('rewarded', 'expired', 'withdrawn')),
        reward REAL CHECK ((reward IS NULL) = (state = 'withdrawn')),
        resolved_unix REAL NOT NULL,
        outcome TEXT -- JSON: the report, if there was one
    ) STRICT;
    PRAGMA user_version = 2;
    PRAGMA application_id = 1114926691;
"""
_DETAIL = {
    "scores": [
        {"arm": "device:small", "feasible": True, "estimate": 0.5, "bonus": 0.1, "reason": ""},
        {
            "arm": "relay:large>small@0.4",
            "feasible": False,
            "estimate": 0.0,
            "bonus": 0.0,
            "reason": "no edge can run large",
        },
    ],
    "edges": [{"node_id": "e1", "address": "h:1", "reason": "idle"}],
    "rejected": [],
    "reason": "the highest bound",
}
_OUTCOME = {
    "ok": True,
    "arm": "device:small",
    "total_seconds": 1.5,
    "edge_seconds": 0.0,
    "device_seconds": 1.5,
    "bytes_sent": 0,
    "bytes_received": 0,
    "quality": None,
    "error": "",
    "attempts": [
        {
            "node_id": "e1",
            "address": "h:1",
            "start": 0,
            "stop": 2,
            "error": "UNAVAILABLE",
            "reason": "gone",
        }
    ],
}
#: Arms as that version wrote them, and as they are told now; each earned a reward.
ARMS = {
    "relay:large>small@0.4": "edge/large@0.4>device/small",
    "device:small": "device/small",
    "edge:large": "edge/large",
    "relay:large>small@0.123": "edge/large@0.123>device/small",
    "device:v1:base/tiny*": "device/v1_base_tiny_",
}


def made(path: Path, entries: int = len(FEATURES)) -> None:
    """A database with a rewarded decision per arm, d0 and so on, and a pending one."""
    connection = sqlite3.connect(path)
    connection.executescript(_SCHEMA)
    for number, arm in enumerate([*ARMS, "device:small"]):
        context = np.full(entries, 0.5, "<f8").tobytes()
        connection.execute(
            "INSERT INTO decisions VALUES (?, ?, ?, 1.0, 'scenes', 'speed', ?, 0.5, 0, ?, 'anna')",
            (number + 1, f"d{number}", f"r{number}", arm, context),
        )
        connection.execute("INSERT INTO details VALUES (?, ?)", (number + 1, json.dumps(_DETAIL)))
        if number < len(ARMS):
            connection.execute(
                "INSERT INTO rewards VALUES (?, ?, 'rewarded', ?, 2.0, ?)",
                (number + 1, f"d{number}", number / 8, json.dumps(_OUTCOME)),
            )
    connection.commit()
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made(tmp_path / "coordinator.db")
    return tmp_path / "coordinator.db"


@asynccontextmanager
async def booted(
    path: Path, clock: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[tuple[Decider, Fleet, Restored]]:
    thread, fleet = StoreThread(SqliteStore(path)), Fleet(10.0, clock)
    settings = Settings(seed=1, exploration=0.0)
    decider = build_decider(settings, fleet, thread, Clocks(clock, clock))
    yield decider, fleet, await decider.restore()
    await decider.close()
    await thread.close()


def test_arms_are_renamed_wherever_they_stand(path: Path) -> None:
    for _ in range(2):
        store = SqliteStore(path)
        records = list(reversed(store.recent(10)))
        store.close()
        assert [str(item.arm) for item in records] == [*ARMS.values(), "device/small"]
        relay, small = Arm.relay("large", "small", 0.4), Arm.device("small")
        for item in records:
            assert item.scores == (
                ArmScore(small, True, 0.5, 0.1),
                ArmScore(relay, False, reason="no edge can run large"),
            )
            assert item.edges == (EdgeChoice("e1", "h:1", "idle"),)
            assert (item.reason, item.owner) == ("the highest bound", "anna")
            assert (item.latent_space, item.features) == ("", FEATURES)
        tried = EdgeAttempt("e1", "h:1", 0, 2, "UNAVAILABLE", "gone")
        expected = Outcome(True, small, total_seconds=1.5, device_seconds=1.5, attempts=(tried,))
        assert {item.outcome for item in records[:-1]} == {expected}
        assert records[-1].state == "pending"


def test_no_old_text_is_left_in_the_file(path: Path) -> None:
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    texts = [
        *connection.execute("SELECT arm FROM decisions"),
        *connection.execute("SELECT detail FROM details"),
        *connection.execute("SELECT outcome FROM rewards"),
    ]
    connection.close()
    assert not any(old in text for (text,) in texts for old in ("relay:", "device:", "edge:"))


@pytest.mark.parametrize(
    "told", ["relay:a>b@1_0e-2", f"device:{'m' * 200}", "relay:large>small@.4"]
)
def test_whatever_arm_a_device_reported_the_file_opens(path: Path, told: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE rewards SET outcome = ?", (json.dumps(_OUTCOME | {"arm": told}),))
    connection.commit()
    connection.close()
    store = SqliteStore(path)
    found = store.find("d0")
    store.close()
    assert found is not None
    assert found.outcome is not None
    readable = told.startswith("relay:large")
    assert found.outcome.arm == (Arm.relay("large", "small", 0.4) if readable else None)


async def test_every_reward_teaches_the_arm_by_its_new_name(path: Path) -> None:
    for _ in range(2):
        async with booted(path) as (decider, _, restored):
            assert restored == Restored(4)  # a cut of the user's own teaches nothing
            stats = {str(item.arm): (item.rewards, item.mean_reward) for item in decider.arms()}
        assert stats == {
            "edge/large@0.4>device/small": (1, 0.0),
            "device/small": (1, 1 / 8),
            "edge/large": (1, 2 / 8),
            "device/v1_base_tiny_": (1, 4 / 8),
        }


async def test_its_pending_decision_can_be_reported_and_a_named_space_takes_it_all_over(
    path: Path,
) -> None:
    async with booted(path) as (decider, fleet, _):
        fleet.register(Registration("e1", "h:1", "scenes", ("large",), "f", latent_space="one"))
        assert await decider.report(f"d{len(ARMS)}", OK)
        answer = await decider.decide(query(latent_space="one", requested_arm=Arm.device("small")))
        assert await decider.report(answer.decision_id, OK)
        before = decider.arms()
    assert {item.latent_space for item in before} == {"one"}
    assert {item.rewards for item in before if item.arm == Arm.device("small")} == {3}
    async with booted(path) as (decider, _, restored):
        assert restored == Restored(6)
        assert decider.arms() == before


async def test_a_context_of_another_length_is_named_at_the_start(tmp_path: Path) -> None:
    made(tmp_path / "other.db", entries=14)
    async with booted(tmp_path / "other.db") as (decider, _, restored):
        assert restored == Restored(0, {(): len(ARMS) + 1})
        assert decider.arms() == []


@pytest.mark.parametrize("reported", [True, False])
async def test_a_pending_decision_of_another_context_ends_like_any_other_and_teaches_nothing(
    tmp_path: Path, reported: bool
) -> None:
    path, now, pending = tmp_path / "other.db", 0.0, f"d{len(ARMS)}"
    made(path, entries=14)
    async with booted(path, lambda: now) as (decider, _, restored):
        assert restored == Restored(0, {(): len(ARMS) + 1})
        if reported:
            assert await decider.report(pending, OK)
        now = 1_000.0
        assert await decider.expire() == (0 if reported else 1)
        assert (await decider.find(pending)).state == ("rewarded" if reported else "expired")
        assert decider.arms() == []
    async with booted(path) as (decider, _, restored):
        assert restored == Restored(0, {(): len(ARMS) + 1})
        assert await decider.expire() == 0
