"""Samplers, one published algorithm each, on rows that each have a noise level of their own.

Every model is normalised to one call: it sees the variance-preserving form of the latent and its
output is turned into predictions of x0 and eps, whatever it was trained to predict. Rows advance
as tensors [n, C, H, W], their coefficients as columns [n, 1, 1, 1]: computed in double precision,
rounded once, so that a row comes out bit for bit as it does alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
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
    return x * rescaling(source, target)


def rescaling(source: NoiseLevel, target: NoiseLevel) -> float:
    """The factor of `rescale`."""
    if not source.same_noise(target):
        raise ValueError(f"{source} and {target} are different noise levels")
    if source.a > source.b:
        return target.a / source.a
    return target.b / source.b


def columns(values: Sequence[Sequence[float]], like: Tensor) -> list[Tensor]:
    """Coefficients by row and kind as a column [n, 1, ...] of each kind, beside rows like these."""
    told = torch.tensor(tuple(zip(*values, strict=True)), dtype=like.dtype, device=like.device)
    return list(told.view(-1, len(values), *(1,) * (like.dim() - 1)).unbind(0))


class Position(NamedTuple):
    """Where a row is: a step of a schedule, with what the sampler keeps of the one before."""

    schedule: Schedule
    step: int
    history: SamplerHistory | None = None

    @property
    def level(self) -> NoiseLevel:
        return self.schedule.levels[self.step]

    @property
    def target(self) -> NoiseLevel:
        return self.schedule.levels[self.step + 1]

    @property
    def still(self) -> bool:
        """Whether the step does not change the level, and thus nothing."""
        return not self.level.noisier_than(self.target)


class Predicted(NamedTuple):
    """Of x0 and eps at the rows, and the x0 of the step before where a sampler reads it."""

    x0: Tensor
    eps: Tensor
    before: Tensor | None


class Columns(NamedTuple):
    """Noise levels of rows, [n, 1, ...] each."""

    a: Tensor
    b: Tensor


def predictions(
    x: Tensor, out: Tensor, level: NoiseLevel | Columns, kind: Prediction
) -> tuple[Tensor, Tensor]:
    """Predictions of (x0, eps) from the model's output at VP latents ``x`` of a level.

    v-prediction: v = a*eps - b*x0 (Salimans and Ho 2022).
    """
    a, b = level.a, level.b
    if kind == "v_prediction":
        return a * x - b * out, a * out + b * x
    if kind == "epsilon":
        return (x - b * out) / a, out
    return out, (x - a * out) / b


def ddim(x: Tensor, predicted: Predicted, a: Tensor, b: Tensor) -> Tensor:
    """DDIM with eta = 0 (Song et al. 2021, Eq. 12): x' = a'*x0 + b'*eps. a, b: the target's."""
    return a * predicted.x0 + b * predicted.eps


def euler(x: Tensor, predicted: Predicted, sigma: Tensor, h: Tensor) -> Tensor:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, Alg. 1), VE form.

    h: the next sigma minus this one.
    """
    derivative = (x - predicted.x0) / sigma
    return x + derivative * h


def dpmpp_2m(
    x: Tensor, predicted: Predicted, scale: Tensor, weight: Tensor, *correction: Tensor
) -> Tensor:
    """DPM-Solver++ 2M, midpoint form (Lu et al. 2022, Alg. 2), with lambda = log(a / b).

    scale: b' / b; weight: a' * (exp(-h) - 1), h the step in lambda; correction: 1 / (2 r), r the
    step before in units of this one, where the step is of second order.
    """
    direction = predicted.x0
    if correction and predicted.before is not None:
        direction = predicted.x0 + (predicted.x0 - predicted.before) * correction[0]
    return scale * x - weight * direction


def _ddim_coefficients(at: Position) -> tuple[float, ...]:
    return at.target.a, at.target.b


def _euler_coefficients(at: Position) -> tuple[float, ...]:
    return at.level.b, at.target.b - at.level.b


def _dpmpp_2m_coefficients(at: Position) -> tuple[float, ...]:
    """First order without history, and at the last step if the schedule ends so."""
    level, target = at.level, at.target
    log_snr = _log_snr(level)
    h = math.inf if target.b == 0 else _log_snr(target) - log_snr
    first = target.b / level.b, target.a * math.expm1(-h)
    last = at.step == at.schedule.steps - 1
    if at.history is None or (last and at.schedule.first_order_end):
        return first
    ratio = (log_snr - _log_snr(at.history.level)) / h
    return *first, 0.5 / ratio


def _log_snr(level: NoiseLevel) -> float:
    return math.log(level.a / level.b)


_SAMPLERS: dict[
    SamplerName, tuple[Callable[..., Tensor], Callable[[Position], tuple[float, ...]]]
] = {
    "ddim": (ddim, _ddim_coefficients),
    "euler": (euler, _euler_coefficients),
    "dpmpp_2m": (dpmpp_2m, _dpmpp_2m_coefficients),
}
#: Those whose next step needs what this one predicted.
_MULTISTEP: frozenset[SamplerName] = frozenset({"dpmpp_2m"})


class Move(NamedTuple):
    """One row's step, its numbers worked out. Raises what they raise: the rows' own errors.

    kind: equal for rows that one evaluation advances; level: to and in variance-preserving form;
    coefficients: of the sampler.
    """

    at: Position
    kind: Hashable
    to_vp: float
    vp: NoiseLevel
    coefficients: tuple[float, ...]

    @classmethod
    def of(cls, at: Position) -> Move:
        """Raises ValueError or ArithmeticError for levels between which no step can be made."""
        schedule, vp = at.schedule, vp_form(at.level)
        if at.still:
            return cls(at, "still", 1.0, vp, ())
        coefficients = _SAMPLERS[schedule.sampler][1](at)
        kind = schedule.sampler, schedule.prediction, schedule.clip, len(coefficients)
        return cls(at, kind, rescaling(at.level, vp), vp, coefficients)


def advance_rows(
    x: Tensor, out: Tensor, moves: Sequence[Move]
) -> tuple[Tensor, list[SamplerHistory | None]]:
    """One sampler step of each row: the next native latents [n, ...], and the history to keep.

    A step without a change of level leaves both as they are.
    """
    kinds: dict[Hashable, list[int]] = {}
    for row, move in enumerate(moves):
        kinds.setdefault(move.kind, []).append(row)
    history = [move.at.history for move in moves]
    result = x
    for kind, rows in kinds.items():
        if kind == "still":
            continue
        chosen = [moves[row] for row in rows]
        if len(rows) == len(moves):
            result, kept = _advance_alike(x, out, chosen)
        else:
            index = torch.tensor(rows, device=x.device)
            advanced, kept = _advance_alike(x[index], out[index], chosen)
            result = result.index_copy(0, index, advanced)
        for row, one in zip(rows, kept, strict=True):
            history[row] = one
    return result, history


def _advance_alike(
    x: Tensor, out: Tensor, moves: Sequence[Move]
) -> tuple[Tensor, list[SamplerHistory | None]]:
    schedule = moves[0].at.schedule
    sampler = _SAMPLERS[schedule.sampler][0]
    told = [(move.to_vp, move.vp.a, move.vp.b, *move.coefficients) for move in moves]
    to_vp, a, b, *coefficients = columns(told, x)
    x0, eps = predictions(x * to_vp, out, Columns(a, b), schedule.prediction)
    before = None
    if len(coefficients) > 2:
        before = torch.stack([_x0(move.at.history) for move in moves])
    predicted = Predicted(x0, eps, before)
    if schedule.sampler == "ddim" and schedule.clip is not None:
        predicted = predicted._replace(x0=x0.clamp(-schedule.clip, schedule.clip))
    kept: list[SamplerHistory | None] = [None] * len(moves)
    if schedule.sampler in _MULTISTEP:
        kept = [SamplerHistory(move.at.level, x0[row]) for row, move in enumerate(moves)]
    return sampler(x, predicted, *coefficients), kept


def _x0(history: SamplerHistory | None) -> Tensor:
    if history is None:
        raise ValueError("a step of second order needs the step before")
    return history.x0


def advance(
    x: Tensor, out: Tensor, schedule: Schedule, step: int, history: SamplerHistory | None
) -> tuple[Tensor, SamplerHistory | None]:
    """`advance_rows` of a single latent [C, H, W]."""
    moved, kept = advance_rows(x[None], out[None], [Move.of(Position(schedule, step, history))])
    return moved[0], kept[0]
