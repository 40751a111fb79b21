"""How the figures of the curve are defined: differences, margins, times at equal score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]

#: What may be lost, with confidence, where a score is said to be kept.
GRADED_MARGIN = 0.03
#: The same where two scores are said to be equal.
EQUAL_MARGIN = 0.025

_RESAMPLES = 4000
_CHUNK = 500
_SIGNS = 10_000


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Loss:
    """How the scores of a configuration differ from the reference's on the same prompts."""

    graded: Difference
    strict: Difference

    def as_dict(self) -> dict[str, float]:
        return {
            f"{score}_minus_reference{suffix}": value
            for score, difference in (("graded", self.graded), ("strict", self.strict))
            for suffix, value in zip(
                ("", "_low", "_high"), asdict(difference).values(), strict=True
            )
        }


def paired_difference(one: _Floats, other: _Floats, confidence: float = 0.95) -> Difference:
    """``one - other`` over the same prompts and seeds, [n] each; prompts are resampled in pairs.

    Raises ValueError if the lengths differ or nothing is there.
    """
    if one.shape != other.shape or not one.size:
        raise ValueError("paired scores are of the same prompts, at least one")
    differences = one - other
    rng = np.random.default_rng(0)
    means = [
        differences[rng.integers(one.size, size=(_CHUNK, one.size))].mean(axis=1)
        for _ in range(_RESAMPLES // _CHUNK)
    ]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Difference(float(differences.mean()), float(low), float(high))


def sign_flip_test(one: _Floats, other: _Floats) -> float:
    """Two-sided p value of the mean paired difference, [n] each: Fisher's permutation test.

    If neither is better, every difference could as well have the other sign: the share of 10,000
    random choices of signs, and the one that was found, whose mean is as far from zero.
    """
    differences = (one - other)[one != other]
    if not differences.size:
        return 1.0
    rng, found = np.random.default_rng(0), abs(differences.sum()) - 1e-9
    beyond = 0
    for _ in range(_SIGNS // _CHUNK):
        signs = rng.integers(0, 2, size=(_CHUNK, differences.size), dtype=np.int8) * 2 - 1
        beyond += int((abs(signs @ differences) >= found).sum())
    return (beyond + 1) / (_SIGNS + 1)


@dataclass(frozen=True)
class PairedRatio:
    """Median of ratios, each taken within one round of an interleaved measurement."""

    median: float
    low: float
    high: float
    rounds: int


def paired_ratio(one: Sequence[float], other: Sequence[float]) -> PairedRatio:
    """``one / other`` round by round; low and high are a bootstrap 95% interval of the median.

    Raises ValueError if the rounds differ in number or there are none.
    """
    if len(one) != len(other) or not one:
        raise ValueError("paired times are of the same rounds, at least one")
    ratios = np.asarray(one, dtype=np.float64) / np.asarray(other, dtype=np.float64)
    rng = np.random.default_rng(0)
    draws = np.median(ratios[rng.integers(ratios.size, size=(_RESAMPLES, ratios.size))], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return PairedRatio(float(np.median(ratios)), float(low), float(high), ratios.size)


@dataclass(frozen=True)
class Point:
    """A configuration on the plane of seconds and graded score."""

    name: str
    seconds: float
    graded: float


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no faster one equals in score, from the fastest to the best."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.graded)):
        if not kept or point.graded > kept[-1].graded:
            kept.append(point)
    return kept


def best_within(points: Sequence[Point], seconds: float) -> Point | None:
    """The best of the points that take no longer than ``seconds``; None if all do."""
    return max(
        (point for point in points if point.seconds <= seconds),
        key=lambda p: p.graded,
        default=None,
    )
