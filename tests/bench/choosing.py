"""Which runs of `large` and which relays are compared: chosen on prompts of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def likely_equal(best: Mapping[int, Option], reference: Option) -> Option:
    """The option of the fewest steps whose mean is within half of the margin of the reference's.

    The reference itself if there is none. On so few prompts no interval could tell.
    """
    for option in best.values():
        if option.mean >= reference.mean - EQUAL_MARGIN / 2:
            return option
    return reference


def reaching(large: Iterable[Option], relay: Option) -> Option:
    """The baseline of a relay: of the fewest steps that reach its mean score, the cheapest.

    The one with the highest score if none does.
    """
    options = sorted(large, key=lambda option: (option.steps, option.cost))
    able = [option for option in options if option.mean >= relay.mean]
    return able[0] if able else max(options, key=lambda option: option.mean)


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


def confirmed(relays: Sequence[Option], large: Sequence[Option]) -> tuple[Option, Option, bool]:
    """The relay that is the most times faster than its baseline, that one, and whether it holds.

    It holds if its whole interval against the baseline is within the margin, so wide that those of
    all relays hold together with 95%; one that holds goes before one that does not.
    """
    confidence = 1 - 0.05 / len(relays)
    pairs = [(relay, reaching(large, relay)) for relay in relays]
    pairs.sort(key=lambda pair: pair[0].cost / pair[1].cost)
    for relay, baseline in pairs:
        loss = paired_difference(relay.graded, baseline.graded, confidence)
        if loss.low >= -EQUAL_MARGIN:
            return relay, baseline, True
    return *pairs[0], False
