"""Properties of plans and arms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from baton.common.errors import InvalidRequest
from baton.common.plan import (
    LOCATIONS,
    MAX_SEGMENTS,
    MAX_STEPS,
    SAMPLERS,
    Arm,
    Location,
    Plan,
    Segment,
    StepDirective,
    relay_step,
)
from tests.support.strategies import arms, fractions, plans

small_ints = st.integers(-2, MAX_STEPS + 3)


@given(plans())
def test_every_step_belongs_to_exactly_one_segment(plan: Plan) -> None:
    for step in range(plan.steps):
        holding = [s for s in plan.segments if s.start <= step < s.stop]
        assert holding == [plan.segment_at(step)]
        assert plan.directive_at(step) == holding[0].directives[step - holding[0].start]


@given(st.lists(st.tuples(small_ints, small_ints), max_size=6), st.integers(-1, 12))
def test_a_plan_is_accepted_exactly_when_its_segments_tile_the_steps(
    stretches: Sequence[tuple[int, int]], steps: int
) -> None:
    tiled = [step for start, stop in stretches for step in range(start, stop)]
    fits = (
        bool(stretches)
        and 1 <= steps <= MAX_STEPS
        and tiled == list(range(steps))
        and all(start < stop for start, stop in stretches)
    )
    try:
        segments = tuple(Segment.full("large", "edge", *stretch) for stretch in stretches)
        Plan("tiny", "ddim", steps, 2.0, segments)
    except InvalidRequest:
        assert not fits
    else:
        assert fits


@given(plans())
def test_stretches_follow_one_another_and_alternate_between_places(plan: Plan) -> None:
    start, places = 0, []
    while start < plan.steps:
        end = plan.stretch_end(start)
        assert end > start
        stretch = {plan.segment_at(step).location for step in range(start, end)}
        assert len(stretch) == 1
        places += stretch
        start = end
    assert start == plan.steps == plan.stretch_end(plan.steps)
    assert all(a != b for a, b in itertools.pairwise(places))


@given(plans(), st.sampled_from(LOCATIONS), st.data())
def test_resting_elsewhere_changes_only_member_and_place_of_the_rest(
    plan: Plan, location: Location, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, plan.steps - 1))
    assume(sum(segment.start < start for segment in plan.segments) < MAX_SEGMENTS)
    moved = plan.rest_on("other", location, start)
    assert moved.accel == plan.accel
    for step in range(plan.steps):
        asked = plan.directive_at(step)
        assert moved.directive_at(step) == (asked if step < start else asked.for_any_member())
        was, now = plan.segment_at(step), moved.segment_at(step)
        expected = (was.member, was.location) if step < start else ("other", location)
        assert (now.member, now.location) == expected


@given(plans())
def test_a_plan_in_full_keeps_nothing_but_guidance(plan: Plan) -> None:
    full = plan.in_full()
    assert full.accel == "none"
    assert full.in_full() == full
    for step in range(plan.steps):
        assert full.directive_at(step) == StepDirective(plan.directive_at(step).guided)
        was, now = plan.segment_at(step), full.segment_at(step)
        assert (now.member, now.location) == (was.member, was.location)


@given(arms(), st.integers(1, MAX_STEPS), st.sampled_from(SAMPLERS))
def test_an_expanded_arm_covers_every_step_once_in_full(arm: Arm, steps: int, sampler: str) -> None:
    plan = arm.expand("tiny", sampler, steps, 2.0)  # type: ignore[arg-type]
    cut = {"device": 0, "edge": steps, "relay": relay_step(arm.fraction, steps)}[arm.kind]
    where = [plan.segment_at(step).location for step in range(steps)]
    assert where == ["edge"] * cut + ["device"] * (steps - cut)
    members = {"edge": arm.members[0], "device": arm.members[-1]}
    assert all(segment.member == members[segment.location] for segment in plan.segments)
    assert all(plan.directive_at(step).guided for step in range(steps))


@given(fractions, st.integers(1, MAX_STEPS))
def test_a_relay_step_is_within_half_a_step_of_the_fraction(fraction: float, steps: int) -> None:
    cut = relay_step(fraction, steps)
    assert 0 <= cut <= steps
    assert abs(cut - fraction * steps) <= 0.5 + 1e-9


@given(arms())
def test_an_arm_is_read_back_from_its_name(arm: Arm) -> None:
    assert Arm.parse(arm.name) == arm


@given(st.text(max_size=80))
def test_reading_an_arm_gives_an_arm_that_expands_or_an_unknown_name(text: str) -> None:
    for name in (text, f"device:{text}", f"relay:{text}", f"relay:a>b@{text}"):
        try:
            arm = Arm.parse(name)
        except InvalidRequest:
            continue
        if all(len(member) <= 64 for member in arm.members):
            assert arm.expand("tiny", "ddim", 10, 1.0).steps == 10


def test_no_integer_makes_a_segment_allocate_before_it_is_refused() -> None:
    for start, stop in [(-(10**6), 5), (0, 10**12), (-(10**6), 10**12)]:
        with pytest.raises(InvalidRequest):
            Segment.full("large", "edge", start, stop)
