"""From a family's scheduler configuration to the noise levels and timesteps of a plan.

diffusers' own schedulers compute the timesteps, so every option that a family's configuration holds
(spacing, offsets, Karras sigmas, ...) is honoured; Baton's samplers then step through them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from common.errors import Incompatible
from common.latents.state import NoiseLevel
from common.plan import SamplerName, check_steps

Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one sampler over one number of steps.

    timesteps: what the model is told at each step, length N.
    levels: native noise levels before each step and after the last, length N + 1.
    initial_scale: factor that turns unit noise into the first native latent.
    """

    sampler: SamplerName
    prediction: Prediction
    timesteps: tuple[float, ...]
    levels: tuple[NoiseLevel, ...]
    initial_scale: float

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def make_schedule(sampler: SamplerName, steps: int, config: Mapping[str, Any]) -> Schedule:
    """The schedule of ``sampler`` for a family's scheduler configuration.

    Raises InvalidRequest for a number of steps outside the limits, Incompatible if the sampler
    cannot make that many steps of this family.
    """
    check_steps(steps)
    build = {"ddim": _ddim, "euler": _euler, "dpmpp_2m": _dpmpp_2m}[sampler]
    try:
        timesteps, levels, initial_scale = build(steps, dict(config))
    except ValueError as error:
        raise Incompatible(f"{sampler} cannot make {steps} steps of this family") from error
    if len(set(timesteps)) != steps or len(levels) != steps + 1:
        raise Incompatible(f"{sampler} cannot make {steps} distinct steps of this family")
    prediction = config.get("prediction_type", "epsilon")
    return Schedule(sampler, prediction, tuple(timesteps), tuple(levels), initial_scale)


_Parts = tuple[list[float], list[NoiseLevel], float]


def _ddim(steps: int, config: dict[str, Any]) -> _Parts:
    """VP levels at the timesteps, then the family's final level.

    Each step ends at the next timestep's own level. diffusers' DDIM ends it at ``t - T // N``,
    which is the same wherever N divides T.
    """
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    alpha_bars = [scheduler.alphas_cumprod[t].item() for t in timesteps]
    alpha_bars.append(float(scheduler.final_alpha_cumprod))
    return timesteps, [_vp(alpha_bar) for alpha_bar in alpha_bars], 1.0


def _euler(steps: int, config: dict[str, Any]) -> _Parts:
    scheduler = EulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    levels = [NoiseLevel(1.0, sigma) for sigma in scheduler.sigmas.double().tolist()]
    return scheduler.timesteps.tolist(), levels, float(scheduler.init_noise_sigma)


def _dpmpp_2m(steps: int, config: dict[str, Any]) -> _Parts:
    scheduler = DPMSolverMultistepScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    sigmas: list[float] = np.asarray(scheduler.sigmas, dtype=np.float64).tolist()
    return scheduler.timesteps.tolist(), [_vp(1 / (1 + s * s)) for s in sigmas], 1.0


def _vp(alpha_bar: float) -> NoiseLevel:
    return NoiseLevel(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
