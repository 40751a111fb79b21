"""The samplers as they are published: one latent at a time, Python's floats times tensors."""

from __future__ import annotations

import math

from torch import Tensor

from baton.common.diffusion.course import Course
from baton.common.diffusion.samplers import SamplerHistory, vp_form
from baton.common.diffusion.schedules import Schedule
from baton.common.latents.state import NoiseLevel


def rescaled(x: Tensor, source: NoiseLevel, target: NoiseLevel) -> Tensor:
    if source.a > source.b:
        return x * (target.a / source.a)
    return x * (target.b / source.b)


def predicted(x: Tensor, out: Tensor, schedule: Schedule, step: int) -> tuple[Tensor, Tensor]:
    """(x0, eps) of a native latent."""
    level = schedule.levels[step]
    at = vp_form(level)
    x = rescaled(x, level, at)
    if schedule.prediction == "v_prediction":
        return at.a * x - at.b * out, at.a * out + at.b * x
    if schedule.prediction == "epsilon":
        return (x - at.b * out) / at.a, out
    return out, (x - at.a * out) / at.b


def advanced(
    x: Tensor, out: Tensor, schedule: Schedule, step: int, history: SamplerHistory | None
) -> tuple[Tensor, SamplerHistory | None]:
    """The next native latent, and what a multistep sampler keeps."""
    level, target = schedule.levels[step], schedule.levels[step + 1]
    if not level.noisier_than(target):
        return x, history
    x0, eps = predicted(x, out, schedule, step)
    if schedule.sampler == "euler":
        return x + (x - x0) / level.b * (target.b - level.b), None
    if schedule.sampler == "ddim":
        if schedule.clip is not None:
            x0 = x0.clamp(-schedule.clip, schedule.clip)
        return target.a * x0 + target.b * eps, None
    log_snr = math.log(level.a / level.b)
    h = math.inf if target.b == 0 else math.log(target.a / target.b) - log_snr
    direction = x0
    if history is not None and not (step == schedule.steps - 1 and schedule.first_order_end):
        ratio = (log_snr - math.log(history.level.a / history.level.b)) / h
        direction = x0 + (x0 - history.x0) * (0.5 / ratio)
    moved = (target.b / level.b) * x - (target.a * math.expm1(-h)) * direction
    return moved, SamplerHistory(level, x0)


def step_on(
    x: Tensor, out: Tensor, course: Course, step: int, history: SamplerHistory | None
) -> tuple[Tensor, SamplerHistory | None]:
    """The same over several grids: the latent comes out native to the next step."""
    schedule, index = course.at(step)
    moved, kept = advanced(x, out, schedule, index, history)
    if index + 1 == schedule.steps and step + 1 < course.steps:
        moved = rescaled(moved, schedule.levels[-1], course.levels[step + 1])
    return moved, kept
