"""A run of ours and the plain diffusers pipeline draw the same latent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from baton.common.diffusion.course import Course
from baton.common.diffusion.executor import step_alone
from baton.common.diffusion.run import start_run
from baton.common.diffusion.schedules import make_schedule
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import SAMPLERS, SamplerName
from baton.common.request import Task
from tests.support.reference import drawn_by_diffusers
from tests.support.tasks import PROMPTS, plan, run_alone, task

SD1 = {
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "epsilon": {"prediction_type": "epsilon"},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "as in Stable Diffusion 1": SD1,
    "linspace": {"timestep_spacing": "linspace"},
    "zero terminal SNR": {"rescale_betas_zero_snr": True},
    "Karras sigmas": {"use_karras_sigmas": True},
    "some noise left": {"final_sigmas_type": "sigma_min"},
}
#: diffusers' DDIM has no sigmas, and steps past the levels of its own linspace.
CASES = [
    (sampler, variant)
    for sampler in SAMPLERS
    for variant in VARIANTS
    if sampler != "ddim" or variant not in ("linspace", "Karras sigmas", "some noise left")
]


def drawn_by_us(family: LoadedFamily, member: str, of: Task, config: dict[str, Any]) -> Tensor:
    course = Course((make_schedule(of.plan.samplers[0], of.plan.steps, config),))
    conditioning = family.encode_text(of.prompt, of.negative_prompt)
    run = start_run(of.plan.closed(), course, conditioning, of.seed, family.latent_shape(of.size))
    for _ in range(of.plan.steps):
        step_alone(run, family.denoiser(member))
    return run.x


def assert_same(ours: Tensor, reference: Tensor, atol: float = 1e-4) -> None:
    assert torch.isfinite(reference).all()
    torch.testing.assert_close(ours, reference, rtol=0, atol=atol)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [10, 20, 25, 50])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_run_is_the_plain_pipelines(
    family: LoadedFamily, sampler: SamplerName, steps: int, guidance: float
) -> None:
    of = task(plan("device/small", steps, sampler, guidance), PROMPTS[3], seed=steps)
    assert_same(run_alone(family, of, steps).x, drawn_by_diffusers(family, "small", of))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_large_member_with_a_negative_prompt_at_another_size_too(
    family: LoadedFamily, sampler: SamplerName
) -> None:
    of = task(plan("edge/large", 10, sampler, 7.5), PROMPTS[1], negative="a red cat", size=32)
    assert_same(run_alone(family, of, 10).x, drawn_by_diffusers(family, "large", of))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_plan_without_guidance_is_the_plain_pipeline_at_scale_one(
    family: LoadedFamily, sampler: SamplerName
) -> None:
    unguided = task(plan("device/small", 10, sampler, 3.0, guided=[False] * 10))
    at_one = task(plan("device/small", 10, sampler, 1.0))
    ours = run_alone(family, unguided, 10).x
    assert_same(ours, drawn_by_diffusers(family, "small", at_one))


@pytest.mark.parametrize(("sampler", "variant"), CASES)
@pytest.mark.parametrize("steps", [10, 25])
def test_other_scheduler_configurations_are_honoured(
    family: LoadedFamily, sampler: SamplerName, variant: str, steps: int
) -> None:
    config = family.spec.scheduler_config | VARIANTS[variant]
    of = task(plan("device/small", steps, sampler, 3.0), PROMPTS[2], seed=7)
    reference = drawn_by_diffusers(family, "small", of, config)
    scale = max(1.0, reference.abs().max().item())
    assert_same(drawn_by_us(family, "small", of, config), reference, atol=1e-4 * scale)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_members_that_predict_the_picture_itself_are_understood(
    family: LoadedFamily, sampler: SamplerName
) -> None:
    config = family.spec.scheduler_config | {"prediction_type": "sample"}
    of = task(plan("device/small", 20, sampler, 3.0))
    reference = drawn_by_diffusers(family, "small", of, config)
    assert_same(drawn_by_us(family, "small", of, config), reference)


def test_starting_noise_is_the_pipelines_whatever_the_global_generator(
    family: LoadedFamily,
) -> None:
    torch.manual_seed(123)
    of = task(plan("device/small", 4, "ddim"), seed=5)
    noise = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(5))[0]
    assert torch.equal(run_alone(family, of, 0).x, noise)
