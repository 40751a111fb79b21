"""Between decisions and the columns that hold them. In JSON an arm is its text."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np

from baton.common.arm import Arm
from baton.common.decision import EdgeChoice
from baton.common.explanation import ArmScore, DecisionRecord
from baton.common.outcome import EdgeAttempt, Outcome
from baton.common.plain import plain
from baton.coordinator.bandit.linucb import FloatArray

_CONTEXT_TYPE = np.dtype("<f8")
_DETAILS = ("scores", "edges", "rejected", "reason")


def columns(record: DecisionRecord) -> dict[str, object]:
    """What the table of decisions holds of it, without the names of its features."""
    return {
        "decision_id": record.decision_id,
        "request_id": record.request_id,
        "created_unix": record.created_unix,
        "family": record.family,
        "latent_space": record.latent_space,
        "preference": record.preference,
        "arm": str(record.arm),
        "propensity": record.propensity,
        "explored": int(record.explored),
        "context": np.array(record.context, _CONTEXT_TYPE).tobytes(),
        "owner": record.owner,
        "own_arm": int(record.own_arm),
    }


def detail(record: DecisionRecord) -> str:
    """JSON."""
    values = plain(record)
    return json.dumps({name: values[name] for name in _DETAILS})


def outcome(value: Outcome) -> str:
    """JSON."""
    return json.dumps(plain(value))


def features_text(names: tuple[str, ...]) -> str:
    """JSON; empty for no names."""
    return json.dumps(names) if names else ""


def features(text: str | None) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


def vector(context: bytes) -> FloatArray:
    """Shape [d]."""
    return np.frombuffer(context, _CONTEXT_TYPE)


def record(row: sqlite3.Row) -> DecisionRecord:
    """Of columns of all tables."""
    told = json.loads(row["detail"]) if row["detail"] else {}
    return DecisionRecord(
        decision_id=row["decision_id"],
        request_id=row["request_id"],
        created_unix=row["created_unix"],
        family=row["family"],
        preference=row["preference"],
        arm=Arm.parse(row["arm"]),
        propensity=row["propensity"],
        explored=bool(row["explored"]),
        context=tuple(vector(row["context"]).tolist()),
        scores=tuple(_score(item) for item in told.get("scores", ())),
        edges=tuple(EdgeChoice(**item) for item in told.get("edges", ())),
        rejected=tuple(EdgeChoice(**item) for item in told.get("rejected", ())),
        reason=told.get("reason", ""),
        state=row["state"] or "pending",
        reward=row["reward"],
        outcome=None if row["outcome"] is None else _outcome(json.loads(row["outcome"])),
        owner=row["owner"],
        latent_space=row["latent_space"],
        features=features(row["features"]),
        own_arm=bool(row["own_arm"]),
    )


def _score(values: Mapping[str, Any]) -> ArmScore:
    return ArmScore(**{**values, "arm": Arm.parse(values["arm"])})


def _outcome(values: Mapping[str, Any]) -> Outcome:
    arm = Arm.parse(values["arm"]) if values.get("arm") else None
    attempts = tuple(EdgeAttempt(**item) for item in values.get("attempts", ()))
    return Outcome(**{**values, "arm": arm, "attempts": attempts})
