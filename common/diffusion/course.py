"""The noise levels of a whole plan: one schedule per grid, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

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

#: The family's schedule of a sampler, a number of steps, and the levels ``b / a`` at which it
#: begins and ends; None: at its noisiest, and its last.
MakeSchedule = Callable[[SamplerName, int, float | None, float | None], Schedule]


@dataclass(frozen=True)
class Course:
    """schedules: each begins at the level at which the one before it ends.

    Runs share one, and with it what its steps come to in numbers.
    """

    schedules: tuple[Schedule, ...]
    _moves: dict[int, Move] = field(default_factory=dict, init=False, repr=False, compare=False)

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
    def ratios(self) -> tuple[float, ...]:
        """Noise over signal, ``b / a``, before each step."""
        return tuple(level.b / level.a if level.a else math.inf for level in self.levels[:-1])

    @cached_property
    def to_vp(self) -> tuple[float, ...]:
        """Before each step, the factor from native to variance-preserving form."""
        return tuple(rescaling(level, vp_form(level)) for level in self.levels[:-1])

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
        if history is not None:
            return Move.of(Position(*self.at(step), history))
        if step not in self._moves:
            self._moves[step] = Move.of(Position(*self.at(step)))
        return self._moves[step]

    def into_next(self, step: int) -> float:
        """The factor that makes the latent after a step native to the next one."""
        schedule, index = self.at(step)
        if index + 1 < schedule.steps or step + 1 == self.steps:
            return 1.0
        return rescaling(schedule.levels[-1], self.levels[step + 1])


def make_course(
    grids: Sequence[Grid], make: MakeSchedule, named: Mapping[str, Schedule] | None = None
) -> Course:
    """The course of a plan's grids.

    named: schedules by the digests of the grids that the family names. Raises Incompatible for a
    grid that the family does not have, or whose levels lie outside the family's.
    """
    begins = [None, *(grid.until for grid in grids)]
    return Course(
        tuple(
            _named(grid, named or {})
            if grid.digest
            else make(grid.sampler, grid.steps, begin, grid.until)
            for grid, begin in zip(grids, begins, strict=False)
        )
    )


def _named(grid: Grid, named: Mapping[str, Schedule]) -> Schedule:
    found = named.get(grid.digest)
    if found is None or (found.sampler, found.steps) != (grid.sampler, grid.steps):
        raise Incompatible(f"this node has no grid {grid.name!r} of levels with that digest")
    return found
