"""A coordinator's decision with all that it was taken on, for whoever asks why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from baton.common.arm import Arm
from baton.common.decision import EdgeChoice
from baton.common.outcome import Outcome
from baton.common.request import Preference

DecisionState = Literal["pending", "rewarded", "expired", "withdrawn"]
DECISION_STATES: tuple[DecisionState, ...] = get_args(DecisionState)


@dataclass(frozen=True, slots=True)
class ArmScore:
    """One arm at one decision: estimated reward, confidence width, or why it was not feasible."""

    arm: Arm
    feasible: bool
    estimate: float = 0.0
    bonus: float = 0.0
    reason: str = ""

    @property
    def bound(self) -> float:
        """Upper confidence bound of the reward."""
        return self.estimate + self.bonus


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision with everything that it was taken on, and what became of it.

    propensity: probability with which the arm was drawn. explored: it came from the exploration
    floor. context: the vector whose entries ``features`` names; no names: not known any more.
    edges: best first; rejected: the others, each with the reason. owner: the authenticated device
    that asked. latent_space: for which it counts; empty: for the first that its family names.
    own_arm: the arm is the family's own.
    """

    decision_id: str
    request_id: str
    created_unix: float
    family: str
    preference: Preference
    arm: Arm
    propensity: float
    explored: bool
    context: tuple[float, ...]
    scores: tuple[ArmScore, ...] = ()
    edges: tuple[EdgeChoice, ...] = ()
    rejected: tuple[EdgeChoice, ...] = ()
    reason: str = ""
    state: DecisionState = "pending"
    reward: float | None = None
    outcome: Outcome | None = None
    owner: str = ""
    latent_space: str = ""
    features: tuple[str, ...] = ()
    own_arm: bool = False


def arms_by_bound(scores: Sequence[ArmScore], taken: Arm) -> Iterator[str]:
    """Lines: the arms that could be chosen, best first; the one that was ``taken`` is marked."""
    feasible = [score for score in scores if score.feasible]
    yield "arms by upper bound (estimated reward + uncertainty):"
    for score in sorted(feasible, key=lambda item: -item.bound):
        mark = "*" if score.arm == taken else " "
        yield f"{mark} {score.arm}  {score.bound:.3f} = {score.estimate:.3f} + {score.bonus:.3f}"
