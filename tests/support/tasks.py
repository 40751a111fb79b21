"""Short ways to say plans, tasks and work."""

from __future__ import annotations

from collections.abc import Sequence

from baton.common.diffusion.executor import Run
from baton.common.families.loader import Family
from baton.common.families.local import begin, run_here
from baton.common.latents import Codec, LatentState
from baton.common.plan import Arm, Plan, SamplerName, Segment, StepDirective, Task
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
    arm: str = "relay:large>small@0.5",
    steps: int = 6,
    sampler: SamplerName = "ddim",
    guidance: float = 3.0,
    guided: Sequence[bool] | None = None,
) -> Plan:
    """The plan of an arm; guided: per step, instead of everywhere."""
    full = Arm.parse(arm).expand(NAME, sampler, steps, guidance)
    if guided is None:
        return full
    return with_guidance(full, guided)


def with_guidance(full: Plan, guided: Sequence[bool]) -> Plan:
    directives = tuple(StepDirective(flag) for flag in guided)
    segments = tuple(
        Segment(s.member, s.location, s.start, s.stop, directives[s.start : s.stop])
        for s in full.segments
    )
    return Plan(full.family, full.sampler, full.steps, full.guidance_scale, segments)


def task(
    of: Plan | None = None,
    prompt: str = PROMPTS[0],
    negative: str = "",
    seed: int = 0,
    size: int = SIZE,
) -> Task:
    return Task(prompt, negative, of or plan(), seed, size)


def work(
    request_id: str,
    of: Task | None = None,
    codec: Codec = Codec.FP32,
    checkpoint_every: int = 0,
    resume: LatentState | None = None,
) -> Work:
    return Work(request_id, of or task(), codec, checkpoint_every, resume)


def run_alone(family: Family, of: Task, stop: int, state: LatentState | None = None) -> Run:
    """The task's run at step ``stop``, without neighbours."""
    run = begin(family, of, state)
    run_here(family, run, stop, ("edge", "alone"))
    return run
