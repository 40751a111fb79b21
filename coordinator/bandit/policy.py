"""The choice among feasible arms: the highest upper bound, with a floor of exploration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baton.common.errors import InvalidRequest
from baton.common.explanation import ArmScore
from baton.coordinator.bandit.linucb import FloatArray
from baton.coordinator.ranking import Ranking


@dataclass(frozen=True, slots=True)
class Draw:
    """Index of the drawn arm, its probability, and whether the exploration floor drew it."""

    index: int
    propensity: float
    explored: bool


def propensities(bounds: FloatArray, exploration: float) -> FloatArray:
    """Probability of each arm [K] given the upper bounds [K]; sums to 1.

    Every arm gets ``exploration / K``; the arms that share the highest bound share the rest.
    """
    if bounds.size == 0:
        raise InvalidRequest("there is no arm to choose from")
    best = _best(bounds)
    chances: FloatArray = np.full(bounds.size, exploration / bounds.size)
    chances[best] += (1.0 - exploration) / best.size
    return chances


def draw(bounds: Sequence[float], exploration: float, rng: np.random.Generator) -> Draw:
    """Draw an arm as `propensities` says; ``rng`` also breaks ties."""
    array: FloatArray = np.asarray(bounds, dtype=np.float64)
    chances = propensities(array, exploration)
    explored = array.size > 1 and bool(rng.random() < exploration)
    pool = np.arange(array.size) if explored else _best(array)
    index = int(rng.choice(pool))
    return Draw(index, float(chances[index]), explored)


def told(drawn: Draw, feasible: Sequence[ArmScore], edges: Ranking) -> str:
    """Why this arm, in one line."""
    chosen = feasible[drawn.index]
    if len(feasible) == 1:
        line = "the only feasible arm"
    elif drawn.explored:
        line = f"exploration: drawn evenly from {len(feasible)} feasible arms"
    else:
        others = (item.bound for index, item in enumerate(feasible) if index != drawn.index)
        line = (
            f"highest upper bound of {len(feasible)} feasible arms:"
            f" {chosen.bound:.3f}, the next has {max(others):.3f}"
        )
    return line if edges.best else f"{line}; no edge can take part ({edges.complaint})"


def _best(bounds: FloatArray) -> npt.NDArray[np.intp]:
    # Bounds that differ by rounding alone are equal: they come from differently ordered sums.
    return np.flatnonzero(bounds >= bounds.max() - 1e-12)
