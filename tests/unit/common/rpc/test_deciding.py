from __future__ import annotations

from dataclasses import replace

import pytest

from baton.common.arm import MAX_ARM_CHARS, Arm
from baton.common.decision import Decision, EdgeChoice
from baton.common.errors import InvalidRequest, UnknownName
from baton.common.explanation import ArmScore, DecisionRecord
from baton.common.outcome import EdgeAttempt, Outcome
from baton.common.query import DecideQuery, PromptFeatures
from baton.common.request import PREFERENCES
from baton.common.rpc import deciding
from baton.common.size import Size
from baton.v1 import coordinator_pb2 as pb

SMALL, LARGE = Arm.device("small"), Arm.edge("large")
RELAY = Arm.relay("large", "small", 0.4)
RECORD = DecisionRecord(
    decision_id="d",
    request_id="r",
    created_unix=12.5,
    family="scenes",
    preference="speed",
    arm=SMALL,
    features=("bias", "words"),
    propensity=0.25,
    explored=True,
    context=(1.0, 0.5),
    scores=(ArmScore(SMALL, True, 0.5, 0.25), ArmScore(LARGE, False, reason="x")),
    edges=(EdgeChoice("e", "h:1", "idle"),),
    rejected=(EdgeChoice("x", "h:2", "full"),),
    reason="because",
)
TRIED = (
    EdgeAttempt("e", "h:1", 0, 5, "UNAVAILABLE", "the connection broke"),
    EdgeAttempt("", "h:2", 5, 8),
)
SPENT = {
    "edge_compute_seconds": 0.25,
    "edge_queue_seconds": 0.125,
    "transfer_seconds": 0.5,
    "handoff_seconds": 0.0625,
}
OUTCOME = Outcome(True, SMALL, 2.0, 0.5, 1.5, 10, 20, 0.0, attempts=TRIED, **SPENT)


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
    assert deciding.explanation_from_proto(deciding.explanation_to_proto(record)) == record


def request(**fields: object) -> pb.DecideRequest:
    values: dict[str, object] = {"request_id": "r", "family": "scenes", "steps": 20} | fields
    return pb.DecideRequest(**values)  # type: ignore[arg-type]


def test_a_question_comes_in_whole() -> None:
    query = deciding.query_from_proto(
        request(
            prompt=pb.PromptFeatures(words=1, objects=2, attributes=3, relations=4, count=5),
            preference=pb.PREFERENCE_SPEED,
            members=["b", "a", "b"],
            probes=[pb.EdgeProbe(node_id="e", rtt_seconds=0.5)],
        )
    )
    assert query.prompt == PromptFeatures(1, 2, 3, 4, 5)
    assert (query.preference, query.members, query.probes) == ("speed", ("b", "a"), (("e", 0.5),))


def test_an_arm_is_read_as_it_is_told_now_and_as_it_was_told_once() -> None:
    for text in ("edge/large@0.4>device/small", "relay:large>small@0.4"):
        assert deciding.query_from_proto(request(arm=text)).requested_arm == RELAY
        assert deciding.outcome_from_proto(pb.ReportRequest(arm=text)).arm == RELAY
    assert deciding.query_from_proto(request()).requested_arm is None
    assert deciding.outcome_from_proto(pb.ReportRequest()).arm is None


def test_no_arm_is_taken_that_could_not_be_told_on() -> None:
    """Its full text is longer than the one it came in."""
    cuts = [f"@.{number}" for number in range(10, 23)]
    text = ">".join(f"edge/{'m' * 63}{cut}" for cut in [*cuts, ""])
    assert len(text) < MAX_ARM_CHARS < len(text) + len(cuts)
    with pytest.raises(UnknownName):
        deciding.query_from_proto(request(arm=text))


def test_a_report_names_an_arm_or_none() -> None:
    with pytest.raises(UnknownName):
        deciding.outcome_from_proto(pb.ReportRequest(arm="teleport:large"))


def test_a_question_belongs_to_its_caller() -> None:
    assert deciding.query_from_proto(request(), "anna").owner == "anna"
    assert deciding.query_from_proto(request()).owner == ""


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
        deciding.outcome_from_proto(pb.ReportRequest(attempts=[attempt]))


def test_too_many_attempts_are_refused() -> None:
    attempt = pb.EdgeAttempt(address="h:1")
    deciding.outcome_from_proto(pb.ReportRequest(attempts=[attempt] * 64))
    with pytest.raises(InvalidRequest):
        deciding.outcome_from_proto(pb.ReportRequest(attempts=[attempt] * 65))


def test_of_too_many_no_more_is_read_than_tells_that_they_are() -> None:
    attempts = [pb.EdgeAttempt(address="h:1")] * 65 + [pb.EdgeAttempt()]
    with pytest.raises(InvalidRequest, match="more than 64 attempts"):
        deciding.outcome_from_proto(pb.ReportRequest(attempts=attempts))


def test_a_state_that_is_unknown_here_is_named_beside_those_that_are_known() -> None:
    message = deciding.record_to_proto(RECORD)
    message.state = "paused"
    with pytest.raises(InvalidRequest, match=r"one of pending, .* got 'paused'; update the older"):
        deciding.record_from_proto(message)


def test_no_preference_is_balanced() -> None:
    assert deciding.query_from_proto(request()).preference == "balanced"


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
        *({"members": [f"a{sign}b"]} for sign in ">@/*:"),
        {"arm": "teleport:large"},
        {"arm": "edge/\x1b[2J"},
        {"prompt": pb.PromptFeatures(words=1_000_000)},
        {"probes": [pb.EdgeProbe(node_id="e", rtt_seconds=float("nan"))]},
        {"probes": [pb.EdgeProbe(node_id=f"e{number}") for number in range(65)]},
    ],
)
def test_a_bad_question_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        deciding.query_from_proto(request(**fields))


def test_a_question_survives_the_wire() -> None:
    query = DecideQuery(
        request_id="r",
        family="scenes",
        steps=20,
        prompt=PromptFeatures(1, 2, 3, 4, 5),
        preference="quality",
        fingerprint="f",
        members=("small",),
        device_cpu=0.5,
        rtt_seconds=0.25,
        probes=(("e", 0.5),),
        requested_arm=RELAY,
        size=Size(96, 64),
        latent_space="a1b2",
    )
    assert deciding.query_from_proto(deciding.query_to_proto(query)) == query
    for preference in PREFERENCES:
        asked = replace(query, preference=preference, requested_arm=None, size=None)
        assert deciding.query_from_proto(deciding.query_to_proto(asked)) == asked


def test_a_decision_survives_the_wire() -> None:
    decision = deciding.decision_from_proto(deciding.decision_to_proto(RECORD, "ticket", "later"))
    expected = Decision("d", SMALL, RECORD.edges, "because", "ticket")
    assert decision == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"decision_id": ""},
        {"decision_id": "a\n"},
        {"arm": "moon:large"},
        {"arm": "edge:\x1b[2J"},
        {"edges": [pb.EdgeCandidate(node_id="e", address="a red cat")]},
        {"edges": [pb.EdgeCandidate(node_id="two words", address="h:1")]},
        {"ticket": "x" * 9_000},
        {"offline_ticket": "x" * 9_000},
    ],
)
def test_a_bad_decision_is_refused(fields: dict[str, object]) -> None:
    good: dict[str, object] = {"decision_id": "d", "arm": "edge:large"}
    message = pb.DecideResponse(**(good | fields))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        deciding.decision_from_proto(message)
