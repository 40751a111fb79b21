"""Drawing with a loaded family on this machine: a whole task, or the rest of one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from common.diffusion.executor import Run, resume_run, start_run, step_alone
from common.families.loader import Family
from common.latents.state import LatentState
from common.plan import Arm, ExecutedStep, Location, Task


def begin(family: Family, task: Task, state: LatentState | None = None) -> Run:
    """A run of the task from its seed's noise, or from a state.

    Raises InvalidRequest for a bad size, Incompatible for a state of another plan.
    """
    schedule = family.schedule(task.plan.sampler, task.plan.steps)
    conditioning = family.encode_text(task.prompt, task.negative)
    if state is not None:
        return resume_run(task.plan, schedule, conditioning, state)
    shape = family.latent_shape(task.size)
    return start_run(task.plan, schedule, conditioning, task.seed, shape)


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
        step, member = run.step, run.plan.segment_at(run.step).member
        guided = run.rows == 2
        rows = step_alone(run, family.denoiser(member))
        record = ExecutedStep(step, member, *place, guided, rows, torch.get_num_threads())
        executed.append(record)
        if on_step is not None:
            on_step(record)
    return executed


def warm_up(family: Family) -> None:
    """Draw once with each member, so that the first request pays no one-off costs."""
    for member in family.members:
        plan = Arm("device", (member,), 0.0).expand(family.name, "ddim", 1, 2.0)
        task = Task("warm up", "", plan, seed=0, size=family.manifest.sizes.default)
        run = begin(family, task)
        run_here(family, run, 1, ("device", ""))
        family.decode(run.x)
