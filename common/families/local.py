"""Drawing with a loaded family on this machine: a whole task, or the rest of one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from baton.common.arm import Arm
from baton.common.diffusion.executor import HERE, Place, Run, resume_run, start_run, step_alone
from baton.common.expansion import plan_of
from baton.common.families.loader import Family
from baton.common.latents.state import LatentState
from baton.common.plan import Plan
from baton.common.record import ExecutedStep
from baton.common.request import Task


def begin(
    family: Family,
    task: Task,
    state: LatentState | None = None,
    place: Place = HERE,
    plan: Plan | None = None,
) -> Run:
    """A run of the task from its seed's noise, or from a state, at a place.

    plan: what its plan means here; left out, it is accelerated as far as it allows.
    Raises InvalidRequest for a bad size or blocks that a member lacks, Incompatible for a state or
    a block mask of something else.
    """
    plan = plan or family.accelerator.expand(task.plan)
    course = family.course(plan)
    conditioning = family.encode_text(task.prompt, task.negative)
    if state is not None:
        return resume_run(plan, course, conditioning, state, task.seed, place)
    shape = family.latent_shape(task.size)
    return start_run(plan, course, conditioning, task.seed, shape, place)


def run_here(
    family: Family,
    run: Run,
    stop: int,
    on_step: Callable[[ExecutedStep], None] | None = None,
) -> list[ExecutedStep]:
    """Advance a run alone to step ``stop`` with the members that its plan names."""
    executed: list[ExecutedStep] = []
    while run.step < stop:
        member = run.plan.segment_at(run.step).member
        for record in step_alone(run, family.denoiser(member)):
            executed.append(record)
            if on_step is not None:
                on_step(record)
    return executed


def use_threads(threads: int) -> None:
    """What the calling thread computes with torch takes so many threads; 0: torch's default."""
    # At its first use a thread takes the number that any thread has set last: let this be it.
    default = torch.get_num_threads()
    torch.set_num_threads(threads or default)


def warm_up(family: Family) -> None:
    """Draw once with each member, so that the first request pays no one-off costs."""
    for member in family.members:
        plan = plan_of(Arm.device(member), family.name, "ddim", 1, 2.0)
        task = Task("warm up", "", plan, seed=0, size=family.spec.default_size)
        run = begin(family, task)
        run_here(family, run, 1)
        family.decode(run.x)
