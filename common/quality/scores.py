"""Scores of a set of pictures: means with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """graded: mean fraction of facts that hold; strict: share of pictures with all of them.

    ci95 and strict_ci95 are bootstrap 95% intervals over pictures.
    """

    graded: float
    strict: float
    n: int
    ci95: tuple[float, float]
    strict_ci95: tuple[float, float]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def summarise(graded: Sequence[float], strict: Sequence[bool]) -> Score:
    """Sum up one score per picture. Raises ValueError without pictures."""
    if not graded or len(graded) != len(strict):
        raise ValueError("need one graded and one strict score per picture, at least one")
    return Score(
        graded=float(np.mean(graded)),
        strict=float(np.mean(strict)),
        n=len(graded),
        ci95=bootstrap_interval(graded),
        strict_ci95=bootstrap_interval(strict),
    )


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap 95% interval of the mean."""
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = data[rng.integers(len(data), size=(_RESAMPLES, len(data)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
