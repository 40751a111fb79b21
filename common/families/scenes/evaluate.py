"""Draws seeded prompts with members of the family and scores the pictures with the verifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baton.common.arm import Arm
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.run import Run, start_run
from baton.common.expansion import plan_of
from baton.common.families.loaded import LoadedFamily
from baton.common.families.scenes.cases import Case, seeded_cases
from baton.common.families.scenes.grammar import GENEVAL_TASKS
from baton.common.families.scenes.verify import Verdict, verify
from baton.common.families.scenes.worlds import World, world_of
from baton.common.plan import OpenPlan
from baton.common.quality.scores import Score, summarise

__all__ = ["Case", "Drawn", "draw", "member_plan", "score", "score_by_task", "seeded_cases"]

_BATCH = 25


@dataclass(frozen=True)
class Drawn:
    """A case with its picture, uint8 [H, W, 3], and the verdict."""

    case: Case
    picture: npt.NDArray[np.uint8]
    verdict: Verdict


def world_drawn_by(family: LoadedFamily) -> World:
    """The world that a family of scenes draws. Raises ValueError for another family's size."""
    return world_of(family.spec.sizes.default)


def whole_members(family: LoadedFamily) -> tuple[str, ...]:
    """Loaded members that draw a picture alone, from the largest to the smallest."""
    return tuple(name for name in family.members if name not in family.spec.partial_members)


def draw(family: LoadedFamily, plan: OpenPlan, cases: Sequence[Case]) -> list[Drawn]:
    """Draw every case with a plan, all of its members local, in batches."""
    drawn: list[Drawn] = []
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        for case, run in zip(batch, _run_batch(family, plan, batch), strict=True):
            picture = family.decode(run.x)
            drawn.append(Drawn(case, picture, verify(picture, case.spec)))
    return drawn


def _run_batch(family: LoadedFamily, plan: OpenPlan, batch: Sequence[Case]) -> list[Run]:
    expanded, course = family.accelerator.expand(plan), family.course(plan)
    shape = family.latent_shape(family.spec.sizes.default)
    runs = [
        start_run(expanded, course, family.encode_text(case.prompt), case.seed, shape)
        for case in batch
    ]
    while runs[0].step < plan.steps:  # all take the same steps together
        denoise_step(runs, family.denoiser(runs[0].member))
    return runs


def member_plan(family: LoadedFamily, member: str, steps: int = 50) -> OpenPlan:
    """One member, DDIM, guided, at the family's default scale."""
    guidance = family.spec.default_guidance
    return plan_of(Arm.device(member), family.name, "ddim", steps, guidance)


def score(drawn: Sequence[Drawn]) -> Score:
    return summarise(
        [item.verdict.graded for item in drawn], [item.verdict.strict for item in drawn]
    )


def score_by_task(drawn: Sequence[Drawn]) -> dict[str, Score]:
    """Scores per task, over GenEval's six under ``geneval``, and over all under ``overall``."""
    tasks = sorted({item.case.spec.task for item in drawn})
    groups = {task: [item for item in drawn if item.case.spec.task == task] for task in tasks}
    groups["geneval"] = [item for item in drawn if item.case.spec.task in GENEVAL_TASKS]
    scores = {task: score(items) for task, items in groups.items() if items}
    return {"overall": score(drawn), **scores}
