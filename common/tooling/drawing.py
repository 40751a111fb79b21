"""Many pictures of one plan drawn at once, for measurements that compare plans."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.course import Course
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise
from baton.common.diffusion.run import Run, start_run
from baton.common.diffusion.work import StepWork
from baton.common.families.loaded import LoadedFamily
from baton.common.guidance import GuidanceBudget
from baton.common.plan import Plan

#: Pictures in one model call.
BATCH = 25


class Pictures:
    """Prompts and noises from which every plan is drawn: picture i from seed ``seed + i``.

    on_step: called after each model call with the pictures that it moved by a step.
    """

    def __init__(
        self,
        family: LoadedFamily,
        prompts: Sequence[str],
        seed: int,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.family, self.prompts, self._seed = family, prompts, seed
        self._on_step = on_step
        self._encoded: dict[Hashable, list[Conditioning]] = {}

    def __len__(self) -> int:
        return len(self.prompts)

    def batches(self, start: int, stop: int) -> list[range]:
        """Of pictures ``start <= i < stop``, as many as one call takes."""
        return [range(at, min(at + BATCH, stop)) for at in range(start, stop, BATCH)]

    def begin(self, plan: Plan, course: Course, chosen: range) -> list[Run]:
        """Runs from the pictures' noises."""
        shape = self.family.latent_shape(self.family.spec.default_size)
        device = self.family.models.device
        return [
            start_run(plan, course, None, self._seed + index, shape, device=device)
            for index in chosen
        ]

    def step(self, runs: Sequence[Run], chosen: range, budget: GuidanceBudget | None = None) -> int:
        """Move runs that `begin` made by a step; returns how many rows each of them took.

        budget: of guidance, left out wherever that may be. Raises ExecutionFailed.
        """
        member = runs[0].member
        for run, conditioning in zip(runs, self.encoded(member, chosen), strict=True):
            run.conditioning = conditioning
        denoiser = self.family.denoiser(member)
        parts = [(run, _work(run, denoiser, budget)) for run in runs]
        denoise(parts, denoiser)
        for run in runs:
            if run.error is not None:
                raise run.error
        self._on_step(len(runs))
        return parts[0][1].rows

    def encoded(self, member: str, chosen: range) -> Sequence[Conditioning]:
        """The pictures' prompts for a member; encoded once."""
        encoder = self.family.models.encoder_of(member)
        known = self._encoded.setdefault(encoder, [])
        for batch in self.batches(len(known), chosen.stop):
            texts = [(self.prompts[index], "") for index in batch]
            known += self.family.models.encode(member, texts)
        return known[chosen.start : chosen.stop]

    def latents(self, plan: Plan, course: Course, start: int, stop: int) -> Tensor:
        """The last latents of pictures ``start <= i < stop`` [n, C, H, W], as the sampler has them.

        Raises ExecutionFailed if one stops being finite.
        """
        done: list[Tensor] = []
        for chosen in self.batches(start, stop):
            runs = self.begin(plan, course, chosen)
            for _ in range(plan.steps):
                self.step(runs, chosen)
            done += [run.x for run in runs]
        return torch.stack(done)


def _work(run: Run, denoiser: Denoiser, budget: GuidanceBudget | None) -> StepWork:
    """Of the next step alone."""
    lean = None if budget is None else run.lean_work(denoiser.graph, budget, budget.after)
    return (lean or run.work(denoiser.graph)).first(1)
