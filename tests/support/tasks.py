"""Short ways to say plans, tasks and work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from baton.common.arm import Arm
from baton.common.diffusion.run import Run
from baton.common.expansion import plan_of
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here
from baton.common.latents import Codec, LatentState
from baton.common.limits import Accel, SamplerName
from baton.common.plan import Grid, Guidance, OpenPlan, OpenSegment, StepDirective
from baton.common.request import Task
from baton.common.size import Size
from baton.edge_server.engine.job import Work
from tests.support.families import NAME, SIZE

PROMPTS = (
    "a red cat",
    "two blue houses on a night background",
    "a small tree left of a large pink ring",
    "a photo of three orange stars",
    "an orange car above a cyan fish on a snow background",
)


def plan(
    arm: str = "edge/large@0.5>device/small",
    steps: int = 6,
    sampler: SamplerName = "ddim",
    guidance: float = 3.0,
    guided: Sequence[bool] | None = None,
) -> OpenPlan:
    """The plan of an arm; guided: per step, instead of everywhere."""
    full = plan_of(Arm.parse(arm), NAME, sampler, steps, guidance)
    if guided is None:
        return full
    return with_guidance(full, guided)


def with_guidance(full: OpenPlan, guided: Sequence[bool]) -> OpenPlan:
    directives = tuple(StepDirective("both" if flag else "positive") for flag in guided)
    segments = tuple(
        replace(segment, directives=directives[segment.start : segment.stop])
        for segment in full.segments
    )
    return replace(full, segments=segments)


def accelerated(of: OpenPlan, accel: Accel) -> OpenPlan:
    """The same plan, with its steps made cheaper everywhere."""
    return replace(of, segments=tuple(replace(item, accel=accel) for item in of.segments))


def segments_of(
    sampler: SamplerName,
    guidance: float,
    *stretches: tuple[Any, ...],
) -> tuple[OpenSegment, ...]:
    """Segments (member, place, start, stop[, directives]) on one grid."""
    grid = Grid(sampler, 0, max(stretch[3] for stretch in stretches))
    return tuple(
        OpenSegment(*stretch[:4], grid, Guidance(guidance), *stretch[4:]) for stretch in stretches
    )


def plan_in(
    family: str, sampler: SamplerName, guidance: float, *stretches: tuple[Any, ...]
) -> OpenPlan:
    """A plan of such segments."""
    return OpenPlan(family, segments_of(sampler, guidance, *stretches))


def task(
    of: OpenPlan | None = None,
    prompt: str = PROMPTS[0],
    negative: str = "",
    seed: int = 0,
    size: int = SIZE,
) -> Task:
    return Task(prompt, negative, of or plan(), seed, Size.of(size))


def work(
    request_id: str,
    of: Task | None = None,
    codec: Codec = Codec.FP32,
    checkpoint_every: int = 0,
    resume: LatentState | None = None,
) -> Work:
    drawn = of or task()
    return Work(request_id, drawn, drawn.plan.closed(), codec, checkpoint_every, resume)


def run_alone(family: LoadedFamily, of: Task, stop: int, state: LatentState | None = None) -> Run:
    """The task's run at step ``stop``, without neighbours."""
    run = begin(family, of, state, ("edge", "alone"))
    run_here(family, run, stop)
    return run
