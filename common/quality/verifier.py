"""Scoring one picture against its prompt, where the family knows how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from baton.common.families.scenes.grammar import parse_prompt
from baton.common.families.scenes.verify import verify
from baton.common.families.scenes.worlds import world_of


@dataclass(frozen=True)
class Quality:
    """graded: 0 to 1; strict: everything holds; facts: each one by name, where there are facts."""

    graded: float
    strict: bool
    facts: Mapping[str, bool]


class Scorer(Protocol):
    """Scores a picture, uint8 [H, W, 3]; None if the prompt is beyond it."""

    def __call__(self, picture: npt.NDArray[np.uint8], prompt: str) -> Quality | None: ...


def scenes_verifier(picture: npt.NDArray[np.uint8], prompt: str) -> Quality | None:
    """The exact verifier of the built-in family, for prompts that its grammar can read."""
    try:
        verdict = verify(picture, parse_prompt(prompt, world_of(len(picture))))
    except ValueError:
        return None
    return Quality(verdict.graded, verdict.strict, verdict.facts)


def find_scorer(family: str) -> Scorer | None:
    """The scorer of a family, if it has one."""
    return scenes_verifier if family == "scenes" else None
