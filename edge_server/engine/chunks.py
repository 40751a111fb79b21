"""Cuts a decoder into chunks of about equal time, by what its pieces take. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from baton.common.size import Size

_NEWEST = 0.1  # of a mean, at the least: the weight of the last run
_OUTLIER = 2.0  # times the mean: a stall of the machine says little of the next run
_SIZES = 64  # that are remembered


def partition(seconds: Sequence[float], count: int) -> tuple[int, ...]:
    """The ends of ``count`` groups of neighbours whose greatest sum is the least there is.

    seconds: of each piece, none negative. As many groups as pieces at most, none of them empty.
    Raises ValueError for no group.
    """
    if count < 1:
        raise ValueError(f"a decoder is cut into 1 chunk at least, not into {count}")
    sums, pieces = (0.0, *accumulate(seconds)), len(seconds)
    # By where the groups so far end: their greatest sum, that of their squares, and their ends.
    best: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}
    for left in reversed(range(min(count, pieces))):
        ends = range(min(best) + 1, pieces - left + 1) if left else (pieces,)
        best = {
            end: min(
                (max(most, sums[end] - sums[start]), squares + (sums[end] - sums[start]) ** 2, cut)
                for start, (most, squares, cut) in best.items()
                if start < end
            )
            for end in ends
        }
        best = {end: (most, squares, (*cut, end)) for end, (most, squares, cut) in best.items()}
    return best[pieces][2]


@dataclass(frozen=True)
class _Mean:
    """Seconds of one piece over its runs, the last ones counting most.

    The first run pays what is paid once, so it counts only until there is a second.
    """

    seconds: float = 0.0
    runs: int = 0

    def after(self, seconds: float) -> _Mean:
        if self.runs > 1:
            seconds = min(seconds, _OUTLIER * self.seconds)
        weight = max(_NEWEST, 1 / max(self.runs, 1))
        return _Mean(self.seconds + weight * (seconds - self.seconds), self.runs + 1)


class PieceSeconds:
    """What each piece of the decoder takes, by the size of the picture, as measured."""

    def __init__(self) -> None:
        self._means: dict[Size, tuple[_Mean, ...]] = {}

    def of(self, size: Size) -> tuple[float, ...] | None:
        """By piece; None if none is known. Thread-safe."""
        means = self._means.get(size)
        return None if means is None else tuple(mean.seconds for mean in means)

    def seed(self, size: Size, seconds: Sequence[float]) -> None:
        """As measured elsewhere: what is measured from now on moves it slowly."""
        self._keep(size, tuple(_Mean(each, round(1 / _NEWEST)) for each in seconds))

    def add(self, size: Size, seconds: Sequence[float]) -> None:
        """A run of all pieces; if they are not as many as before, it begins anew."""
        means = self._means.get(size, ())
        if len(means) != len(seconds):
            means = (_Mean(),) * len(seconds)
        self._keep(size, tuple(mean.after(each) for mean, each in zip(means, seconds, strict=True)))

    def _keep(self, size: Size, means: tuple[_Mean, ...]) -> None:
        self._means.pop(size, None)
        self._means[size] = means
        if len(self._means) > _SIZES:
            del self._means[next(iter(self._means))]
