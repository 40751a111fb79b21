"""Schedules between levels: over a part of a family's, for plans that change grids, or named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from diffusers import DDIMScheduler

from baton.common.diffusion.samplers import vp_form
from baton.common.diffusion.schedules import Schedule, make_schedule
from baton.common.errors import Incompatible
from baton.common.latents.state import NoiseLevel
from baton.common.limits import SamplerName


def make_schedule_between(
    sampler: SamplerName,
    steps: int,
    config: Mapping[str, Any],
    begin: float | None,
    until: float | None,
) -> Schedule:
    """`make_schedule` over all levels, or `schedule_between` over a part. Raises as both."""
    plain = make_schedule(sampler, steps, config)
    if begin is None and until is None:
        return plain
    return schedule_between(plain, config, begin, until)


def schedule_between(
    plain: Schedule, config: Mapping[str, Any], begin: float | None, until: float | None
) -> Schedule:
    """As many steps as ``plain`` has, evenly spaced in training timesteps from level to level.

    begin, until: levels ``b / a``; None: the family's noisiest, and its last. Timesteps between two
    that were trained have a level between theirs. Raises Incompatible for levels that the family
    does not have, or between which so many steps do not fit.
    """
    alpha_bars = _alpha_bars(config)
    first = len(alpha_bars) - 1.0 if begin is None else _timestep(begin, alpha_bars)
    last = -1.0 if until is None else _timestep(until, alpha_bars)
    steps = plain.steps
    timesteps = tuple(first + (last - first) * step / steps for step in range(steps))
    found = np.interp(timesteps, np.arange(len(alpha_bars)), alpha_bars)
    levels = [_native(plain.sampler, _vp(alpha_bar)) for alpha_bar in found.tolist()]
    if begin is not None:
        levels[0] = _native(plain.sampler, _at_ratio(begin))
    end = plain.levels[-1] if until is None else _native(plain.sampler, _at_ratio(until))
    if not all(one.noisier_than(two) for one, two in pairwise([*levels, end])):
        raise Incompatible(f"{steps} steps do not fit between these levels of noise")
    scale = 1.0 / vp_form(levels[0]).a if plain.sampler == "euler" else 1.0
    return replace(
        plain,
        timesteps=timesteps,
        levels=(*levels, end),
        initial_scale=scale,
        first_order_end=until is None and plain.first_order_end,
    )


def schedule_through(
    sampler: SamplerName, ratios: Sequence[float], config: Mapping[str, Any]
) -> Schedule:
    """From a family's noisiest level through these to none.

    ratios: the levels ``b / a`` before every step but the first. The model is told the fractional
    timestep at which log(b / a), linear between two that were trained, is the level's. Raises
    Incompatible for levels that the family does not have.
    """
    alpha_bars = _alpha_bars(config)
    lowest, noisiest = level_range(config)
    if outside := [ratio for ratio in ratios if not lowest <= ratio < noisiest]:
        raise Incompatible(
            f"the family's levels of noise are from {lowest:.3g} to {noisiest:.3g}, not"
            f" {outside[0]:g}"
        )
    plain = make_schedule(sampler, len(ratios) + 1, config)
    trained = np.log(1 / alpha_bars - 1) / 2
    found = np.interp(np.log(np.array(ratios)), trained, np.arange(len(trained)))
    levels = [_vp(float(alpha_bars[-1])), *map(_at_ratio, ratios), NoiseLevel(1.0, 0.0)]
    return replace(
        plain,
        timesteps=(len(alpha_bars) - 1.0, *(round(t, 4) for t in found.tolist())),
        levels=tuple(_native(sampler, level) for level in levels),
        first_order_end=True,
    )


def level_range(config: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the greatest level ``b / a`` that a family's members were trained at."""
    bars = _alpha_bars(config)
    lowest, noisiest = (math.sqrt(1 / bar - 1) if bar else math.inf for bar in (bars[0], bars[-1]))
    return lowest, noisiest


def _alpha_bars(config: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """By training timestep."""
    scheduler: Any = DDIMScheduler.from_config(dict(config))
    bars: npt.NDArray[np.float64] = scheduler.alphas_cumprod.double().numpy()
    return bars


def _timestep(ratio: float, alpha_bars: npt.NDArray[np.float64]) -> float:
    alpha_bar = 1.0 / (1.0 + ratio * ratio)
    if not alpha_bars[-1] <= alpha_bar <= alpha_bars[0]:
        low, high = (np.sqrt(1.0 / bar - 1.0) for bar in (alpha_bars[0], alpha_bars[-1]))
        raise Incompatible(
            f"the family's levels of noise are from {low:.3g} to {high:.3g}, not {ratio:g}"
        )
    falling = alpha_bars[::-1]
    return float(len(alpha_bars) - 1 - np.interp(alpha_bar, falling, np.arange(len(falling))))


def _vp(alpha_bar: float) -> NoiseLevel:
    return NoiseLevel(alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5)


def _at_ratio(ratio: float) -> NoiseLevel:
    return vp_form(NoiseLevel(1.0, ratio))


def _native(sampler: SamplerName, level: NoiseLevel) -> NoiseLevel:
    """A variance-preserving level in the sampler's own form."""
    if sampler != "euler":
        return level
    if level.a == 0:
        raise Incompatible("euler cannot begin without any signal")
    return NoiseLevel(1.0, level.b / level.a)
