"""Drawing with a loaded family on this machine: a whole task, or the rest of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from baton.common.diffusion.executor import Run, StepRecord, resume_run, start_run, step_alone
from baton.common.families.loader import Family
from baton.common.latents.state import LatentState
from baton.common.plan import Arm, ExecutedStep, Location, Task


def begin(family: Family, task: Task, state: LatentState | None = None) -> Run:
    """A run of the task from its seed's noise, or from a state, accelerated as its plan allows.

    Raises InvalidRequest for a bad size or blocks that a member lacks, Incompatible for a state or
    a block mask of something else.
    """
    plan = family.accelerator.expand(task.plan)
    schedule = family.schedule(plan.sampler, plan.steps)
    conditioning = family.encode_text(task.prompt, task.negative)
    if state is not None:
        return resume_run(plan, schedule, conditioning, state, task.seed)
    shape = family.latent_shape(task.size)
    return start_run(plan, schedule, conditioning, task.seed, shape)


def run_here(
    family: Family,
    run: Run,
    stop: int,
    place: tuple[Location, str],
    on_step: Callable[[ExecutedStep], None] | None = None,
) -> list[ExecutedStep]:
    """Advance a run alone to step ``stop`` with the members that its plan names.

    place: location and node id for the record, which is returned step by step.
    """
    executed: list[ExecutedStep] = []
    while run.step < stop:
        member = run.plan.segment_at(run.step).member
        for ran in step_alone(run, family.denoiser(member)):
            record = executed_step(ran, member, *place)
            executed.append(record)
            if on_step is not None:
                on_step(record)
    return executed


def executed_step(ran: StepRecord, member: str, location: Location, node_id: str) -> ExecutedStep:
    """A step's record, with where it ran and by how many threads."""
    threads = torch.get_num_threads()
    return ExecutedStep(
        member=member, location=location, node_id=node_id, threads=threads, **asdict(ran)
    )


def use_threads(threads: int) -> None:
    """What the calling thread computes with torch takes so many threads; 0: torch's default."""
    # At its first use a thread takes the number that any thread has set last: let this be it.
    default = torch.get_num_threads()
    torch.set_num_threads(threads or default)


def warm_up(family: Family) -> None:
    """Draw once with each member, so that the first request pays no one-off costs."""
    for member in family.members:
        plan = Arm("device", (member,), 0.0).expand(family.name, "ddim", 1, 2.0)
        task = Task("warm up", "", plan, seed=0, size=family.manifest.sizes.default)
        run = begin(family, task)
        run_here(family, run, 1, ("device", ""))
        family.decode(run.x)
