"""From a family's scheduler configuration to the noise levels and timesteps of a plan.

diffusers' own schedulers compute the timesteps, so every option that a family's configuration holds
(spacing, offsets, Karras sigmas, ...) is honoured; Baton's samplers then step through them. What
they could not honour is refused (`baton.common.diffusion.scheduler_config`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from baton.common.diffusion.scheduler_config import Prediction, check_scheduler
from baton.common.errors import Incompatible
from baton.common.latents.state import NoiseLevel
from baton.common.limits import SamplerName, check_steps


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one sampler over one number of steps.

    timesteps: the model's input at each step, length N; several steps may share one.
    levels: native noise levels before each step and after the last, length N + 1; each has less
    noise than the one before, but the last step may keep its level.
    initial_scale: factor that turns unit noise into the first native latent.
    clip: bound of a predicted x0 (DDIM's ``clip_sample``); None: none.
    first_order_end: whether the last step of a multistep sampler is of first order.
    """

    sampler: SamplerName
    prediction: Prediction
    timesteps: tuple[float, ...]
    levels: tuple[NoiseLevel, ...]
    initial_scale: float
    clip: float | None = None
    first_order_end: bool = True

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def digest(self) -> str:
        """Of what is learned for these levels alone, 32 hex digits; rounding does not alter it."""
        ratios = [level.b / level.a if level.a else math.inf for level in self.levels]
        told = [self.sampler, *(f"{t:.6g}" for t in self.timesteps), *(f"{r:.5g}" for r in ratios)]
        return hashlib.blake2b(" ".join(told).encode(), digest_size=16).hexdigest()


def make_schedule(sampler: SamplerName, steps: int, config: Mapping[str, Any]) -> Schedule:
    """The schedule of ``sampler`` for a family's scheduler configuration.

    It is diffusers' own wherever that has ``steps`` distinct levels of noise. Where rounding gives
    it more or fewer, step i is at the timestep ``round(T - i * T / steps) - 1`` of T.

    Raises InvalidRequest for a number of steps outside the limits, Incompatible if the sampler
    cannot make that many steps of this family, or does not know an option of the configuration.
    """
    check_steps(steps)
    config = check_scheduler(config)
    try:
        scheduler = _SCHEDULERS[sampler].from_config(config)
    except (ValueError, NotImplementedError) as error:
        raise Incompatible(f"{sampler} cannot be configured so: {error}") from error
    for grid in (None, _even(scheduler, steps)):
        try:
            schedule = _BUILDERS[sampler](scheduler, steps, grid)
        except (ValueError, IndexError):  # timesteps that the noise schedule does not have
            continue
        if _falls(schedule, steps):
            return _checked(schedule)
    raise Incompatible(f"{sampler} cannot make {steps} distinct steps of this family")


def _checked(schedule: Schedule) -> Schedule:
    """Raises Incompatible if x0 cannot be read from the model's output at some level."""
    if schedule.prediction == "epsilon" and schedule.levels[0].a == 0:
        raise Incompatible(
            f"{schedule.sampler} begins without signal (rescale_betas_zero_snr), where a prediction"
            " of type epsilon says nothing of the picture; take another sampler"
        )
    return schedule


def _ddim(scheduler: Any, steps: int, grid: Sequence[int] | None) -> Schedule:
    """VP levels at the timesteps, then the family's final level.

    Each step ends at the next timestep's own level. diffusers' DDIM ends it at ``t - T // N``,
    which is the same wherever N divides T.
    """
    if grid is None:
        scheduler.set_timesteps(steps)
        grid = scheduler.timesteps.tolist()
    alpha_bars = [scheduler.alphas_cumprod[t].item() for t in grid]
    levels = [_vp(alpha_bar) for alpha_bar in (*alpha_bars, float(scheduler.final_alpha_cumprod))]
    prediction, clip = scheduler.config.prediction_type, scheduler.config.clip_sample_range
    clip = float(clip) if scheduler.config.clip_sample else None
    return Schedule("ddim", prediction, tuple(grid), tuple(levels), 1.0, clip)


def _euler(scheduler: Any, steps: int, grid: Sequence[int] | None) -> Schedule:
    _set_timesteps(scheduler, steps, grid)
    levels = tuple(NoiseLevel(1.0, sigma) for sigma in _sigmas(scheduler))
    timesteps, scale = tuple(scheduler.timesteps.tolist()), float(scheduler.init_noise_sigma)
    return Schedule("euler", scheduler.config.prediction_type, timesteps, levels, scale)


def _dpmpp_2m(scheduler: Any, steps: int, grid: Sequence[int] | None) -> Schedule:
    _set_timesteps(scheduler, steps, grid)
    levels = tuple(_vp(1 / (1 + sigma * sigma)) for sigma in _sigmas(scheduler))
    timesteps, config = tuple(scheduler.timesteps.tolist()), scheduler.config
    first_order_end = config.euler_at_final or (config.lower_order_final and steps < 15)
    return Schedule(
        "dpmpp_2m",
        config.prediction_type,
        timesteps,
        levels,
        initial_scale=1.0,
        first_order_end=bool(first_order_end) or levels[-1].b == 0,
    )


def _set_timesteps(scheduler: Any, steps: int, grid: Sequence[int] | None) -> None:
    if grid is None:
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(timesteps=list(grid))


def _sigmas(scheduler: Any) -> list[float]:
    """One before each step and one after the last; a scheduler may have made more."""
    sigmas: list[float] = scheduler.sigmas.double().tolist()
    return sigmas[: len(scheduler.timesteps) + 1]


_SCHEDULERS: dict[SamplerName, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}
_BUILDERS: dict[SamplerName, Callable[[Any, int, Sequence[int] | None], Schedule]] = {
    "ddim": _ddim,
    "euler": _euler,
    "dpmpp_2m": _dpmpp_2m,
}


def _even(scheduler: Any, steps: int) -> list[int]:
    """Timesteps as far apart as can be, from the last of those that are used."""
    total, lambdas = scheduler.config.num_train_timesteps, getattr(scheduler, "lambda_t", None)
    if lambdas is not None:  # DPM-Solver++ may leave out the noisiest
        total = int((lambdas >= scheduler.config.lambda_min_clipped).sum())
    return [round(total - step * total / steps) - 1 for step in range(steps)]


def _falls(schedule: Schedule, steps: int) -> bool:
    """Whether it has ``steps`` distinct levels, and ends at none above the last of them."""
    levels = schedule.levels
    if (schedule.steps, len(levels)) != (steps, steps + 1):
        return False
    falling = all(one.noisier_than(two) for one, two in pairwise(levels[:-1]))
    return falling and not levels[-1].noisier_than(levels[-2])


def _vp(alpha_bar: float) -> NoiseLevel:
    return NoiseLevel(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
