from __future__ import annotations

from dataclasses import replace

import pytest

from baton.common.errors import InvalidRequest
from baton.common.plan import EdgeChoice
from baton.coordinator import wire
from baton.coordinator.values import (
    ArmScore,
    ArmStats,
    DecisionRecord,
    EdgeAttempt,
    NodeLoad,
    NodeView,
    Outcome,
    PromptFeatures,
    Registration,
)
from baton.v1 import coordinator_pb2 as pb

RECORD = DecisionRecord(
    decision_id="d",
    request_id="r",
    created_unix=12.5,
    family="scenes",
    preference="speed",
    arm="device:small",
    propensity=0.25,
    explored=True,
    context=(1.0, 0.5),
    scores=(ArmScore("device:small", True, 0.5, 0.25), ArmScore("edge:large", False, reason="x")),
    edges=(EdgeChoice("e", "h:1", "idle"),),
    rejected=(EdgeChoice("x", "h:2", "full"),),
    reason="because",
)
TRIED = (
    EdgeAttempt("e", "h:1", 0, 5, "UNAVAILABLE", "the connection broke"),
    EdgeAttempt("", "h:2", 5, 8),
)
OUTCOME = Outcome(True, "device:small", 2.0, 0.5, 1.5, 10, 20, 0.0, attempts=TRIED)


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, state="rewarded", reward=0.0, outcome=OUTCOME),
        replace(RECORD, state="rewarded", reward=0.5, outcome=replace(OUTCOME, quality=None)),
        replace(RECORD, state="expired", reward=0.0),
        replace(RECORD, state="withdrawn", owner="anna"),
    ],
)
def test_a_record_survives_the_wire(record: DecisionRecord) -> None:
    assert wire.record_from_proto(wire.record_to_proto(record), record.rejected) == record


def test_a_node_and_its_statistics_survive_the_wire() -> None:
    load = NodeLoad(0.5, 0.25, 1, 2, 3)
    node = NodeView(Registration("e", "h:1", "scenes", ("a", "b"), "f"), load, "draining", 1.5)
    assert wire.node_from_proto(wire.node_to_proto(node)) == node
    stats = ArmStats("scenes", "edge:large", 3, 2, 0.5, 1)
    assert wire.stats_from_proto(wire.stats_to_proto(stats)) == stats


def request(**fields: object) -> pb.DecideRequest:
    values: dict[str, object] = {"request_id": "r", "family": "scenes", "steps": 20} | fields
    return pb.DecideRequest(**values)  # type: ignore[arg-type]


def test_a_question_comes_in_whole() -> None:
    query = wire.query_from_proto(
        request(
            prompt=pb.PromptFeatures(words=1, objects=2, attributes=3, relations=4, count=5),
            preference=pb.PREFERENCE_SPEED,
            members=["b", "a", "b"],
            probes=[pb.EdgeProbe(node_id="e", rtt_seconds=0.5)],
        )
    )
    assert query.prompt == PromptFeatures(1, 2, 3, 4, 5)
    assert (query.preference, query.members, query.probes) == ("speed", ("b", "a"), (("e", 0.5),))


def test_a_question_belongs_to_its_caller() -> None:
    assert wire.query_from_proto(request(), "anna").owner == "anna"
    assert wire.query_from_proto(request()).owner == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"address": ""},
        {"address": "a red cat"},
        {"node_id": "a red cat"},
        {"start": 2, "stop": 1},
        {"stop": 201},
        {"error": "a red cat"},
        {"reason": "two\nlines"},
        {"reason": "\x1b[2J"},
        {"reason": "x" * 501},
    ],
)
def test_a_bad_attempt_is_refused(fields: dict[str, object]) -> None:
    attempt = pb.EdgeAttempt(**({"address": "h:1"} | fields))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        wire.outcome_from_proto(pb.ReportRequest(attempts=[attempt]))


def test_too_many_attempts_are_refused() -> None:
    attempt = pb.EdgeAttempt(address="h:1")
    wire.outcome_from_proto(pb.ReportRequest(attempts=[attempt] * 64))
    with pytest.raises(InvalidRequest):
        wire.outcome_from_proto(pb.ReportRequest(attempts=[attempt] * 65))


def test_no_preference_is_balanced() -> None:
    assert wire.query_from_proto(request()).preference == "balanced"


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": ""},
        {"request_id": "x" * 129},
        {"request_id": "a red circle"},
        {"family": "bad\x00name"},
        {"family": "bäd"},
        {"steps": 0},
        {"steps": 201},
        {"preference": 17},
        {"device_cpu": 1.5},
        {"device_cpu": float("nan")},
        {"rtt_seconds": -1.0},
        {"rtt_seconds": float("inf")},
        {"members": [str(number) for number in range(9)]},
        {"members": ["a>b"]},
        {"prompt": pb.PromptFeatures(words=1_000_000)},
        {"probes": [pb.EdgeProbe(node_id="e", rtt_seconds=float("nan"))]},
        {"probes": [pb.EdgeProbe(node_id=f"e{number}") for number in range(65)]},
    ],
)
def test_a_bad_question_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        wire.query_from_proto(request(**fields))


@pytest.mark.parametrize(
    "load", [pb.NodeLoad(cpu=2.0), pb.NodeLoad(memory=float("nan")), pb.NodeLoad(queued=2**31)]
)
def test_a_bad_load_is_refused(load: pb.NodeLoad) -> None:
    with pytest.raises(InvalidRequest):
        wire.load_from_proto(load)
