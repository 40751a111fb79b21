"""Samplers, one published algorithm each, on single latents that carry their own noise level.

Every model is normalised to one call: it sees the variance-preserving form of the latent and its
output is turned into predictions of x0 and eps, whatever it was trained to predict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from baton.common.diffusion.scheduler_config import Prediction
from baton.common.diffusion.schedules import Schedule
from baton.common.latents.state import NoiseLevel
from baton.common.limits import SamplerName


@dataclass(frozen=True)
class SamplerHistory:
    """An earlier x0 prediction and the noise level at which it was made."""

    level: NoiseLevel
    x0: Tensor


def vp_form(level: NoiseLevel) -> NoiseLevel:
    """The variance-preserving level with the same ``b / a``."""
    norm = math.hypot(level.a, level.b)
    return NoiseLevel(level.a / norm, level.b / norm)


def rescale(x: Tensor, source: NoiseLevel, target: NoiseLevel) -> Tensor:
    """The same latent in another parametrisation: ``x * a' / a`` (``b' / b`` at pure noise).

    Raises ValueError if the levels differ in noise.
    """
    if not source.same_noise(target):
        raise ValueError(f"{source} and {target} are different noise levels")
    if source.a > source.b:
        return x * (target.a / source.a)
    return x * (target.b / source.b)


def predictions(
    x: Tensor, out: Tensor, level: NoiseLevel, kind: Prediction
) -> tuple[Tensor, Tensor]:
    """Predictions of (x0, eps) from the model's output at VP latent ``x``.

    v-prediction: v = a*eps - b*x0 (Salimans and Ho 2022).
    """
    a, b = level.a, level.b
    if kind == "v_prediction":
        return a * x - b * out, a * out + b * x
    if kind == "epsilon":
        return (x - b * out) / a, out
    return out, (x - a * out) / b


def advance(
    x: Tensor, out: Tensor, schedule: Schedule, step: int, history: SamplerHistory | None
) -> tuple[Tensor, SamplerHistory | None]:
    """One sampler step: the next native latent and the history to keep.

    A step without a change of level leaves both as they are.
    """
    level = schedule.levels[step]
    if not level.noisier_than(schedule.levels[step + 1]):
        return x, history
    model_level = vp_form(level)
    x0, eps = predictions(rescale(x, level, model_level), out, model_level, schedule.prediction)
    kept = SamplerHistory(level, x0) if schedule.sampler in _MULTISTEP else None
    return _SAMPLERS[schedule.sampler](x, (x0, eps), schedule, step, history), kept


def ddim(
    x: Tensor,
    predicted: tuple[Tensor, Tensor],
    schedule: Schedule,
    step: int,
    history: SamplerHistory | None,
) -> Tensor:
    """DDIM with eta = 0 (Song et al. 2021, Eq. 12): x' = a'*x0 + b'*eps, x0 clipped if wanted."""
    x0, eps = predicted
    if schedule.clip is not None:
        x0 = x0.clamp(-schedule.clip, schedule.clip)
    target = schedule.levels[step + 1]
    return target.a * x0 + target.b * eps


def euler(
    x: Tensor,
    predicted: tuple[Tensor, Tensor],
    schedule: Schedule,
    step: int,
    history: SamplerHistory | None,
) -> Tensor:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, Alg. 1), VE form."""
    sigma, target = schedule.levels[step].b, schedule.levels[step + 1].b
    derivative = (x - predicted[0]) / sigma
    return x + derivative * (target - sigma)


def dpmpp_2m(
    x: Tensor,
    predicted: tuple[Tensor, Tensor],
    schedule: Schedule,
    step: int,
    history: SamplerHistory | None,
) -> Tensor:
    """DPM-Solver++ 2M, midpoint form (Lu et al. 2022, Alg. 2), with lambda = log(a / b).

    First order without history, and at the last step if the schedule ends so.
    """
    level, target = schedule.levels[step], schedule.levels[step + 1]
    x0 = predicted[0]
    last = step == schedule.steps - 1
    log_snr = _log_snr(level)
    h = math.inf if target.b == 0 else _log_snr(target) - log_snr
    decay = math.expm1(-h)
    direction = x0
    if history is not None and not (last and schedule.first_order_end):
        ratio = (log_snr - _log_snr(history.level)) / h
        direction = x0 + (x0 - history.x0) * (0.5 / ratio)
    return (target.b / level.b) * x - (target.a * decay) * direction


def _log_snr(level: NoiseLevel) -> float:
    return math.log(level.a / level.b)


_Sampler = Callable[[Tensor, tuple[Tensor, Tensor], Schedule, int, SamplerHistory | None], Tensor]
_SAMPLERS: dict[SamplerName, _Sampler] = {"ddim": ddim, "euler": euler, "dpmpp_2m": dpmpp_2m}
#: Those whose next step needs what this one predicted.
_MULTISTEP: frozenset[SamplerName] = frozenset({"dpmpp_2m"})
