"""The noise levels of a whole plan: one schedule per grid, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from diffusers import DDIMScheduler
from torch import Tensor

from baton.common.diffusion.samplers import (
    Move,
    Position,
    SamplerHistory,
    advance_rows,
    rescaling,
    vp_form,
)
from baton.common.diffusion.schedules import Schedule
from baton.common.errors import Incompatible
from baton.common.latents.state import NoiseLevel
from baton.common.limits import SamplerName
from baton.common.plan import Grid

MakeSchedule = Callable[[SamplerName, int], Schedule]


@dataclass(frozen=True)
class Course:
    """schedules: each begins at the level at which the one before it ends."""

    schedules: tuple[Schedule, ...]

    @cached_property
    def steps(self) -> int:
        return sum(schedule.steps for schedule in self.schedules)

    @property
    def initial_scale(self) -> float:
        """Factor that turns unit noise into the first native latent."""
        return self.schedules[0].initial_scale

    @cached_property
    def levels(self) -> tuple[NoiseLevel, ...]:
        """Before each step, native to its own sampler, and after the last one; length N + 1."""
        before = [level for schedule in self.schedules for level in schedule.levels[:-1]]
        return (*before, self.schedules[-1].levels[-1])

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        return tuple(t for schedule in self.schedules for t in schedule.timesteps)

    def at(self, step: int) -> tuple[Schedule, int]:
        """The schedule of a step and the step's number in it. Raises IndexError past the end."""
        for schedule in self.schedules:
            if step < schedule.steps:
                return schedule, step
            step -= schedule.steps
        raise IndexError("past the last step")

    def sampler_at(self, step: int) -> SamplerName:
        """Whose native form the latent has before that step, and after the last one."""
        return self.at(min(step, self.steps - 1))[0].sampler

    def advance(
        self, x: Tensor, out: Tensor, step: int, history: SamplerHistory | None
    ) -> tuple[Tensor, SamplerHistory | None]:
        """One step as `samplers.advance`; the latent comes out native to the next step."""
        moved, kept = advance_rows(x[None], out[None], [self.move(step, history)])
        return moved[0] * self.into_next(step), kept[0]

    def move(self, step: int, history: SamplerHistory | None) -> Move:
        """What `advance_rows` takes for a step. Raises as `Move.of`."""
        return Move.of(Position(*self.at(step), history))

    def into_next(self, step: int) -> float:
        """The factor that makes the latent after a step native to the next one."""
        schedule, index = self.at(step)
        if index + 1 < schedule.steps or step + 1 == self.steps:
            return 1.0
        return rescaling(schedule.levels[-1], self.levels[step + 1])


def make_course(
    grids: Sequence[Grid],
    make: MakeSchedule,
    config: Mapping[str, Any],
    named: Mapping[str, Schedule] | None = None,
) -> Course:
    """The course of a plan's grids. make: the family's schedule of a sampler and number of steps.

    named: schedules by the digests of the grids that the family names. Raises Incompatible for a
    grid that the family does not have, or whose levels lie outside the family's.
    """
    begins = [None, *(grid.until for grid in grids)]
    schedules = []
    for grid, begin in zip(grids, begins, strict=False):
        if grid.digest:
            schedules.append(_named(grid, named or {}))
        elif begin is None and grid.until is None:
            schedules.append(make(grid.sampler, grid.steps))
        else:
            schedules.append(_between(make(grid.sampler, grid.steps), config, begin, grid.until))
    return Course(tuple(schedules))


def _named(grid: Grid, named: Mapping[str, Schedule]) -> Schedule:
    found = named.get(grid.digest)
    if found is None or (found.sampler, found.steps) != (grid.sampler, grid.steps):
        raise Incompatible(f"this node has no grid {grid.name!r} of levels with that digest")
    return found


def _between(
    plain: Schedule, config: Mapping[str, Any], begin: float | None, until: float | None
) -> Schedule:
    """As many steps as ``plain`` has, evenly spaced in training timesteps from level to level.

    begin, until: levels ``b / a``; None: the family's noisiest, and its last. Timesteps between two
    that were trained have a level between theirs.
    """
    scheduler: Any = DDIMScheduler.from_config(dict(config))
    alpha_bars = scheduler.alphas_cumprod.double().numpy()
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
