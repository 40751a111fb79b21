"""What the family registers: its scorer and its prompts. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from baton.common.families.scenes.cases import seeded_cases
from baton.common.families.scenes.grammar import parse_prompt
from baton.common.families.scenes.verify import verify
from baton.common.families.scenes.worlds import world_of
from baton.common.quality.verifier import Quality


def scenes_verifier(picture: npt.NDArray[np.uint8], prompt: str) -> Quality | None:
    """The exact verifier, for prompts that the grammar can read."""
    try:
        verdict = verify(picture, parse_prompt(prompt, world_of(len(picture))))
    except ValueError:
        return None
    return Quality(verdict.graded, verdict.strict, verdict.facts)


def scenes_prompts(size: int, count: int, seed: int) -> list[str]:
    """Of the world that pictures of this side show."""
    return [case.prompt for case in seeded_cases(world_of(size), count, seed)]
