"""Decisions from the question to the reward: choose, keep, answer, learn.

A decision is stored before it is answered and a reward before it is acknowledged, so the model in
memory is always what a replay of the store would give. Everything here runs on one event loop; only
the store has a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from baton.common.errors import ExecutionFailed, UnknownName
from baton.common.explanation import DecisionRecord
from baton.common.outcome import Outcome
from baton.common.query import DecideQuery
from baton.coordinator.answers import Answers
from baton.coordinator.bandit.linucb import LinUCB
from baton.coordinator.bandit.reward import WORST_REWARD, RewardModel
from baton.coordinator.chooser import Chooser
from baton.coordinator.fleet import Fleet
from baton.coordinator.known import UNKEPT, Families, Known
from baton.coordinator.learner import Learner, Restored
from baton.coordinator.ledger import Ledger, Pending
from baton.coordinator.store.base import NewDecision, Resolution
from baton.coordinator.store.thread import StoreThread
from baton.coordinator.values import ArmKey, ArmStats

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clocks:
    """``monotonic`` measures, ``unix`` dates; both in seconds."""

    monotonic: Callable[[], float]
    unix: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the choice needs beside the model: the floor, the rewards, the time to wait for them.

    families: those that are known whether an edge serves them or not. most_pending: decisions
    whose reward may be out at one time.
    """

    rewards: RewardModel
    exploration: float
    expiry_seconds: float
    rng: np.random.Generator
    families: Families = field(default_factory=dict)
    most_pending: int = 100_000


class Decider:
    """Takes every decision from the question to its end: chosen, stored, answered, closed.

    Call `restore` before anything else.
    """

    def __init__(
        self,
        bandit: LinUCB[ArmKey],
        policy: Policy,
        fleet: Fleet,
        store: StoreThread,
        clocks: Clocks,
    ) -> None:
        known = Known(policy.families, fleet.census)
        self._policy = policy
        self._store = store
        self._clocks = clocks
        self._learner = Learner(bandit, known)
        self._chooser = Chooser(
            fleet, known, self._learner, policy.exploration, policy.rng, clocks.unix
        )
        self._ledger = Ledger(self._learner, fleet, clocks.monotonic)
        self._answers = Answers(lambda query: self._spawn(self._decide(query)))
        self._tasks: set[asyncio.Task[Any]] = set()

    async def restore(self) -> Restored:
        """Replay the store's rewards and pending decisions.

        A pending decision gets its whole time again: the device could not report while the
        coordinator was down.
        """
        restored, records = await self._store.run(self._learner.replay)
        for record in records:
            self._ledger.open(record, None)
        return restored

    async def decide(self, query: DecideQuery) -> DecisionRecord:
        """The arm and edges for a request, stored before they are returned.

        The same question asked again while its reward is out, as a retry does, gets the same
        answer. An arm of what the device alone names is not stored, since names can be invented.
        Raises Overloaded, Incompatible or Unreachable if no arm is feasible.
        """
        return await self._answers.to(query)

    async def report(self, decision_id: str, outcome: Outcome, owner: str = "") -> bool:
        """Learn from a report. False: the decision has ended already, or was not kept at all.

        A request that its caller withdrew teaches nothing. Raises UnknownName if there is no such
        decision, or not of ``owner``, if one is named.
        """
        if decision_id.startswith(UNKEPT):
            return False
        pending = self._ledger.get(decision_id)
        if pending is None or owner not in ("", pending.owner):
            record = await self._store.run(lambda store: store.find(decision_id, owner))
            if record is None or record.decision_id != decision_id:
                raise UnknownName(f"no decision {decision_id}; a report needs the id of one")
            return False
        now = self._clocks.unix()
        if outcome.withdrawn:
            resolution = Resolution(decision_id, "withdrawn", None, now, outcome)
        else:
            reward = self._policy.rewards.reward(pending.preference, pending.arm, outcome)
            resolution = Resolution(decision_id, "rewarded", reward, now, outcome)
        # A caller that hangs up must not leave the store and the model at odds.
        return await asyncio.shield(self._spawn(self._resolve(resolution)))

    async def expire(self) -> int:
        """End the decisions that were not reported in time; returns how many.

        They get the worst reward, but for those whose device had hung up before it was answered.
        """
        late = self._ledger.older_than(self._policy.expiry_seconds)
        now = self._clocks.unix()
        ends = [self._expiry(item, now) for item in late]
        return sum(await asyncio.gather(*(self._spawn(self._resolve(end)) for end in ends)))

    async def find(self, key: str, owner: str = "") -> DecisionRecord:
        """A decision by its id or its request's; of ``owner`` alone, if one is named.

        Raises UnknownName.
        """
        if key.startswith(UNKEPT):
            raise UnknownName(
                "nothing is kept of that decision: no edge and no built-in family names its members"
            )
        record = await self._store.run(lambda store: store.find(key, owner))
        if record is None:
            raise UnknownName(
                f"no decision or request {key}; `baton-coordinator decisions` lists the newest"
            )
        return record

    async def recent(self, limit: int) -> list[DecisionRecord]:
        """The newest decisions, newest first."""
        return await self._store.run(lambda store: store.recent(limit))

    def arms(self) -> list[ArmStats]:
        """Every arm that was pulled, by family and name."""
        return self._learner.stats()

    async def close(self) -> None:
        """Wait for what is being stored."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _decide(self, query: DecideQuery) -> DecisionRecord:
        try:
            await self._make_room()
            record = self._chooser.choose(query)
            if record.decision_id.startswith(UNKEPT):
                self._answers.forget(query)
                return record
            self._ledger.open(record, query)
        except BaseException:
            self._answers.forget(query)
            raise
        try:
            if not await self._store.write(NewDecision(record)):
                raise ExecutionFailed("a decision's id was taken; ask again")
        except BaseException:
            self._close(record.decision_id, None)
            raise
        return replace(record, scores=(), rejected=())  # kept for retries: small

    async def _make_room(self) -> None:
        """The oldest decisions give way untaught: whoever never reports keeps nobody else out."""
        while len(self._ledger) >= self._policy.most_pending:
            oldest, now = self._ledger.oldest().decision_id, self._clocks.unix()
            await self._resolve(Resolution(oldest, "withdrawn", None, now))

    def _expiry(self, pending: Pending, now: float) -> Resolution:
        if self._answers.is_unheard(pending.query):
            return Resolution(pending.decision_id, "withdrawn", None, now)
        return Resolution(pending.decision_id, "expired", WORST_REWARD, now)

    async def _resolve(self, resolution: Resolution) -> bool:
        if not await self._store.write(resolution):
            return False
        self._close(resolution.decision_id, resolution.reward)
        return True

    def _close(self, decision_id: str, reward: float | None) -> None:
        pending = self._ledger.close(decision_id, reward)
        if pending.query is not None:
            self._answers.forget(pending.query)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(task.exception(), ExecutionFailed):
            _log.error("%s", task.exception())
