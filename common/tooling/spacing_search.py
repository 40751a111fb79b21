"""The search for a grid of noise levels, whatever is asked of it. No torch.

First a coarse set by successive halving (Jamieson and Talwalkar 2016): all on a few pictures, the
better half on twice as many, and so on. Then coordinate descent on the logarithms of the best one's
levels, where a candidate that falls behind early is dropped, as in a race, and one that wins does
so by more than the standard error of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Protocol

import numpy as np
import numpy.typing as npt

#: The levels ``b / a`` before every step of a grid but the first, from the noisiest.
Levels = tuple[float, ...]
#: By picture [n, k]: greater is better, a later column decides where those before it tie.
Values = npt.NDArray[np.float64]

_FIRST = (2.5, 4.0, 6.5, 10.0)
_LAST = (0.1, 0.2, 0.35, 0.6, 1.0)
#: Karras et al. 2022, Eq. 5: the greater rho, the denser the low levels; inf falls geometrically.
_RHO = (2.0, 5.0, math.inf)
_SWEEPS = ((0.8, 1.25), (0.8, 1.25), (0.9, 1.1), (0.9, 1.1))
#: Of the pictures on which the coarse set, and a race, begins, until they are all.
_DOUBLINGS = 2


class Trials(Protocol):
    """Values of a grid on the first ``pictures`` of one set, the same for every grid."""

    def __call__(self, levels: Levels, pictures: int) -> Values: ...


@dataclass(frozen=True)
class Trial:
    """A grid that was tried. means: of its values by column; kept: whether it went on."""

    stage: str
    levels: Levels
    pictures: int
    means: tuple[float, ...]
    kept: bool


def rounded(levels: Sequence[float]) -> Levels:
    """To three significant digits."""
    return tuple(float(f"{level:.3g}") for level in levels)


def coarse_set(inner: int, lowest: float, noisiest: float) -> list[Levels]:
    """Grids of so many inner levels of a family whose levels are from ``lowest`` to ``noisiest``.

    They differ in first and last level and in how they are spaced; latents have unit variance, so
    that the same levels mean the same for all families.
    """
    firsts = [level for level in _FIRST if level < noisiest] or [math.sqrt(lowest * noisiest)]
    lasts = [level for level in _LAST if level >= lowest] or [lowest]
    if inner == 1:
        return [(level,) for level in rounded(sorted({*firsts, *lasts}, reverse=True))]
    found = (rounded(_karras(inner, *ends)) for ends in product(firsts, lasts, _RHO))
    return list(dict.fromkeys(levels for levels in found if falls(levels)))


def falls(levels: Sequence[float]) -> bool:
    return all(one > two for one, two in pairwise(levels))


def _karras(inner: int, first: float, last: float, rho: float) -> list[float]:
    shares = np.linspace(0.0, 1.0, inner)
    if math.isinf(rho):
        return [float(level) for level in first * (last / first) ** shares]
    ends = first ** (1 / rho), last ** (1 / rho)
    return [float(level) for level in (ends[0] + shares * (ends[1] - ends[0])) ** rho]


class Search:
    """trail: what was tried, in order.

    allowed: which grids may be tried; on_trial: called before each with its stage and the most
    pictures that may still have to be drawn.
    """

    def __init__(
        self,
        trials: Trials,
        pictures: int,
        allowed: Callable[[Levels], bool],
        on_trial: Callable[[str, int], None],
    ) -> None:
        self._trials, self._pictures = trials, pictures
        self._allowed, self._on_trial = allowed, on_trial
        self.trail: list[Trial] = []

    def best_of(self, starts: Sequence[Levels]) -> Levels:
        """Successive halving. Raises ValueError without any start."""
        field, seen, left = list(starts), 0, self.most(starts)
        for pictures in self._rounds():
            added, kept = pictures - seen, -(-len(field) // 2)
            last = pictures == self._pictures
            later = left - len(field) * added
            means: dict[Levels, tuple[float, ...]] = {}
            for index, levels in enumerate(field):
                self._on_trial("coarse", (len(field) - index) * added + later)
                means[levels] = _means(self._trials(levels, pictures))
            ranked = sorted(field, key=means.__getitem__, reverse=True)
            field, seen, left = ranked[: 1 if last else kept], pictures, later
            for levels in ranked:
                self._note("coarse", levels, pictures, means[levels], levels in field)
        if not field:
            raise ValueError("nothing to search among")
        return field[0]

    def most(self, starts: Sequence[Levels]) -> int:
        """The most pictures that a search from these draws."""
        total, seen, field = 0, 0, len(starts)
        for pictures in self._rounds():
            total, seen, field = total + field * (pictures - seen), pictures, -(-field // 2)
        moves = sum(2 * len(levels) for levels in starts[:1]) * len(_SWEEPS)
        return total + moves * self._pictures

    def _rounds(self) -> list[int]:
        """Pictures on which a candidate is looked at, one time after the other."""
        shares = (-(-self._pictures // 2**left) for left in range(_DOUBLINGS, -1, -1))
        return list(dict.fromkeys(shares))

    def descend(self, best: Levels) -> Levels:
        """Coordinate descent: each level moved by a factor, wherever that is better."""
        tried, left = {best}, len(_SWEEPS) * 2 * len(best)
        for number, factors in enumerate(_SWEEPS, 1):
            for index, factor in product(range(len(best)), factors):
                moved = _moved(best, index, factor)
                self._on_trial(f"sweep {number}", left * self._pictures)
                left -= 1
                if moved in tried or not (falls(moved) and self._allowed(moved)):
                    continue
                tried.add(moved)
                if self._wins(f"sweep {number}", moved, best):
                    best = moved
        return best

    def _wins(self, stage: str, levels: Levels, best: Levels) -> bool:
        """Whether it beats the best; a race that ends where it is clearly behind."""
        for pictures in self._rounds():
            values = self._trials(levels, pictures)
            gains = values - self._trials(best, pictures)
            last, wins = pictures == self._pictures, _clearly_above(gains)
            if last or _clearly_above(-gains):
                self._note(stage, levels, pictures, _means(values), wins and last)
                return wins and last
        raise AssertionError("the last round takes all pictures")

    def _note(
        self, stage: str, levels: Levels, pictures: int, means: tuple[float, ...], kept: bool
    ) -> None:
        self.trail.append(Trial(stage, levels, pictures, means, kept))


def _moved(levels: Levels, index: int, factor: float) -> Levels:
    return rounded([*levels[:index], levels[index] * factor, *levels[index + 1 :]])


def _means(values: Values) -> tuple[float, ...]:
    return tuple(float(mean) for mean in values.mean(axis=0))


def _clearly_above(gains: Values) -> bool:
    """By more than its standard error, in the first column in which anything differs.

    Without that margin the best of many alike would be the one that these pictures favour.
    """
    for column in gains.T:
        if column.any():
            error = column.std(ddof=1) / math.sqrt(len(column)) if len(column) > 1 else 0.0
            return bool(column.mean() > error)
    return False
