from __future__ import annotations

from dataclasses import replace

from baton.common.arm import Arm
from baton.common.decision import EdgeChoice
from baton.common.explanation import ArmScore, DecisionRecord
from baton.common.outcome import EdgeAttempt, Outcome
from baton.coordinator.explain import explain

RELAY, SMALL = Arm.relay("large", "small", 0.4), Arm.device("small")
RECORD = DecisionRecord(
    decision_id="d1",
    request_id="r1",
    created_unix=0.0,
    family="scenes",
    preference="balanced",
    arm=RELAY,
    features=("bias", "words"),
    propensity=0.97,
    explored=False,
    context=(1.0, 0.25),
    scores=(
        ArmScore(SMALL, True, 0.5, 0.1),
        ArmScore(RELAY, True, 0.6, 0.2),
        ArmScore(Arm.edge("huge"), False, reason="no edge can run huge"),
        ArmScore(Arm.device("huge"), False, reason="the device does not hold huge"),
    ),
    edges=(EdgeChoice("e1", "h:1", "idle"), EdgeChoice("e2", "h:2", "busy")),
    rejected=(EdgeChoice("e3", "h:3", "draining"),),
    reason="highest upper bound",
)


def told(record: DecisionRecord) -> str:
    return "\n".join(explain(record))


def test_it_tells_why_the_arm_and_the_edges_were_chosen_and_others_not() -> None:
    assert told(RECORD).splitlines() == [
        "decision d1 for request r1",
        "  taken 1970-01-01 00:00:00 UTC; prefers balanced",
        "arm edge/large@0.4>device/small of family scenes, drawn with probability 0.970:",
        "  highest upper bound",
        "arms by upper bound (estimated reward + uncertainty):",
        "* edge/large@0.4>device/small  0.800 = 0.600 + 0.200",
        "  device/small  0.600 = 0.500 + 0.100",
        "arms that were not possible:",
        "  edge/huge: no edge can run huge",
        "  device/huge: the device does not hold huge",
        "edges, best first:",
        "  1. e1 at h:1: idle",
        "  2. e2 at h:2: busy",
        "edges that could not take part:",
        "  e3 at h:3: draining",
        "what was known (0 to 1):",
        "  bias 1.00, words 0.25",
        "no report yet",
    ]


def test_it_tells_what_came_of_it() -> None:
    good = Outcome(ok=True, arm=SMALL, total_seconds=1.5, quality=0.75)
    failed = Outcome(ok=False, error="UNAVAILABLE")
    ends = {
        "reported: 1.50 s, quality 0.750, ran as device/small; reward 0.700": replace(
            RECORD, state="rewarded", reward=0.7, outcome=good
        ),
        "reported: failed (UNAVAILABLE); reward 0.000": replace(
            RECORD, state="rewarded", reward=0.0, outcome=failed
        ),
        "never reported in time: reward 0.000": replace(RECORD, state="expired", reward=0.0),
        "reported: withdrawn by its caller; nothing was learned from it": replace(
            RECORD, state="withdrawn", outcome=Outcome(ok=False, error="CANCELLED")
        ),
        "its device had hung up before the answer; nothing was learned from it": replace(
            RECORD, state="withdrawn"
        ),
    }
    for line, record in ends.items():
        assert told(record).splitlines()[-1] == line


def test_it_tells_which_edges_were_tried_and_how_they_failed() -> None:
    tried = (
        EdgeAttempt("e1", "h:1", 0, 5, "UNAVAILABLE", "the connection broke"),
        EdgeAttempt("", "h:2", 5, 5, "UNAVAILABLE", "no answer"),
        EdgeAttempt("e4", "h:4", 5, 7, reason="the edge is shutting down", drained=True),
        EdgeAttempt("e3", "h:3", 7, 8),
    )
    outcome = Outcome(ok=True, total_seconds=1.5, attempts=tried)
    lines = told(replace(RECORD, state="rewarded", reward=0.5, outcome=outcome)).splitlines()
    assert lines[-6:-1] == [
        "edges tried, in order:",
        "  e1 at h:1: failed after step 5 (UNAVAILABLE): the connection broke",
        "  an edge at h:2: failed without a step (UNAVAILABLE): no answer",
        "  e4 at h:4: left after step 7: the edge is shutting down",
        "  e3 at h:3: ran steps 7 to 8",
    ]


def test_it_names_who_asked() -> None:
    first, *_ = told(replace(RECORD, owner="anna")).splitlines()
    assert first == "decision d1 for request r1 of anna"


def test_a_device_arm_needs_no_edge() -> None:
    alone = replace(RECORD, arm=SMALL, edges=(), rejected=())
    assert "edges: none needed, the arm runs on the device alone" in told(alone)


def test_an_old_decision_says_what_is_no_longer_known() -> None:
    old = told(replace(RECORD, scores=(), edges=(), rejected=(), reason=""))
    assert "no longer kept" in old
    assert "edges:" not in old


def test_a_context_without_names_is_not_told_by_those_of_another() -> None:
    assert "  2 entries whose names are not kept" in told(replace(RECORD, features=())).splitlines()
