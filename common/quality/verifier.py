"""Scoring one picture against its prompt, where the family knows how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Quality:
    """graded: 0 to 1; strict: everything holds; facts: each one by name, where there are facts."""

    graded: float
    strict: bool
    facts: Mapping[str, bool]


class Scorer(Protocol):
    """Scores a picture, uint8 [H, W, 3]; None if the prompt is beyond it."""

    def __call__(self, picture: npt.NDArray[np.uint8], prompt: str) -> Quality | None: ...
