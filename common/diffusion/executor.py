"""The plan executor: runs any slice of a plan, many requests in one model call.

The same code runs on an edge (rows of many requests) and on a device (rows of one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from baton.common.diffusion.calls import (
    Answer,
    Ask,
    BlockCache,
    Denoiser,
    RecordedBatch,
    call,
)
from baton.common.diffusion.course import Course
from baton.common.diffusion.samplers import SamplerHistory, rescale, vp_form
from baton.common.errors import ExecutionFailed, Incompatible, InvalidRequest
from baton.common.latents.state import HistoryEntry, LatentState
from baton.common.limits import DEVICE_NODE, MAX_ROWS, Location
from baton.common.plan import Plan, Segment, followers
from baton.common.record import ExecutedStep

#: Location and node id.
Place = tuple[Location, str]
HERE: Place = ("device", DEVICE_NODE)


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompt and negative prompt, each [L, D]."""

    positive: Tensor
    negative: Tensor


@dataclass
class Run:
    """One request's denoising in progress, advanced by `denoise_step` alone.

    x: native latent [C, H, W]; prior: the unit noise it started from; step: steps done; place:
    where it runs, for the record;
    pause_every: no group of steps goes past a multiple of it, counted from the first step;
    most_rows: that a group may take; cache: block outputs of the step before, of no use to anybody
    else.
    """

    plan: Plan
    course: Course
    conditioning: Conditioning
    x: Tensor
    prior: Tensor = field(repr=False)
    step: int = 0
    place: Place = HERE
    history: SamplerHistory | None = None
    pause_every: int = 0
    most_rows: int = MAX_ROWS
    cache: BlockCache | None = field(default=None, repr=False)
    error: ExecutionFailed | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.first = self.step
        grids = [(grid.sampler, grid.steps) for grid in self.plan.grids]
        if [(part.sampler, part.steps) for part in self.course.schedules] != grids:
            raise InvalidRequest("the levels are not those of the plan")
        for segment in self.plan.segments:
            _check_guidance(segment)

    @property
    def rows(self) -> int:
        """Rows that the next step takes in a batch: two if guided, more if it decodes ahead."""
        return (2 if self.guided else 1) * (1 + self.ahead)

    @property
    def ahead(self) -> int:
        """How many steps are evaluated together with the next one."""
        limit = self.most_rows // (2 if self.guided else 1) - 1
        if self.pause_every:
            left = self.pause_every - 1 - (self.step - self.first) % self.pause_every
            limit = min(limit, left)
        return followers(self.plan.segment_at(self.step), self.step, limit)

    @property
    def guided(self) -> bool:
        """Whether the next step evaluates both branches."""
        return self.plan.guided_at(self.step)

    def state(self) -> LatentState:
        """The paused request: everything that another node needs to go on."""
        history: tuple[HistoryEntry, ...] = ()
        if self.history is not None:
            history = (HistoryEntry(self.history.level, self.history.x0.cpu().numpy().copy()),)
        return LatentState(
            x=self.x.cpu().numpy().copy(),
            level=self.course.levels[self.step],
            step=self.step,
            steps=self.course.steps,
            sampler=self.course.sampler_at(self.step),
            history=history,
        )


def _check_guidance(segment: Segment) -> None:
    """Raises Incompatible for guidance that would be passed over."""
    if segment.guidance.kind == "embedded":
        raise Incompatible(f"guidance as an input, as {segment.member} is to take it, is not known")
    if any(directive.branches == "reuse" for directive in segment.directives):
        raise Incompatible("guidance reused from an earlier step is not known")


def start_run(
    plan: Plan,
    course: Course,
    conditioning: Conditioning,
    seed: int,
    shape: tuple[int, int, int],
    place: Place = HERE,
) -> Run:
    """A run from the seed's noise, the same as a diffusers pipeline with a CPU generator."""
    noise = prior_noise(seed, shape)
    return Run(plan, course, conditioning, noise * course.initial_scale, noise, 0, place)


def prior_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The unit noise that a picture starts from."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, *shape), generator=generator)[0]


def resume_run(
    plan: Plan,
    course: Course,
    conditioning: Conditioning,
    state: LatentState,
    seed: int,
    place: Place = HERE,
) -> Run:
    """A run that goes on from a state, history included; its first step runs in full.

    Raises Incompatible as `resumed`.
    """
    x, history = resumed(state, course)
    noise = prior_noise(seed, tuple(x.shape))
    return Run(plan, course, conditioning, x, noise, state.step, place, history)


def resumed(state: LatentState, course: Course) -> tuple[Tensor, SamplerHistory | None]:
    """The latent of a state at the level of its step, and the sampler's history.

    Raises Incompatible if the state belongs to another sampler, number of steps or noise level, or
    is not finite at that level.
    """
    sampler = course.sampler_at(state.step)
    if state.sampler != sampler or state.steps != course.steps:
        raise Incompatible(
            f"the latent was made by {state.sampler} in {state.steps} steps, the plan asks for"
            f" {sampler} in {course.steps}"
        )
    if not state.level.same_noise(course.levels[state.step]):
        raise Incompatible(f"the latent's noise level is not that of step {state.step}")
    level = course.levels[state.step]
    x = rescale(torch.from_numpy(state.x.copy()), state.level, level)
    if not torch.isfinite(x).all():
        raise Incompatible(f"the latent is not finite at the noise level of step {state.step}")
    return x, _history_of(state, course)


def _history_of(state: LatentState, course: Course) -> SamplerHistory | None:
    if not state.history:
        return None
    newest, level = state.history[-1], course.levels[state.step]
    before = [above for above in course.levels[: state.step] if above.noisier_than(level)]
    if not before or not newest.level.same_noise(before[-1]):
        raise Incompatible(f"the latent's history is not that of step {state.step}")
    return SamplerHistory(newest.level, torch.from_numpy(newest.x0.copy()))


@torch.inference_mode()
def denoise_step(
    runs: Sequence[Run], denoiser: Denoiser, recorded: RecordedBatch | None = None
) -> list[list[ExecutedStep]]:
    """Advance every run by one step, or by one group of them, in one model call.

    Returns by run the steps that it took. The runs must share member and latent shape. A run whose
    latent stops being finite gets its ``error`` set and keeps its last good latent; its neighbours
    go on. recorded: for a single run, the batch that it was part of when it ran before.
    """
    asks = [_ask(run) for run in runs]
    answers = call(denoiser, asks, recorded)
    records = _records(runs, asks, answers)
    for run, answer, taken in zip(runs, answers, records, strict=True):
        _advance_group(run, answer, taken)
    return records


def _ask(run: Run) -> Ask:
    segment, level = run.plan.segment_at(run.step), run.course.levels[run.step]
    contexts = (run.conditioning.positive, run.conditioning.negative)
    stop = run.step + 1 + run.ahead
    return Ask(
        segment=segment,
        step=run.step,
        latent=rescale(_noised(run), level, vp_form(level)),
        timesteps=tuple(run.course.timesteps[run.step : stop]),
        contexts=contexts if run.guided else contexts[:1],
        cache=run.cache,
    )


def _noised(run: Run) -> Tensor:
    """The latent with the step's share of prior noise (Faster Diffusion, Sec. 3.3), native form.

    The paper adds ``share * z_T`` to a latent in VP form.
    """
    share = run.plan.directive_at(run.step).prior_noise
    if not share:
        return run.x
    level = run.course.levels[run.step]
    return run.x + rescale(share * run.prior, vp_form(level), level)


def _records(
    runs: Sequence[Run], asks: Sequence[Ask], answers: Sequence[Answer]
) -> list[list[ExecutedStep]]:
    total, row = sum(ask.rows for ask in asks), 0
    patterns = _patterns(asks, answers)
    threads, records = torch.get_num_threads(), []
    for run, ask, answer in zip(runs, asks, answers, strict=True):
        taken = []
        for index, bits in enumerate(answer.bits):
            step = ask.step + index
            taken.append(
                ExecutedStep(
                    step=step,
                    member=ask.segment.member,
                    location=run.place[0],
                    node_id=run.place[1],
                    branches="both" if len(ask.contexts) == 2 else "positive",
                    rows=total,
                    threads=threads,
                    row=row + index * len(ask.contexts),
                    blocks=bits,
                    ahead=0 if index else ask.steps - 1,
                    prior_noise=run.plan.directive_at(step).prior_noise,
                    neighbours=patterns,
                )
            )
        records.append(taken)
        row += ask.rows
    return records


def _patterns(asks: Sequence[Ask], answers: Sequence[Answer]) -> tuple[tuple[int, int | None], ...]:
    """(rows, blocks) in the order of the batch, where several runs do not all run the same.

    Rows that run the same one after the other are told as one: each run's record holds all this,
    at each of its steps.
    """
    if len(asks) == 1 or all(answer.bits == [None] for answer in answers):
        return ()
    rows = (
        (bits, len(ask.contexts))
        for ask, answer in zip(asks, answers, strict=True)
        for bits in answer.bits
    )
    return tuple(
        (sum(count for _, count in alike), bits) for bits, alike in groupby(rows, itemgetter(0))
    )


def _guide(branches: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): negative + scale * (positive - negative)."""
    if len(branches) == 1:
        return branches[0]
    positive, negative = branches[0], branches[1]
    return negative + scale * (positive - negative)


def _advance_group(run: Run, answer: Answer, taken: list[ExecutedStep]) -> None:
    """Take the sampler through what the call evaluated; ``taken`` keeps only steps that succeed."""
    for index, branches in enumerate(answer.out):
        _advance_run(run, _guide(branches, run.plan.segment_at(run.step).guidance.scale))
        if run.error is not None:
            del taken[index:]
            return
    run.cache = answer.cache


def _advance_run(run: Run, out: Tensor) -> None:
    try:
        x, history = run.course.advance(_noised(run), out, run.step, run.history)
    except (ValueError, ArithmeticError) as error:  # its neighbours have levels of their own
        run.error = ExecutionFailed(f"the sampler failed at step {run.step}: {error}")
        return
    if not torch.isfinite(x).all():
        run.error = ExecutionFailed(f"the latent stopped being finite at step {run.step}")
        return
    run.x, run.history, run.step = x, history, run.step + 1


def step_alone(
    run: Run, denoiser: Denoiser, recorded: RecordedBatch | None = None
) -> list[ExecutedStep]:
    """Advance one run by one step or group; returns the steps that it took.

    recorded: as for `denoise_step`. Raises ExecutionFailed if the latent stops being finite.
    """
    taken = denoise_step([run], denoiser, recorded)[0]
    if run.error is not None:
        raise run.error
    return taken
