"""Schedules of the built-in family's configuration, and of others."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from baton.common.diffusion.schedules import Schedule, make_schedule
from baton.common.errors import Incompatible, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import MAX_STEPS, SAMPLERS, SamplerName

COUNTS = [1, 2, 3, 7, 30, 50, 99, 128, 199, MAX_STEPS]


@pytest.fixture
def config(family: LoadedFamily) -> dict[str, Any]:
    return family.spec.scheduler_config


def noise(schedule: Schedule) -> list[float]:
    return [level.b / level.a for level in schedule.levels]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", COUNTS)
def test_noise_falls_at_every_step_down_to_none(
    config: dict[str, Any], sampler: SamplerName, steps: int
) -> None:
    schedule = make_schedule(sampler, steps, config)
    assert schedule.steps == steps == len(schedule.levels) - 1
    assert all(a > b for a, b in itertools.pairwise(noise(schedule)))
    assert all(a > b for a, b in itertools.pairwise(schedule.timesteps))
    assert schedule.levels[-1].b == 0


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_samplers_agree_on_the_noise_of_every_step_in_their_own_form(
    config: dict[str, Any], steps: int
) -> None:
    ddim, euler, dpmpp = (make_schedule(sampler, steps, config) for sampler in SAMPLERS)
    for one, two in ((ddim, euler), (ddim, dpmpp)):
        assert noise(one) == pytest.approx(noise(two), rel=1e-4)
    for level in (*ddim.levels, *dpmpp.levels):
        assert level.a**2 + level.b**2 == pytest.approx(1)
    assert {level.a for level in euler.levels} == {1.0}
    assert euler.initial_scale == pytest.approx(euler.levels[0].b)


def test_the_last_level_is_the_configurations(config: dict[str, Any]) -> None:
    schedule = make_schedule("ddim", 10, config | {"set_alpha_to_one": False})
    assert schedule.levels[-1].b / schedule.levels[-1].a == pytest.approx(0.0292, abs=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_steps_than_the_family_has_levels_are_incompatible(
    config: dict[str, Any], sampler: SamplerName
) -> None:
    with pytest.raises(Incompatible, match=f"{sampler} cannot make 60"):
        make_schedule(sampler, 60, config | {"num_train_timesteps": 50})


@pytest.mark.parametrize("steps", [-1, 0, MAX_STEPS + 1, 10**9])
def test_a_step_count_outside_the_limits_is_refused(config: dict[str, Any], steps: int) -> None:
    with pytest.raises(InvalidRequest, match="steps"):
        make_schedule("ddim", steps, config)
