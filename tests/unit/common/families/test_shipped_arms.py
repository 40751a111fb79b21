"""What `scenes` draws for those who name no arm: over its grids, each member within its range."""

from __future__ import annotations

import pytest

from baton.common.arm import Arm
from baton.common.expansion import Terms, expand
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.manifest import BUILT_IN, MANIFEST_NAME
from baton.common.plan import Guidance, OpenPlan
from baton.common.request import PREFERENCES, Preference

pytestmark = pytest.mark.skipif(
    not (BUILT_IN["scenes"] / MANIFEST_NAME).exists(), reason="the weights are not there"
)


@pytest.fixture(scope="module")
def scenes() -> LoadedFamily:
    return load_family("scenes")


def plan_of(scenes: LoadedFamily, arm: Arm) -> OpenPlan:
    spec = scenes.spec
    terms = Terms(
        spec.name,
        "ddim",
        50,
        Guidance(spec.default_guidance),
        own_guidance=spec.own_guidance,
        named=spec.named_grids,
    )
    return expand(arm, terms)


@pytest.mark.parametrize("preference", PREFERENCES)
def test_each_preference_has_an_arm_over_a_named_grid_within_its_members_ranges(
    scenes: LoadedFamily, preference: Preference
) -> None:
    arm = scenes.spec.own_arms[preference]
    plan = plan_of(scenes, arm)
    (grid,) = plan.grids
    assert (grid.name, plan.steps) == (f"spaced-{arm.steps}", arm.steps)
    scenes.check_levels(plan, scenes.spec.default_size)


def test_only_the_balanced_arm_is_a_relay_and_devices_hold_their_part_of_it(
    scenes: LoadedFamily,
) -> None:
    arms = scenes.spec.own_arms
    places = {name: {s.location for s in arm.stretches} for name, arm in arms.items()}
    assert places == {"quality": {"edge"}, "balanced": {"edge", "device"}, "speed": {"device"}}
    for arm in arms.values():
        assert set(arm.members_on("device")) <= set(scenes.spec.for_devices)


def test_every_named_grid_is_one_that_the_family_can_run(scenes: LoadedFamily) -> None:
    for (sampler, steps), grid in scenes.spec.named_grids.items():
        plan = plan_of(scenes, Arm.parse(f"device/large*{steps}"))
        assert plan.grids == (grid,)
        assert grid.sampler == sampler
        ratios = scenes.course(plan).ratios
        assert ratios[0] == pytest.approx(scenes.level_range[1])
        assert list(ratios) == sorted(ratios, reverse=True)
