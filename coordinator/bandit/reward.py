"""The reward of a request, in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from baton.common.arm import Arm
from baton.common.outcome import Outcome
from baton.common.request import Preference
from baton.coordinator.bandit.prior import expected_quality

#: Of a failure, and of a decision that was not reported in time.
WORST_REWARD = 0.0


@dataclass(frozen=True, slots=True)
class RewardModel:
    """``w quality + (1 - w) speed`` with ``speed = T / (T + total_seconds)``.

    quality_weights: w by preference. latency_half_seconds: T, the time at which speed is 0.5.

    A failed request has the worst reward. So has one that timed out, for it is reported as failed
    or not at all. A picture without a score counts with the quality that the static prior expects
    of the arm that ran: a constant would let the fastest arm win among people who never score, even
    among those who prefer quality.

    If the device had to deviate, the decision is still credited with what the user got, the time of
    the lost attempt included. Only so does the logged propensity belong to the reward.
    """

    quality_weights: Mapping[Preference, float]
    latency_half_seconds: float

    def reward(self, preference: Preference, chosen: Arm, outcome: Outcome) -> float:
        """Reward of the decision for arm ``chosen``."""
        if not outcome.ok:
            return WORST_REWARD
        quality = outcome.quality
        if quality is None:
            quality = expected_quality(outcome.arm or chosen)
        weight = self.quality_weights[preference]
        return weight * quality + (1.0 - weight) * self.speed(outcome.total_seconds)

    def speed(self, seconds: float) -> float:
        """1 for no time at all, 0.5 at T, towards 0."""
        return self.latency_half_seconds / (self.latency_half_seconds + seconds)
