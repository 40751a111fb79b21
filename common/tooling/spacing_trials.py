"""What grids of noise levels are worth on one set of pictures, drawn with a family's members."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from baton.common.diffusion.course import Course
from baton.common.families.grids import LevelGrid
from baton.common.families.loaded import LoadedFamily
from baton.common.plan import OpenPlan
from baton.common.quality.verifier import Scorer
from baton.common.tooling.drawing import Pictures
from baton.common.tooling.spacing import Sample, SpacingTerms
from baton.common.tooling.spacing_search import Levels, Values


class DrawnTrials:
    """`Trials` of one sample; what was drawn of a grid is kept.

    Columns are the score, where the family's scorer is what counts, and the nearness: minus the
    mean squared distance of the last latent to that of many steps. Several arms count alike.
    """

    def __init__(
        self,
        family: LoadedFamily,
        terms: SpacingTerms,
        sample: Sample,
        on_step: Callable[[int], None],
    ) -> None:
        self._family, self.terms = family, terms
        self._pictures = Pictures(family, sample.prompts, sample.seed, on_step)
        self._values: dict[Levels, Values] = {}
        self._aims: Tensor | None = None

    def __len__(self) -> int:
        return len(self._pictures)

    def __call__(self, levels: Levels, pictures: int) -> Values:
        known = self._values.get(levels, np.empty((0, 2 if self.terms.scorer else 1)))
        seen = len(known)
        if seen < pictures:
            course, plans = self.course(levels), self.terms.plans
            added = np.mean([self._drawn(plan, course, seen, pictures) for plan in plans], axis=0)
            self._values[levels] = known = np.concatenate([known, added])
        return known[:pictures]

    def prepare(self) -> Tensor:
        """The latents [n, C, H, W] to which many steps lead, of all pictures; drawn once."""
        if self._aims is None:
            plan = self.terms.reference
            self._aims = self._latents(plan, self.plain(plan), 0, len(self))
        return self._aims

    def grid(self, levels: Levels) -> LevelGrid:
        """As the family may name it."""
        steps, sampler = self.terms.steps, self.terms.sampler
        return self._family.level_grid(f"spaced-{steps}", sampler, levels)

    def course(self, levels: Levels) -> Course:
        return self._family.course_of(self.grid(levels))

    def plain(self, plan: OpenPlan) -> Course:
        """On the family's own grid."""
        return self._family.course(plan)

    def objective(self, plan: OpenPlan, course: Course) -> Values:
        """The first column of all pictures, [n], of one arm."""
        latents = self._latents(plan, course, 0, len(self))
        if self.terms.scorer is None:
            return self._nearness(latents, 0)
        return self._scores(self.terms.scorer, latents, 0)

    def _drawn(self, plan: OpenPlan, course: Course, start: int, stop: int) -> Values:
        latents = self._latents(plan, course, start, stop)
        columns = [self._nearness(latents, start)]
        if self.terms.scorer is not None:
            columns.insert(0, self._scores(self.terms.scorer, latents, start))
        return np.stack(columns, axis=1)

    def _nearness(self, latents: Tensor, start: int) -> Values:
        away = latents - self.prepare()[start : start + len(latents)]
        nearness: Values = -away.square().flatten(1).double().mean(dim=1).cpu().numpy()
        return nearness

    @torch.inference_mode()
    def _scores(self, scorer: Scorer, latents: Tensor, start: int) -> Values:
        """0 where a prompt turns out to be beyond the scorer."""
        prompts = self._pictures.prompts[start:]
        qualities = [
            scorer(self._family.decode(latent), prompt)
            for latent, prompt in zip(latents, prompts, strict=False)
        ]
        return np.array([quality.graded if quality else 0.0 for quality in qualities])

    def _latents(self, plan: OpenPlan, course: Course, start: int, stop: int) -> Tensor:
        return self._pictures.latents(plan.closed(), course, start, stop)
