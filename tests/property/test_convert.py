"""What goes over the wire comes back the same, and nothing else comes in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from baton.common.errors import Incompatible, InvalidRequest
from baton.common.limits import BRANCHES, LOCATIONS, MAX_BLOCKS, MAX_STEPS, Location
from baton.common.plan import OpenPlan
from baton.common.record import ExecutedStep, Runtime
from baton.common.rpc.convert import (
    executed_from_proto,
    executed_to_proto,
    plan_from_proto,
    plan_to_proto,
)
from baton.v1 import plan_pb2
from tests.support.strategies import ahead, blocks, names, plans, prior_noises

counts = st.integers(0, 2**32 - 1)
segments = st.builds(
    plan_pb2.Segment,
    member=st.sampled_from(["", "large", "x" * 65]),
    location=st.integers(0, 3),
    start=st.integers(0, 5) | counts,
    stop=st.integers(0, 5) | counts,
    grid=st.builds(
        plan_pb2.Grid,
        sampler=st.sampled_from(["ddim", "euler", "dpmpp_2m", "", "DDIM"]),
        start=st.integers(0, 5) | counts,
        stop=st.integers(0, 5) | counts,
        until=st.none() | st.floats(),
        name=st.sampled_from(["", "tuned", "x" * 65]),
        digest=st.sampled_from(["", "d" * 32]),
    ),
    guidance=st.builds(plan_pb2.Guidance, scale=st.floats(), kind=st.integers(0, 4)),
    accel=st.sampled_from(["", "none", "propagate", "masks", "full", "all"]),
    directives=st.lists(
        st.builds(
            plan_pb2.StepDirective,
            branches=st.integers(0, 4),
            blocks=st.lists(
                st.binary(max_size=3) | st.binary(min_size=127, max_size=130), max_size=3
            ),
            ahead=st.integers(0, 20) | counts,
            prior_noise=st.floats(0.0, 0.2) | st.floats(),
        ),
        max_size=5,
    ),
)
messages = st.builds(
    plan_pb2.Plan,
    family=st.text(max_size=5),
    segments=st.lists(segments, max_size=4),
)
batch_rows = st.tuples(counts, st.none() | st.integers(0, (1 << MAX_BLOCKS) - 1))
#: Few values, so that neighbours are often alike.
executed = st.lists(
    st.builds(
        ExecutedStep,
        step=st.integers(0, 3) | st.integers(0, MAX_STEPS - 1),
        member=st.sampled_from(["large", "small"]) | names,
        location=st.sampled_from(LOCATIONS),
        node_id=st.sampled_from(["", "edge-1"]),
        branches=st.sampled_from(BRANCHES),
        rows=st.sampled_from([1, 2]) | counts,
        threads=st.sampled_from([1]) | counts,
        row=st.sampled_from([0]) | counts,
        blocks=blocks,
        ahead=ahead,
        prior_noise=prior_noises,
        neighbours=st.just(()) | st.lists(batch_rows, max_size=4).map(tuple),
        runtime=st.sampled_from([Runtime(), Runtime("cuda", "bfloat16", "flash", compiled=True)]),
    ),
    max_size=8,
)


@given(plans())
def test_a_plan_comes_back_from_the_wire_as_it_was(plan: OpenPlan) -> None:
    wire = plan_to_proto(plan).SerializeToString()
    assert plan_from_proto(plan_pb2.Plan.FromString(wire)) == plan


@given(executed)
def test_executed_steps_come_back_from_the_wire_as_they_were(steps: list[ExecutedStep]) -> None:
    wire = [stretch.SerializeToString() for stretch in executed_to_proto(steps)]
    assert executed_from_proto(map(plan_pb2.ExecutedStretch.FromString, wire)) == steps


@given(st.sampled_from(LOCATIONS), st.integers(1, MAX_STEPS), st.integers(0, MAX_STEPS))
def test_steps_that_ran_alike_are_one_message(location: Location, count: int, cut: int) -> None:
    steps = [
        ExecutedStep(step, "large" if step < cut else "small", location, "node", "both", 2, 1)
        for step in range(count)
    ]
    assert len(executed_to_proto(steps)) == (2 if 0 < cut < count else 1)


@given(st.sampled_from([None, 0, 5]), st.sampled_from([None, 0, 5]))
def test_no_blocks_and_all_blocks_are_not_the_same(one: int | None, other: int | None) -> None:
    steps = [
        ExecutedStep(step, "large", "edge", "node", "both", 2, 1, blocks=bits)
        for step, bits in enumerate((one, other))
    ]
    wire = executed_to_proto(steps)
    assert len(wire) == (1 if one == other else 2)
    assert executed_from_proto(wire) == steps


@given(messages)
def test_any_message_is_a_whole_plan_or_refused(message: plan_pb2.Plan) -> None:
    try:
        plan = plan_from_proto(message)
    except (InvalidRequest, Incompatible):
        return
    covered = [s for segment in plan.segments for s in range(segment.start, segment.stop)]
    assert covered == list(range(plan.steps))
