"""Which arms the relay's benchmark compares, and that the product can read them all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from baton.common.arm import Arm
from baton.common.families.loaded import LoadedFamily
from tests.bench.arms import Entry, beside, controls, entries, left_out, reference
from tests.bench.figures import EQUAL_STEPS, default_arm


def check_plans(family: LoadedFamily) -> None:
    made = [*entries(family), *controls()]
    assert len({entry.name for entry in made}) == len(made)
    for entry in made:
        arm, plan = Arm.parse(entry.arm), entry.plan(family)
        assert plan.steps == (arm.steps or entry.steps), entry.name
        assert plan.samplers == (entry.sampler,), entry.name
        assert [s.member for s in plan.segments] == [s.member for s in arm.stretches], entry.name
        assert entry.drawn(family).steps == plan.steps, entry.name


def test_every_arm_means_a_plan_of_the_built_in_family(scenes: LoadedFamily) -> None:
    check_plans(scenes)


def test_every_arm_means_a_plan_of_a_family_with_a_finisher(finishing: LoadedFamily) -> None:
    check_plans(finishing)


def test_what_the_figures_compare_is_there(finishing: LoadedFamily) -> None:
    names = {entry.name for entry in entries(finishing)}
    assert reference().name in names
    assert {name for pair in EQUAL_STEPS.values() for name in pair} <= names
    assert default_arm(finishing.spec) in names


def test_steps_of_an_arms_own_go_through_the_familys_named_grid(finishing: LoadedFamily) -> None:
    named, plain = Entry("large", "edge/large*10"), Entry("large", "edge/large", "ddim", 10)
    assert named.plan(finishing).grids[0].name
    assert not plain.plan(finishing).grids[0].name


def test_members_that_a_family_lacks_leave_their_arms_out(finishing: LoadedFamily) -> None:
    members = {name: finishing.spec.members[name] for name in ("large", "small")}
    family = LoadedFamily.of(
        finishing.spec.model_copy(update={"members": members}), ("large", "small")
    )
    kinds = Counter(entry.kind for entry in entries(family))
    assert kinds["training-free"]
    assert not kinds["finisher"]
    assert "medium" in left_out(family)["device/medium 10"]


def test_a_member_is_asked_for_nothing_but_levels_that_it_knows(finishing: LoadedFamily) -> None:
    out = left_out(finishing)
    assert "device/small*3>device/finisher*2" not in out
    early = "edge/large*1>device/finisher*4"
    assert "noise" in out[early]
    assert not {*out} & {entry.name for entry in entries(finishing)}


def test_some_steps_of_large_may_take_one_branch(finishing: LoadedFamily) -> None:
    plan = Entry("partly unguided", "edge/large*3>edge/large^1*2").plan(finishing)
    assert [plan.guided_at(step) for step in range(5)] == [True] * 3 + [False] * 2


def test_deepcache_runs_every_third_step_of_a_stretch_in_full(finishing: LoadedFamily) -> None:
    plan = Entry("accelerated", "edge/large@0.4>edge/large^1", "ddim", 20, deepcache=3).plan(
        finishing
    )
    for segment in plan.segments:
        run = [directive.blocks for directive in segment.directives]
        assert len(set(run)) == 2
        assert [index for index, blocks in enumerate(run) if blocks == run[0]] == [
            *range(0, len(run), 3)
        ]


@pytest.mark.parametrize("accel", ["propagate", "full"])
def test_what_is_drawn_has_acceleration_written_out(finishing: LoadedFamily, accel: str) -> None:
    entry = Entry("accelerated", "edge/large", "ddim", 50, accel)  # type: ignore[arg-type]
    drawn = entry.drawn(finishing)
    assert any(segment.masked for segment in drawn.segments)
    assert all(one.ahead == 0 for segment in drawn.segments for one in segment.directives)
    assert replace(entry, accel="none").plan(finishing) != drawn


def test_another_family_is_relayed_by_its_own_members(finishing: LoadedFamily) -> None:
    for entry in beside(finishing.spec):
        assert {*Arm.parse(entry.arm).members} <= {*finishing.spec.members}
        assert entry.plan(finishing).steps == 10
