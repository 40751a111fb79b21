"""Times plans in this process: one thread draws and decodes, one picture at a time.

Times are compared within one interleaved run only: each round draws every plan once, in a new order
and with another prompt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here, use_threads
from baton.common.families.scenes.evaluate import Case
from baton.common.limits import Location
from baton.common.plan import OpenPlan
from baton.common.request import Task


def one_thread() -> None:
    """Call first: where edge and device are one process, OpenMP teams disturb one another.

    The built-in members gain nothing from a second thread.
    """
    torch.set_num_threads(1)


def task_of(family: LoadedFamily, plan: OpenPlan, case: Case) -> Task:
    return Task(case.prompt, "", plan, case.seed, family.spec.default_size)


@dataclass(frozen=True)
class Drawn:
    """Seconds of one picture. edge: what the plan leaves to an edge, decoding there included."""

    total: float
    edge: float


def draw_here(family: LoadedFamily, task: Task) -> Drawn:
    """Draw a task alone, prompt and decoding included, with the calling thread."""
    spent: dict[Location, float] = {"edge": 0.0, "device": 0.0}
    begun = before = time.perf_counter()
    run = begin(family, task)
    while run.step < task.plan.steps:
        place = task.plan.segment_at(run.step).location
        run_here(family, run, task.plan.stretch_end(run.step))
        if run.step == task.plan.steps:
            family.decode(run.x)
        now = time.perf_counter()
        spent[place] += now - before
        before = now
    return Drawn(before - begun, spent["edge"])


def time_plans(
    family: LoadedFamily, plans: Mapping[str, OpenPlan], cases: Sequence[Case], title: str
) -> dict[str, list[Drawn]]:
    """One time per plan and case, a round for each case, on a fresh thread as a node's is."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_time_plans, family, plans, cases, title).result()


def _time_plans(
    family: LoadedFamily, plans: Mapping[str, OpenPlan], cases: Sequence[Case], title: str
) -> dict[str, list[Drawn]]:
    use_threads(1)
    rng, names = np.random.default_rng(0), list(plans)
    with_members = {s.member: plan for plan in plans.values() for s in plan.segments}
    for plan in with_members.values():
        draw_here(family, task_of(family, plan, cases[0]))  # a member's first call is slow
    found: dict[str, list[Drawn]] = {name: [] for name in names}
    for case in track(cases, description=f"{title:<12}", transient=True):
        for index in rng.permutation(len(names)):
            name = names[index]
            found[name].append(draw_here(family, task_of(family, plans[name], case)))
    return found
