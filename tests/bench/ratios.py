"""How the figures of the curve are defined: differences, margins, times at equal score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]
_Item = TypeVar("_Item")

#: A relay stays at the reference's quality if it loses less than this, with confidence.
GRADED_MARGIN = 0.03
STRICT_MARGIN = 0.05

_RESAMPLES = 4000
_CHUNK = 500


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

    def within(self, share: float = 1.0) -> bool:
        """Whether both intervals stay above ``-share`` of the margins."""
        return (
            self.graded.low >= -share * GRADED_MARGIN and self.strict.low >= -share * STRICT_MARGIN
        )

    def may_be_within(self, share: float = 1.0) -> bool:
        """Whether it is within ``share`` of the margins on average: more prompts could show it."""
        graded, strict = share * GRADED_MARGIN, share * STRICT_MARGIN
        return self.graded.mean >= -graded and self.strict.mean >= -strict

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


def seconds_to_reach(points: Sequence[Point], graded: float) -> float | None:
    """The time in which one member reaches a score, None if it never does.

    Linear between neighbours of the member's `frontier`, as if the number of steps were continuous;
    never beyond its ends: a target below the fastest point costs that point's time.
    """
    kept = frontier(points)
    for before, after in zip([None, *kept], kept, strict=False):
        if after.graded < graded:
            continue
        if before is None:
            return after.seconds
        share = (graded - before.graded) / (after.graded - before.graded)
        return before.seconds + share * (after.seconds - before.seconds)
    return None


def best_within(points: Sequence[Point], seconds: float) -> Point | None:
    """The best of the points that take no longer than ``seconds``; None if all do."""
    return max(
        (point for point in points if point.seconds <= seconds),
        key=lambda p: p.graded,
        default=None,
    )


def bracket(points: Sequence[Point], graded: float) -> list[Point]:
    """The frontier's neighbours of a score: the last two below it, the first two at it or above.

    Two, so that they still enclose it on other prompts, where scores fall otherwise.
    """
    kept = frontier(points)
    below = [point for point in kept if point.graded < graded]
    above = [point for point in kept if point.graded >= graded]
    return below[-2:] + above[:2]


@dataclass(frozen=True)
class Candidate:
    """A relay that may be the best cut: its seconds, and its loss against the reference."""

    name: str
    seconds: float
    loss: Loss


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """Up to ``count`` of the items, the first and the last among them, evenly apart."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def ladder(candidates: Sequence[Candidate], shares: Sequence[float] = (1.0, 0.5, 0.0)) -> list[str]:
    """The fastest candidate that may be within the margins, within half of them, without any loss.

    Names from the fastest to the most careful, each once. If none may be within the margins: the
    one that loses least with confidence.
    """
    chosen: list[str] = []
    for share in shares:
        able = [candidate for candidate in candidates if candidate.loss.may_be_within(share)]
        if able:
            chosen.append(min(able, key=lambda c: c.seconds).name)
    if not chosen and candidates:
        chosen = [max(candidates, key=lambda c: c.loss.graded.low).name]
    return list(dict.fromkeys(chosen))
