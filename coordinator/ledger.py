"""The decisions whose reward is out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from baton.common.arm import Arm
from baton.common.explanation import DecisionRecord
from baton.common.query import DecideQuery
from baton.common.request import Preference
from baton.coordinator.bandit.linucb import FloatArray
from baton.coordinator.fleet import Fleet
from baton.coordinator.learner import Learner
from baton.coordinator.values import ArmKey


@dataclass(frozen=True, slots=True)
class Pending:
    """A decision whose reward is out, as far as its end needs it.

    key: the arm that learns from it, None if none does; context [d]; edge: that it was sent to
    first, empty if to none; opened: on the ledger's clock; query: None if it was asked of an
    earlier process.
    """

    decision_id: str
    arm: Arm
    key: ArmKey | None
    context: FloatArray
    preference: Preference
    edge: str
    owner: str
    opened: float
    query: DecideQuery | None


class Ledger:
    """Opens decisions and closes them, each in the model and at its edge.

    clock: monotonic, seconds.
    """

    def __init__(self, learner: Learner, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._learner = learner
        self._fleet = fleet
        self._clock = clock
        self._pending: dict[str, Pending] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._pending)

    def get(self, decision_id: str) -> Pending | None:
        return self._pending.get(decision_id)

    def oldest(self) -> Pending:
        """Of one that is not empty."""
        return next(iter(self._pending.values()))

    def older_than(self, seconds: float) -> list[Pending]:
        """Those that have been open for longer."""
        moment = self._clock() - seconds
        return list(takewhile(lambda item: item.opened < moment, self._pending.values()))

    def open(self, record: DecisionRecord, query: DecideQuery | None) -> None:
        """A decision is to be answered; ``query``: the question, where it may come again."""
        context = np.array(record.context, dtype=np.float64)
        key = self._learner.begin(record, context)
        edge = record.edges[0].node_id if record.edges else ""
        self._fleet.assign(edge, record.decision_id)
        self._pending[record.decision_id] = Pending(
            decision_id=record.decision_id,
            arm=record.arm,
            key=key,
            context=context,
            preference=record.preference,
            edge=edge,
            owner=record.owner,
            opened=self._clock(),
            query=query,
        )

    def close(self, decision_id: str, reward: float | None) -> Pending:
        """The decision has ended; without a reward it teaches nothing."""
        pending = self._pending.pop(decision_id)
        self._fleet.release(pending.edge, decision_id)
        if pending.key and reward is None:
            self._learner.withdraw(pending.key, pending.context)
        elif pending.key and reward is not None:
            self._learner.resolve(pending.key, pending.context, reward)
        return pending
