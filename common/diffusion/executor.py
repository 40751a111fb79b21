"""The plan executor: runs any slice of a plan, many requests in one model call.

The same code runs on an edge (rows of many requests) and on a device (rows of one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from common.diffusion.samplers import Past, advance, rescale, vp_form
from common.diffusion.schedules import Schedule
from common.errors import ExecutionFailed, Incompatible, InvalidRequest
from common.latents.state import HistoryEntry, LatentState
from common.plan import Plan


class Denoiser(Protocol):
    """A member: VP latents [B, C, H, W], timesteps [B], context [B, L, D] -> [B, C, H, W]."""

    def __call__(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompt and negative prompt, each [L, D]."""

    positive: Tensor
    negative: Tensor


@dataclass
class Run:
    """One request's denoising in progress.

    x: native latent [C, H, W]; step: steps done. Advanced by `denoise_step` alone.
    """

    plan: Plan
    schedule: Schedule
    conditioning: Conditioning
    x: Tensor
    step: int = 0
    past: Past | None = None
    error: ExecutionFailed | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.schedule.steps != self.plan.steps or self.schedule.sampler != self.plan.sampler:
            raise InvalidRequest("the schedule is not that of the plan")

    @property
    def rows(self) -> int:
        """Rows that the next step takes in a batch: two if guided."""
        return 2 if self._guided else 1

    @property
    def _guided(self) -> bool:
        return self.plan.directive_at(self.step).guided and self.plan.guidance_scale > 1.0

    def state(self) -> LatentState:
        """The paused request: everything that another node needs to go on."""
        history: tuple[HistoryEntry, ...] = ()
        if self.past is not None:
            history = (HistoryEntry(self.past.level, self.past.x0.cpu().numpy().copy()),)
        return LatentState(
            x=self.x.cpu().numpy().copy(),
            level=self.schedule.levels[self.step],
            step=self.step,
            steps=self.schedule.steps,
            sampler=self.schedule.sampler,
            history=history,
        )


def start_run(
    plan: Plan,
    schedule: Schedule,
    conditioning: Conditioning,
    seed: int,
    shape: tuple[int, int, int],
) -> Run:
    """A run from the seed's noise, the same as a diffusers pipeline with a CPU generator."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, *shape), generator=generator)[0]
    return Run(plan, schedule, conditioning, noise * schedule.initial_scale)


def resume_run(
    plan: Plan, schedule: Schedule, conditioning: Conditioning, state: LatentState
) -> Run:
    """A run that goes on from a state, history included.

    Raises Incompatible if the state belongs to another sampler, number of steps or noise level.
    """
    if state.sampler != schedule.sampler or state.steps != schedule.steps:
        raise Incompatible(
            f"the latent was made by {state.sampler} in {state.steps} steps, the plan asks for"
            f" {schedule.sampler} in {schedule.steps}"
        )
    if not state.level.same_noise(schedule.levels[state.step]):
        raise Incompatible(f"the latent's noise level is not that of step {state.step}")
    level = schedule.levels[state.step]
    x = rescale(torch.from_numpy(state.x.copy()), state.level, level)
    return Run(plan, schedule, conditioning, x, state.step, _past_of(state, schedule))


def _past_of(state: LatentState, schedule: Schedule) -> Past | None:
    if not state.history:
        return None
    newest = state.history[-1]
    if state.step == 0 or not newest.level.same_noise(schedule.levels[state.step - 1]):
        raise Incompatible(f"the latent's history is not that of step {state.step}")
    return Past(newest.level, torch.from_numpy(newest.x0.copy()))


@torch.inference_mode()
def denoise_step(runs: Sequence[Run], denoiser: Denoiser) -> int:
    """Advance every run by one step in one model call; returns the batch's number of rows.

    The runs must share member and latent shape. A run whose latent stops being finite gets its
    ``error`` set and keeps its last good latent; its neighbours go on.
    """
    latents, timesteps, contexts = [], [], []
    for run in runs:
        level = run.schedule.levels[run.step]
        x = rescale(run.x, level, vp_form(level))
        branches = [run.conditioning.positive, run.conditioning.negative][: run.rows]
        latents += [x] * len(branches)
        timesteps += [run.schedule.timesteps[run.step]] * len(branches)
        contexts += branches
    out = denoiser(torch.stack(latents), torch.tensor(timesteps), torch.stack(contexts))
    row = 0
    for run in runs:
        rows = run.rows
        _advance_run(run, _guide(out[row : row + rows], run.plan.guidance_scale))
        row += rows
    return row


def _guide(branches: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): negative + scale * (positive - negative)."""
    if len(branches) == 1:
        return branches[0]
    positive, negative = branches[0], branches[1]
    return negative + scale * (positive - negative)


def _advance_run(run: Run, out: Tensor) -> None:
    try:
        x, past = advance(run.x, out, run.schedule, run.step, run.past)
    except (ValueError, ArithmeticError) as error:  # its neighbours have their own levels and past
        run.error = ExecutionFailed(f"the sampler failed at step {run.step}: {error}")
        return
    if not torch.isfinite(x).all():
        run.error = ExecutionFailed(f"the latent stopped being finite at step {run.step}")
        return
    run.x, run.past, run.step = x, past, run.step + 1


def step_alone(run: Run, denoiser: Denoiser) -> int:
    """Advance one run by one step; returns the batch's number of rows.

    Raises ExecutionFailed if the latent stops being finite.
    """
    rows = denoise_step([run], denoiser)
    if run.error is not None:
        raise run.error
    return rows
