"""Prompts of the grammar with the seeds of their noise. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from baton.common.families.scenes.grammar import SceneSpec, sample_prompt
from baton.common.families.scenes.worlds import World


@dataclass(frozen=True)
class Case:
    """One prompt to draw, with what it means and the seed of its noise."""

    prompt: str
    spec: SceneSpec
    seed: int


def seeded_cases(world: World, count: int, seed: int = 0, task: str | None = None) -> list[Case]:
    """The same prompts and noise seeds for the same arguments, whichever member draws them."""
    rng = np.random.default_rng([seed, 7])
    return [Case(*sample_prompt(rng, world, task), seed=seed * 1_000_000 + i) for i in range(count)]
