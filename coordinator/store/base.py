"""What every store promises; tests/contract/test_store.py holds each of them to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from baton.common.arm import Arm
from baton.common.explanation import DecisionRecord
from baton.common.outcome import Outcome
from baton.coordinator.bandit.linucb import FloatArray


@dataclass(frozen=True, slots=True)
class NewDecision:
    """A decision that is about to be answered; its state is pending."""

    record: DecisionRecord


@dataclass(frozen=True, slots=True)
class Resolution:
    """The end of a decision: its reward, by a report or by expiry; None if it was withdrawn."""

    decision_id: str
    state: Literal["rewarded", "expired", "withdrawn"]
    reward: float | None
    resolved_unix: float
    outcome: Outcome | None = None


Write = NewDecision | Resolution


class RewardRow(NamedTuple):
    """What the bandit learned from one decision.

    context: [d], features: its names. own_arm: the arm was the family's own.
    """

    family: str
    latent_space: str
    arm: Arm
    features: tuple[str, ...]
    context: FloatArray
    reward: float
    own_arm: bool = False


class Store(Protocol):
    """Decisions and rewards. Used by one thread at a time.

    A decision may lose its scores, edges and reason with age, never what `rewards` gives.

    Raises ExecutionFailed if the storage is damaged, full or not accessible.
    """

    def write(self, items: Sequence[Write]) -> list[bool]:
        """Write all or, on an error, none, durably.

        False, item by item, where nothing changed: a decision whose id is taken, a resolution of a
        decision that is unknown or resolved already. Items see the effect of earlier ones.
        """

    def find(self, key: str, owner: str = "") -> DecisionRecord | None:
        """The decision with that id, else the newest one with that request id.

        With an ``owner``, among that one's decisions.
        """

    def recent(self, limit: int) -> list[DecisionRecord]:
        """The newest decisions, newest first."""

    def pending(self) -> list[DecisionRecord]:
        """Decisions that have not ended, oldest first."""

    def rewards(self) -> Iterator[RewardRow]:
        """Every reward, in the order in which it was applied."""

    def first_spaces(self) -> dict[str, str]:
        """By family, the latent space that the first decision named which named any."""

    def close(self) -> None:
        """Release the storage; the store is not used afterwards."""
