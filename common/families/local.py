"""Drawing with a loaded family on this machine: a whole task, or the rest of one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from baton.common.arm import Arm
from baton.common.diffusion.executor import step_alone
from baton.common.diffusion.run import HERE, Place, Run, resume_run, start_run
from baton.common.expansion import Terms, expand
from baton.common.families.loaded import LoadedFamily
from baton.common.latents.state import LatentState
from baton.common.plan import Guidance, Plan
from baton.common.record import ExecutedStep
from baton.common.request import Task

#: A scale of guidance at which a step takes both branches, if its member has two.
_GUIDED = 2.0


def begin(
    family: LoadedFamily,
    task: Task,
    state: LatentState | None = None,
    place: Place = HERE,
    plan: Plan | None = None,
) -> Run:
    """A run of the task from its seed's noise, or from a state, at a place, its prompts encoded.

    plan: what its plan means here; left out, it is accelerated as far as it allows.
    Raises InvalidRequest for a bad size or blocks that a member lacks, Incompatible for a state or
    a block mask of something else.
    """
    run = begin_unencoded(family, task, state, place, plan or family.accelerator.expand(task.plan))
    encode(family, [run])
    return run


def begin_unencoded(
    family: LoadedFamily, task: Task, state: LatentState | None, place: Place, plan: Plan
) -> Run:
    """The same without `encode`, which is model work."""
    course, device = family.course(plan, task.size), family.models.device
    if state is not None:
        run = resume_run(plan, course, None, state, task.seed, place, device)
    else:
        shape = family.latent_shape(task.size)
        run = start_run(plan, course, None, task.seed, shape, place, device)
    run.texts = task.prompt, task.negative_prompt
    return run


def needs_encoding(family: LoadedFamily, run: Run) -> bool:
    """Whether the member of its next step reads prompts otherwise than the one before."""
    return run.conditioning is None or run.encoder != family.models.encoder_of(run.member)


def encode(family: LoadedFamily, runs: Sequence[Run]) -> None:
    """Encode the prompts of each for the member of its next step; those of one encoder at once."""
    by_encoder: dict[Hashable, list[Run]] = {}
    for run in runs:
        by_encoder.setdefault(family.models.encoder_of(run.member), []).append(run)
    for encoder, alike in by_encoder.items():
        found = family.models.encode(alike[0].member, [run.texts for run in alike])
        for run, conditioning in zip(alike, found, strict=True):
            run.conditioning, run.encoder = conditioning, encoder


def run_here(
    family: LoadedFamily,
    run: Run,
    stop: int,
    on_step: Callable[[ExecutedStep], None] | None = None,
) -> list[ExecutedStep]:
    """Advance a run alone to step ``stop`` with the members that its plan names."""
    executed: list[ExecutedStep] = []
    while run.step < stop:
        if needs_encoding(family, run):
            encode(family, [run])
        for record in step_alone(run, family.denoiser(run.member)):
            executed.append(record)
            if on_step is not None:
                on_step(record)
    return executed


def use_threads(threads: int) -> None:
    """What the calling thread computes with torch takes so many threads; 0: torch's default."""
    # At its first use a thread takes the number that any thread has set last: let this be it.
    default = torch.get_num_threads()
    torch.set_num_threads(threads or default)


def warm_up(family: LoadedFamily) -> None:
    """Draw once with each member, so that the first request pays no one-off costs."""
    spec = family.spec
    for member in family.members:
        terms = Terms(family.name, "ddim", 1, Guidance(_GUIDED), own_guidance=spec.own_guidance)
        plan = expand(Arm.device(member), terms)
        task = Task("warm up", "", plan, seed=0, size=spec.default_size)
        run = begin(family, task)
        run_here(family, run, 1)
        family.decode(run.x)
