"""What ``baton explain`` tells, without a node."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from baton.common.arm import Arm
from baton.common.decision import EdgeChoice
from baton.common.errors import UnknownName
from baton.common.explanation import ArmScore, DecisionRecord
from baton.common.outcome import EdgeAttempt
from baton.device_client.cli.explaining import Hindsight, explain, story
from baton.device_client.journal import JOURNAL_FILE, Entry, Journal, Settled, Stretch
from baton.device_client.result import Seconds, Traffic
from baton.device_client.settings import DeviceSettings
from tests.support.nodes import closed_port

ENTRY = Entry(
    request_id="r1",
    created_unix=0.0,
    ending="picture",
    family="scenes",
    preference="balanced",
    seed=7,
    sampler="ddim",
    steps=10,
    guidance=4.0,
    size="32x32",
    decision=Settled(
        "d1",
        "edge/large@0.4>device/small",
        "the highest bound",
        (
            EdgeChoice("e1", "h:1", "idle"),
            EdgeChoice("h:2", "h:2", "configured"),
            EdgeChoice("e3", "h:3", "busy"),
        ),
        "c:1",
    ),
    planned=(Stretch(0, 4, "large", "edge"), Stretch(4, 10, "small", "device")),
    attempts=(
        EdgeAttempt("e1", "h:1", 0, 2, "UNAVAILABLE", "the connection broke"),
        EdgeAttempt("h:2", "h:2", 2, 4),
    ),
    executed=(
        Stretch(0, 2, "large", "edge", "e1"),
        Stretch(2, 4, "large", "edge", "two"),
        Stretch(4, 10, "small", "device", "device"),
    ),
    seconds=Seconds(3.0, 0.125, 0.25, 0.5, 0.125, 1.75, 0.25),
    traffic=Traffic(100, 2000, 2),
    quality=1.0,
    verified=True,
    notes=("edge h:1 lost at step 2: the connection broke",),
)
RELAY = Arm.relay("large", "small", 0.4)
TOLD = DecisionRecord(
    decision_id="d1",
    request_id="r1",
    created_unix=0.0,
    family="scenes",
    preference="balanced",
    arm=RELAY,
    propensity=0.9,
    explored=False,
    context=(1.0, 0.25),
    scores=(
        ArmScore(Arm.device("small"), True, 0.5, 0.1),
        ArmScore(RELAY, True, 0.6, 0.2),
        ArmScore(Arm.edge("huge"), False, reason="no edge can run huge"),
    ),
    rejected=(EdgeChoice("e4", "h:4", "draining"),),
    state="rewarded",
    reward=0.5,
    features=("bias", "words"),
)


def told(entry: Entry, hindsight: Hindsight | None = None) -> list[str]:
    return list(story(entry, hindsight or Hindsight()))


def test_it_tells_the_whole_story() -> None:
    assert told(ENTRY, Hindsight(TOLD)) == [
        "request r1: a picture, verified",
        "  asked 1970-01-01 00:00:00 UTC; family scenes, prefers balanced, 10 steps, guidance 4,"
        " 32x32 pixels, ddim, seed 7",
        "arm edge/large@0.4>device/small, decided by the coordinator at c:1: the highest bound",
        "  decision d1",
        "arms by upper bound (estimated reward + uncertainty):",
        "* edge/large@0.4>device/small  0.800 = 0.600 + 0.200",
        "  device/small  0.600 = 0.500 + 0.100",
        "  edge/huge  not possible: no edge can run huge",
        "edges, best first:",
        "  1. e1 at h:1: idle",
        "     failed (UNAVAILABLE), steps 0 to 2 kept: the connection broke",
        "  2. h:2: configured",
        "     ran steps 2 to 4",
        "  3. e3 at h:3: busy",
        "     not used: another had done the edge's part",
        "edges that could not take part:",
        "  e4 at h:4: draining",
        "planned:",
        "  steps 0 to 4: large on an edge",
        "  steps 4 to 10: small on this device",
        "ran:",
        "  steps 0 to 2: large on e1",
        "  steps 2 to 4: large on two",
        "  steps 4 to 10: small on this device",
        "took 3.00 s: 0.125 s deciding, 0.250 s waiting at edges, 0.500 s computed there,"
        " 0.125 s on the way, 1.750 s here, 0.250 s decoding here;"
        " 100 bytes sent, 2000 received, 2 round trips",
        "note: edge h:1 lost at step 2: the connection broke",
    ]


def test_guidance_that_an_edge_might_leave_out_is_told_and_what_it_left_out() -> None:
    edge, *others = ENTRY.executed
    lean = replace(ENTRY, guidance_budget="0.2:1:reuse", executed=(replace(edge, lean=1), *others))
    new = [line for line in told(lean) if line not in told(ENTRY)]
    assert new == [
        "  a busy edge may leave guidance out from 20% of the steps on, 1 in a row (reuse)",
        "  steps 0 to 2: large on e1, 1 of them without all of their guidance",
    ]
    alone = replace(lean, planned=(Stretch(0, 10, "small", "device"),))
    assert not any("busy edge" in line for line in told(alone))


@pytest.mark.parametrize(
    ("stop", "why"),
    [(4, "another had done the edge's part"), (7, "the request ended before its turn")],
)
def test_an_edge_that_was_not_used_is_told_by_where_the_request_ended(stop: int, why: str) -> None:
    """Of a plan that comes back to the edges."""
    ended = replace(
        ENTRY,
        ending="cancelled",
        planned=(*ENTRY.planned[:1], Stretch(4, 7, "small", "device"), Stretch(7, 10, "l", "edge")),
        executed=(Stretch(0, stop, "large", "edge", "e1"),),
    )
    lines = told(ended)
    assert lines[lines.index("  3. e3 at h:3: busy") + 1] == f"     not used: {why}"


def test_a_coordinator_that_does_not_answer_is_told_as_one() -> None:
    plain = told(ENTRY)
    silent = told(ENTRY, Hindsight(silence="no answer from c:1"))
    assert silent == [*plain, "the coordinator adds nothing: no answer from c:1"]


def test_a_failure_is_told_with_its_error() -> None:
    failed = replace(
        ENTRY,
        ending="failed",
        error="UNAVAILABLE",
        message="no edge is left",
        attempts=(EdgeAttempt("e1", "h:1", 0, 0, "UNAVAILABLE", "no answer"),),
    )
    lines = told(failed)
    assert lines[0] == "request r1: failed (UNAVAILABLE): no edge is left"
    assert "     failed (UNAVAILABLE), nothing kept: no answer" in lines
    assert "     not used: the request ended before its turn" in lines


@pytest.mark.parametrize(("stop", "kept"), [(0, "nothing"), (2, "steps 0 to 2")])
def test_an_edge_that_left_is_no_failure(stop: int, kept: str) -> None:
    gone = EdgeAttempt("e1", "h:1", 0, stop, reason="it shuts down", drained=True)
    lines = told(replace(ENTRY, ending="cancelled", attempts=(gone,)))
    assert f"     left, {kept} kept: it shuts down" in lines
    assert lines[lines.index("  2. h:2: configured") + 1] == (
        "     not used: the request ended before its turn"
    )


def test_what_ended_early_is_told_as_far_as_it_came() -> None:
    bare = Entry("r2", 0.0, "cancelled", "scenes", "speed", 1, "euler")
    assert told(bare) == [
        "request r2: withdrawn by its caller",
        "  asked 1970-01-01 00:00:00 UTC; family scenes, prefers speed, euler, seed 1",
        "it ended before there was a decision",
        "took 0.00 s; 0 bytes sent, 0 received, 0 round trips",
    ]


def test_a_device_arm_names_no_edge() -> None:
    decision = Settled("static-1", "device/small", "asked for")
    lines = told(replace(ENTRY, decision=decision, attempts=()))
    assert "arm device/small, decided by this device: asked for" in lines
    assert not any("edges, best first" in line for line in lines)


def test_for_programs_it_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = closed_port()
    assert ENTRY.decision is not None
    alone = replace(ENTRY, decision=replace(ENTRY.decision, coordinator=""))
    left = replace(ENTRY, decision=replace(ENTRY.decision, coordinator=nobody))
    settings = DeviceSettings(state_folder=tmp_path)
    for entry in (alone, left):
        Journal(tmp_path / JOURNAL_FILE, 5).add(entry)
        explain(settings, "last", as_json=True)
        row = json.loads(capsys.readouterr().out)
        assert row["attempts"][0]["reason"] == "the connection broke"
        assert row["decision"]["edges"][2]["node_id"] == "e3"
        assert (row["ending"], row["seconds"]["total"]) == ("picture", 3.0)
        if entry is alone:
            assert row["coordinator"] is None
        else:
            assert "no answer" in row["coordinator"]["error"]


def test_an_unknown_request_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        explain(DeviceSettings(state_folder=tmp_path), "last", as_json=False)
