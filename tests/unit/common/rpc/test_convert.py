"""Hostile and odd messages on their way into the domain."""

from __future__ import annotations

import pytest

from baton.common.arm import Arm
from baton.common.errors import Incompatible, InvalidRequest, UnknownName
from baton.common.expansion import plan_of
from baton.common.limits import MAX_ROWS, MAX_STEPS
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.convert import (
    check_protocol,
    executed_from_proto,
    location_from_proto,
    plan_from_proto,
    plan_to_proto,
)
from baton.v1 import plan_pb2
from tests.support.envelopes import peak_memory

EDGE = plan_pb2.LOCATION_EDGE


GRID = {"sampler": "ddim", "stop": 4}
GUIDANCE = {"scale": 2.0, "kind": plan_pb2.GUIDANCE_KIND_TWO_BRANCHES}
FULL = plan_pb2.StepDirective(branches=plan_pb2.BRANCHES_BOTH)


def segment(**changes: object) -> plan_pb2.Segment:
    """Good but for the changes; those of the grid and guidance are dictionaries."""
    grid = plan_pb2.Grid(**GRID | changes.pop("grid", {}))  # type: ignore[arg-type, operator]
    guidance = plan_pb2.Guidance(**GUIDANCE | changes.pop("guidance", {}))  # type: ignore[arg-type, operator]
    good: dict[str, object] = {"member": "large", "location": EDGE, "start": 0, "stop": 4}
    return plan_pb2.Segment(**good | changes, grid=grid, guidance=guidance)  # type: ignore[arg-type]


def message(*segments: plan_pb2.Segment) -> plan_pb2.Plan:
    return plan_pb2.Plan(family="tiny", segments=segments or (segment(),))


def test_a_plan_in_full_travels_without_directives() -> None:
    wire = plan_to_proto(plan_of(Arm.parse("edge/large@0.5>device/small"), "tiny", "ddim", 10, 3.0))
    assert [len(segment.directives) for segment in wire.segments] == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": {"stop": 0}},
        {"grid": {"stop": 2**32 - 1}},
        {"grid": {"stop": 5}},
        {"grid": {"start": 1}},
        {"grid": {"until": 1.0}},
        {"grid": {"until": float("nan")}},
        {"grid": {"name": "tuned"}},
        {"guidance": {"scale": float("nan")}},
        {"guidance": {"scale": 1e308}},
        {"guidance": {"kind": 0}},
        {"guidance": {"kind": 9}},
    ],
)
def test_a_plan_outside_the_limits_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        plan_from_proto(message(segment(**changes)))


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        plan_from_proto(plan_pb2.Plan())


def test_an_unknown_sampler_is_an_unknown_name_in_a_short_line() -> None:
    with pytest.raises(UnknownName) as caught:
        plan_from_proto(message(segment(grid={"sampler": "x" * 1_000_000})))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", [0, 3, -1, 2**31 - 1])
def test_an_unknown_place_is_refused(number: int) -> None:
    with pytest.raises(InvalidRequest, match="location"):
        location_from_proto(number)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="location"):
        plan_from_proto(message(segment(location=number)))
    with pytest.raises(InvalidRequest, match="location"):
        executed_from_proto([plan_pb2.ExecutedStretch(stop=1, location=number)])  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (3, 2), (0, MAX_STEPS + 1), (0, 2**32 - 1)])
def test_executed_steps_outside_the_limits_are_refused_unallocated(start: int, stop: int) -> None:
    stretch = plan_pb2.ExecutedStretch(start=start, stop=stop, location=EDGE)

    def refuse() -> None:
        with pytest.raises(InvalidRequest):
            executed_from_proto([stretch])

    assert peak_memory(refuse) < 100_000


def test_a_stretch_to_the_end_of_the_integers_is_refused_unallocated() -> None:
    endless = segment(stop=2**32 - 1)

    def refuse() -> None:
        with pytest.raises(InvalidRequest):
            plan_from_proto(message(endless))

    assert peak_memory(refuse) < 200_000


def test_more_directives_than_steps_are_refused() -> None:
    many = [FULL] * (MAX_STEPS + 1)
    for count in (3, 5, MAX_STEPS + 1):
        with pytest.raises(InvalidRequest, match="directives"):
            plan_from_proto(message(segment(directives=many[:count])))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"blocks": [b"\xff" * 129]}, "blocks"),
        ({"branches": 0}, "branches"),
        ({"branches": 4}, "branches"),
        ({"ahead": 17}, "ahead"),
        ({"ahead": 2**32 - 1}, "ahead"),
        ({"prior_noise": 0.11}, "prior noise"),
        ({"prior_noise": -0.1}, "prior noise"),
        ({"prior_noise": float("nan")}, "prior noise"),
    ],
    ids=str,
)
def test_a_directive_outside_the_limits_is_refused(changes: dict[str, object], word: str) -> None:
    good = {"branches": plan_pb2.BRANCHES_BOTH}
    directive = plan_pb2.StepDirective(**good | changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=word):
        plan_from_proto(message(segment(directives=[directive] * 4)))


def test_blocks_may_be_said_by_branch() -> None:
    def directives(*blocks: bytes) -> list[plan_pb2.StepDirective]:
        return [plan_pb2.StepDirective(branches=plan_pb2.BRANCHES_BOTH, blocks=blocks)] * 4

    found = plan_from_proto(message(segment(directives=directives(b"\5", b"\5"))))
    assert {directive.blocks for directive in found.segments[0].directives} == {5}
    assert {directive.negative_blocks for directive in found.segments[0].directives} == {None}
    apart = plan_from_proto(message(segment(directives=directives(b"\5", b"\1"))))
    said = {
        (directive.blocks, directive.negative_blocks) for directive in apart.segments[0].directives
    }
    assert said == {(5, 1)}
    assert plan_from_proto(plan_to_proto(apart)) == apart
    with pytest.raises(InvalidRequest, match="2 branches"):
        plan_from_proto(message(segment(directives=directives(*[b"\5"] * 3))))


def test_an_unknown_acceleration_is_an_unknown_name_in_a_short_line() -> None:
    assert plan_from_proto(message()).segments[0].accel == "none"
    assert plan_from_proto(message(segment(accel="full"))).segments[0].accel == "full"
    with pytest.raises(UnknownName, match="propagate") as caught:
        plan_from_proto(message(segment(accel="y" * 1_000_000)))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "changes",
    [
        {"blocks": [b"\0" * 1_000_000]},
        {"neighbours": [plan_pb2.BatchRows(rows=1)] * (MAX_ROWS + 1)},
        {"neighbours": [plan_pb2.BatchRows(rows=2, blocks=b"\xff" * 129)]},
    ],
    ids=["blocks", "neighbours", "blocks of a neighbour"],
)
def test_a_record_of_more_than_can_have_run_is_refused(changes: dict[str, object]) -> None:
    both = plan_pb2.BRANCHES_BOTH
    stretch = plan_pb2.ExecutedStretch(stop=1, location=EDGE, branches=both, **changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="at most"):
        executed_from_proto([stretch])


def test_a_plan_of_very_many_segments_is_refused_within_little_memory() -> None:
    wire = message(*[segment(stop=MAX_STEPS)] * 5_000)

    def refuse() -> None:
        with pytest.raises(InvalidRequest, match="segments"):
            plan_from_proto(wire)

    assert peak_memory(refuse) < 1_000_000


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, 2**32 - 1])
def test_a_peer_of_another_protocol_is_incompatible_and_both_versions_are_named(
    version: int,
) -> None:
    check_protocol(PROTOCOL_VERSION, "edge-1")
    with pytest.raises(Incompatible, match=rf"edge-1 .*{version}, this side {PROTOCOL_VERSION}"):
        check_protocol(version, "edge-1")
