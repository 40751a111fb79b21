"""Which runs of `large` and which relays are compared: chosen on prompts of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.bench.ratios import EQUAL_MARGIN, paired_difference

#: Of each kind that may turn out best, so many are drawn on more prompts.
_HOPEFUL = 3
#: The mean losses, as shares of the margin, within which the fastest relays are sought.
_RUNGS = (0.25, 0.0)


@dataclass(frozen=True, eq=False)
class Option:
    """A way to draw. cost: seconds, or what stands for them; graded: scores of prompts, [n]."""

    name: str
    steps: int
    cost: float
    graded: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.graded.mean())


def best_of_each_count(options: Iterable[Option]) -> dict[int, Option]:
    """For every number of steps the best spaced: the option with the highest score."""
    best: dict[int, Option] = {}
    for option in options:
        if option.steps not in best or option.mean > best[option.steps].mean:
            best[option.steps] = option
    return dict(sorted(best.items()))


def fewest_steps(best: Mapping[int, Option], reference: Option, least: int = 0) -> Option:
    """The baseline: that of the fewest steps, ``least`` at least, which equals the reference.

    Equal: the lower end of the paired interval is not below `EQUAL_MARGIN`. The reference itself if
    none does.
    """
    for steps, option in best.items():
        if steps >= least and _loss_at_worst(option, reference) >= -EQUAL_MARGIN:
            return option
    return reference


def likely_equal(best: Mapping[int, Option], reference: Option) -> Option:
    """As `fewest_steps`, on so few prompts that the mean has to do: within half of the margin."""
    for option in best.values():
        if option.mean >= reference.mean - EQUAL_MARGIN / 2:
            return option
    return reference


def _loss_at_worst(option: Option, other: Option) -> float:
    return paired_difference(option.graded, other.graded).low


def hopeful(relays: Sequence[Option], baseline: Option) -> list[str]:
    """Relays that more prompts may show to be best.

    The cheapest that lose little, the cheapest that lose nothing, and those with the highest score.
    """
    cheap = sorted(relays, key=lambda option: option.cost)
    little = [option for option in cheap if option.mean >= baseline.mean - EQUAL_MARGIN / 2]
    nothing = [option for option in cheap if option.mean >= baseline.mean]
    best = sorted(relays, key=lambda option: -option.mean)
    chosen = little[:_HOPEFUL] + nothing[:_HOPEFUL] + best[:_HOPEFUL]
    return list(dict.fromkeys(option.name for option in chosen))


def ladder(relays: Sequence[Option], baseline: Option) -> list[str]:
    """The fastest relay within a quarter of the margin on average, and the fastest without a loss.

    If there is none: the one with the highest score.
    """
    chosen: list[str] = []
    for share in _RUNGS:
        least = baseline.mean - share * EQUAL_MARGIN
        able = [option for option in relays if option.mean >= least]
        if able:
            chosen.append(min(able, key=lambda option: option.cost).name)
    if not chosen and relays:
        chosen = [max(relays, key=lambda option: option.mean).name]
    return list(dict.fromkeys(chosen))


def confirmed(
    names: Sequence[str], of: Callable[[str], Option], baseline: Option
) -> tuple[str, bool]:
    """The fastest whose whole interval is within the margin, else the last; whether it is.

    The interval of each is so wide that all together hold with 95%.
    """
    by_speed = sorted(names, key=lambda name: of(name).cost)
    confidence = 1 - 0.05 / len(names)
    for name in by_speed:
        loss = paired_difference(of(name).graded, baseline.graded, confidence)
        if loss.low >= -EQUAL_MARGIN:
            return name, True
    return by_speed[-1], False
