"""Properties of plans and arms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from baton.common.arm import Arm
from baton.common.errors import Incompatible, InvalidRequest, UnknownName
from baton.common.expansion import Terms, expand, plan_of
from baton.common.limits import (
    LOCATIONS,
    MAX_SEGMENTS,
    MAX_STEPS,
    SAMPLERS,
    Location,
    SamplerName,
)
from baton.common.plan import (
    Grid,
    Guidance,
    Holder,
    OpenPlan,
    OpenSegment,
    StepDirective,
    relay_step,
)
from tests.support.strategies import arms, choices, fractions, plans

small_ints = st.integers(-2, MAX_STEPS + 3)


@given(plans())
def test_every_step_belongs_to_exactly_one_segment(plan: OpenPlan) -> None:
    for step in range(plan.steps):
        holding = [s for s in plan.segments if s.start <= step < s.stop]
        assert holding == [plan.segment_at(step)]
        assert plan.directive_at(step) == holding[0].directives[step - holding[0].start]


@given(st.lists(st.tuples(small_ints, small_ints), max_size=6), st.integers(1, 12))
def test_a_plan_is_accepted_exactly_when_its_segments_tile_the_steps(
    stretches: Sequence[tuple[int, int]], steps: int
) -> None:
    tiled = [step for start, stop in stretches for step in range(start, stop)]
    fits = (
        bool(stretches)
        and tiled == list(range(steps))
        and all(start < stop for start, stop in stretches)
    )
    grid, scale = Grid("ddim", 0, steps), Guidance(2.0)
    try:
        OpenPlan(
            "tiny", tuple(OpenSegment("large", "edge", *part, grid, scale) for part in stretches)
        )
    except InvalidRequest:
        assert not fits
    else:
        assert fits


@given(plans())
def test_stretches_follow_one_another_and_alternate_between_places(plan: OpenPlan) -> None:
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
    plan: OpenPlan, location: Location, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, plan.steps - 1))
    assume(len(plan.segments) < MAX_SEGMENTS)
    moved = plan.rest_on(start, lambda step: Holder("other", location))
    assert (moved.grids, moved.budget) == (plan.grids, plan.budget)
    for step in range(plan.steps):
        asked = plan.directive_at(step)
        assert moved.directive_at(step) == (asked if step < start else asked.for_any_member())
        was, now = plan.segment_at(step), moved.segment_at(step)
        expected = (was.member, was.location) if step < start else ("other", location)
        assert (now.member, now.location) == expected
        assert (now.grid, now.guidance, now.accel) == (was.grid, was.guidance, was.accel)


@given(plans())
def test_a_plan_in_full_keeps_nothing_but_guidance(plan: OpenPlan) -> None:
    closed = plan.closed()
    full = closed.in_full()
    assert full.in_full() == full
    for step in range(plan.steps):
        assert full.directive_at(step) == StepDirective(plan.directive_at(step).branches)
        was, now = plan.segment_at(step), full.segment_at(step)
        assert (now.member, now.location, now.grid, now.guidance) == (
            was.member, was.location, was.grid, was.guidance,
        )  # fmt: skip


@given(choices(), st.integers(1, MAX_STEPS), st.sampled_from(SAMPLERS))
def test_an_expanded_choice_covers_every_step_once_in_full(
    arm: Arm, steps: int, sampler: SamplerName
) -> None:
    plan = plan_of(arm, "tiny", sampler, steps, 2.0)
    cut = relay_step(arm.edge_share, steps)
    where = [plan.segment_at(step).location for step in range(steps)]
    assert where == ["edge"] * cut + ["device"] * (steps - cut)
    assert plan.grids == (Grid(sampler, 0, steps),)
    assert all(plan.guided_at(step) for step in range(steps))


@given(arms(), st.integers(1, MAX_STEPS))
def test_an_expanded_arm_runs_its_stretches_in_order(arm: Arm, steps: int) -> None:
    terms = Terms("tiny", "ddim", steps, Guidance(2.0), ratios=_ratios)
    highest = max((s.sigma for s in arm.stretches if s.sigma is not None), default=0.0)
    if not arm.steps and highest >= _ratios("ddim", steps)[0]:
        with pytest.raises(Incompatible, match="before its first step"):
            expand(arm, terms)
        return
    plan = expand(arm, terms)
    assert plan.steps == (arm.steps or steps)
    asked = [(s.location, s.member) for s in arm.stretches]
    for segment in plan.segments:  # some may have got no step
        at = asked.index((segment.location, segment.member))
        del asked[: at + 1]
    if arm.steps:
        assert [s.stop - s.start for s in plan.segments] == [s.steps for s in arm.stretches]
        ends = [s.sigma for s in arm.stretches if s.sigma is not None]
        assert [grid.until for grid in plan.grids] == [*ends, None]


def _ratios(sampler: SamplerName, steps: int) -> list[float]:
    return [100.0 / (step + 1) for step in range(steps)]


@given(fractions, st.integers(1, MAX_STEPS))
def test_a_relay_step_is_within_half_a_step_of_the_fraction(fraction: float, steps: int) -> None:
    cut = relay_step(fraction, steps)
    assert 0 <= cut <= steps
    assert abs(cut - fraction * steps) <= 0.5 + 1e-9


@given(arms())
def test_an_arm_is_read_back_from_its_text(arm: Arm) -> None:
    assert Arm.parse(str(arm)) == arm
    assert 0.0 <= arm.edge_share <= 1.0 + 1e-9


@given(st.text(max_size=80))
def test_reading_an_arm_gives_an_arm_that_expands_or_an_unknown_name(text: str) -> None:
    for name in (text, f"device/{text}", f"edge/a@{text}", f"edge/a@{text}>device/b"):
        try:
            arm = Arm.parse(name)
        except UnknownName:
            continue
        terms = Terms("tiny", "ddim", 10, Guidance(1.0), ratios=_ratios)
        assert expand(arm, terms).steps == (arm.steps or 10)


def test_no_integer_makes_a_segment_allocate_before_it_is_refused() -> None:
    grid, scale = Grid("ddim", 0, 5), Guidance(1.0)
    for start, stop in [(-(10**6), 5), (0, 10**12), (-(10**6), 10**12)]:
        with pytest.raises(InvalidRequest):
            OpenSegment("large", "edge", start, stop, grid, scale)
