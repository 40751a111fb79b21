"""Scheduler configurations as families have them, and diffusers' own loop over a formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from baton.common.diffusion.samplers import advance, rescale, vp_form
from baton.common.diffusion.schedules import make_schedule
from baton.common.limits import SamplerName
from tests.support.reference import SCHEDULERS

#: ``scheduler_config.json`` of Stable Diffusion 1.5.
SD15: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
#: Its usual variants, by the sampler that people take with them.
SD15_LIKE: dict[str, dict[str, Any]] = {
    "PNDM": SD15,
    "DDIM": SD15 | {"_class_name": "DDIMScheduler", "prediction_type": "epsilon"},
    "trailing": SD15 | {"timestep_spacing": "trailing"},
    "linspace": SD15 | {"timestep_spacing": "linspace"},
}
#: By name, what spaces the noise levels instead of the timesteps.
SIGMAS: dict[str, dict[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "Lu": {"use_lu_lambdas": True},
    "some noise left": {"final_sigmas_type": "sigma_min"},
    "log-linear": {"interpolation_type": "log_linear"},
    "between bounds": {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0},
}


def _formula(x: Tensor, timestep: float) -> Tensor:
    return torch.tanh(x + 0.001 * timestep) * 0.7


def _noise() -> Tensor:
    return torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))


def stepped_by_diffusers(sampler: SamplerName, steps: int, config: Mapping[str, Any]) -> Tensor:
    """What diffusers' scheduler makes of noise where the model is a formula, [C, H, W]."""
    scheduler = SCHEDULERS[sampler].from_config(dict(config))
    scheduler.set_timesteps(steps)
    x = _noise()[None] * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        out = _formula(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(out, t, x).prev_sample
    return x[0]


def stepped_by_us(sampler: SamplerName, steps: int, config: Mapping[str, Any]) -> Tensor:
    """The same by Baton's samplers."""
    schedule = make_schedule(sampler, steps, config)
    x, history = _noise() * schedule.initial_scale, None
    for step, level in enumerate(schedule.levels[:-1]):
        out = _formula(rescale(x, level, vp_form(level)), schedule.timesteps[step])
        x, history = advance(x, out, schedule, step, history)
    return x
