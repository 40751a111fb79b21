"""Every number of steps can be made, and is diffusers' own wherever that can make it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from baton.common.diffusion.samplers import SamplerHistory, advance, vp_form
from baton.common.diffusion.schedules import Schedule, make_schedule
from baton.common.errors import Incompatible
from baton.common.families.loaded import LoadedFamily
from baton.common.latents.state import NoiseLevel
from baton.common.limits import MAX_STEPS, SAMPLERS, SamplerName
from tests.support.reference import SCHEDULERS
from tests.support.schedulers import (
    SD15,
    SD15_LIKE,
    SIGMAS,
    stepped_by_diffusers,
    stepped_by_us,
)

#: Where rounding makes diffusers' trailing grid one step longer.
ROUNDED = (61, 103, 121, 122)
#: Around the first at which several steps share a timestep, and some of the rest.
COUNTS = (1, 2, 19, 24, 29, 36, 45, *ROUNDED, 62, 150, MAX_STEPS)


def configuration(family: LoadedFamily, name: str) -> dict[str, Any]:
    """By the name of its family, or a variant of Stable Diffusion 1.5."""
    return family.spec.scheduler_config if name == "scenes" else SD15_LIKE[name]


def check_falls(schedule: Schedule, steps: int) -> None:
    noise = [level.b / level.a for level in schedule.levels]
    assert schedule.steps == steps == len(noise) - 1
    assert all(one > two for one, two in itertools.pairwise(noise[:-1]))
    assert noise[-1] <= noise[-2] * (1 + 1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["scenes", "PNDM", "linspace"])
def test_every_number_of_steps_has_levels_of_falling_noise(
    family: LoadedFamily, name: str, sampler: SamplerName
) -> None:
    config = configuration(family, name)
    for steps in range(1, MAX_STEPS + 1):
        check_falls(make_schedule(sampler, steps, config), steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sigmas", SIGMAS)
@pytest.mark.parametrize("name", ["scenes", "PNDM", "trailing"])
def test_so_it_has_however_the_levels_are_spaced(
    family: LoadedFamily, name: str, sigmas: str, sampler: SamplerName
) -> None:
    config = configuration(family, name) | SIGMAS[sigmas]
    for steps in COUNTS:
        check_falls(make_schedule(sampler, steps, config), steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", ROUNDED)
def test_timesteps_that_rounding_would_spoil_are_spread_evenly(
    family: LoadedFamily, sampler: SamplerName, steps: int
) -> None:
    schedule = make_schedule(sampler, steps, family.spec.scheduler_config)
    even = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    assert list(schedule.timesteps) == even
    alpha_bars = SCHEDULERS["ddim"].from_config(family.spec.scheduler_config).alphas_cumprod
    found = [level.a**2 / (level.a**2 + level.b**2) for level in schedule.levels]
    assert found == pytest.approx([*alpha_bars[even].tolist(), 1.0], rel=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sigmas", [None, *SIGMAS])
@pytest.mark.parametrize("name", ["scenes", "PNDM"])
@pytest.mark.parametrize("steps", [2, 20, 100])
def test_the_latent_is_diffusers_own_wherever_that_runs(
    family: LoadedFamily, name: str, sigmas: str | None, sampler: SamplerName, steps: int
) -> None:
    config = configuration(family, name) | (SIGMAS[sigmas] if sigmas else {})
    reference = stepped_by_diffusers(sampler, steps, config)
    scale = max(1.0, reference.abs().max().item())
    found = stepped_by_us(sampler, steps, config)
    torch.testing.assert_close(found, reference, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_levels_beyond_the_noise_schedule_are_not_used(sampler: SamplerName) -> None:
    config = SD15 | {"num_train_timesteps": 10, "timestep_spacing": "leading"}
    check_falls(make_schedule(sampler, 10, config), 10)
    with pytest.raises(Incompatible, match="11"):
        make_schedule(sampler, 11, config)


def test_noise_levels_that_the_solver_leaves_out_stay_out_where_steps_are_spread_evenly() -> None:
    config = SD15 | {"timestep_spacing": "trailing", "lambda_min_clipped": -1.5}
    scheduler = SCHEDULERS["dpmpp_2m"].from_config(config)
    scheduler.set_timesteps(10)
    assert len(scheduler.timesteps) < 10
    schedule = make_schedule("dpmpp_2m", 10, config)
    check_falls(schedule, 10)
    assert schedule.timesteps[0] == scheduler.timesteps[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_without_a_change_of_level_returns_the_latent(sampler: SamplerName) -> None:
    ve = [NoiseLevel(1.0, sigma) for sigma in (4.0, 2.0, 2.0, 1.0)]
    levels = tuple(ve if sampler == "euler" else map(vp_form, ve))
    schedule = Schedule(sampler, "epsilon", (900.0, 600.0, 600.0), levels, 1.0)
    x, other = torch.ones(4, 2, 2), torch.full((4, 2, 2), 0.5)
    history = SamplerHistory(levels[0], other) if sampler == "dpmpp_2m" else None
    still, history = advance(x, other, schedule, 1, history)
    assert torch.equal(still, x)
    moved, _ = advance(still, other, schedule, 2, history)
    assert torch.isfinite(moved).all()
    assert not torch.equal(moved, x)


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_a_last_step_at_the_lowest_level_keeps_the_latent(sampler: SamplerName) -> None:
    config = SD15 | {"timestep_spacing": "linspace", "final_sigmas_type": "sigma_min"}
    schedule = make_schedule(sampler, 20, config)
    x = torch.ones(4, 2, 2)
    found, _ = advance(x, torch.zeros(4, 2, 2), schedule, 19, None)
    assert torch.equal(found, x)
