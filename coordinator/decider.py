"""Decisions from the question to the reward: choose, keep, answer, learn.

A decision is stored before it is answered and a reward before it is acknowledged, so the model in
memory is always what a replay of the store would give. Everything here runs on one event loop; only
the store has a thread.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from baton.common.arm import Arm
from baton.common.errors import (
    BatonError,
    ExecutionFailed,
    Incompatible,
    Overloaded,
    UnknownName,
    Unreachable,
)
from baton.common.explanation import ArmScore, DecisionRecord
from baton.common.outcome import Outcome
from baton.common.query import DecideQuery
from baton.common.request import Preference
from baton.coordinator.bandit.arms import Candidate, candidates
from baton.coordinator.bandit.context import FEATURES, build_context
from baton.coordinator.bandit.linucb import FloatArray, LinUCB
from baton.coordinator.bandit.policy import draw, told
from baton.coordinator.bandit.reward import WORST_REWARD, RewardModel
from baton.coordinator.fleet import Fleet, Need, RankedEdge, Ranking
from baton.coordinator.known import UNKEPT, Families, Known, unkept_id
from baton.coordinator.learner import Learner, Restored
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


@dataclass(frozen=True, slots=True)
class _Pending:
    """A decision whose reward is out, as far as its reward needs it.

    key: the arm that learns from it; None if none does.
    """

    arm: Arm
    key: ArmKey | None
    context: FloatArray
    preference: Preference
    edge: str
    owner: str
    opened: float
    query: DecideQuery | None


class Decider:
    """Chooses arms and learns from reports. Call `restore` before anything else."""

    def __init__(
        self,
        bandit: LinUCB[ArmKey],
        policy: Policy,
        fleet: Fleet,
        store: StoreThread,
        clocks: Clocks,
    ) -> None:
        self._policy = policy
        self._fleet = fleet
        self._store = store
        self._clocks = clocks
        self._known = Known(policy.families, fleet)
        self._learner = Learner(bandit, self._known)
        self._pending: dict[str, _Pending] = {}
        self._answers: dict[DecideQuery, asyncio.Task[DecisionRecord]] = {}
        self._unheard: set[DecideQuery] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def restore(self) -> Restored:
        """Replay the store's rewards and pending decisions.

        A pending decision gets its whole time again: the device could not report while the
        coordinator was down.
        """
        restored, records = await self._store.run(self._learner.replay)
        for record in records:
            self._begin(record, None)
        return restored

    async def decide(self, query: DecideQuery) -> DecisionRecord:
        """The arm and edges for a request, stored before they are returned.

        The same question asked again while its reward is out, as a retry does, gets the same
        answer. An arm of what the device alone names is not stored, since names can be invented.
        Raises Overloaded, Incompatible or Unreachable if no arm is feasible.
        """
        task = self._answers.get(query)
        if task is None:
            task = self._answers[query] = self._spawn(self._decide(query))
        try:
            record = await asyncio.shield(task)
        except asyncio.CancelledError:
            if query in self._answers:
                self._unheard.add(query)  # until it asks again
            raise
        self._unheard.discard(query)
        return record

    async def report(self, decision_id: str, outcome: Outcome, owner: str = "") -> bool:
        """Learn from a report. False: the decision has ended already, or was not kept at all.

        A request that its caller withdrew teaches nothing. Raises UnknownName if there is no such
        decision, or not of ``owner``, if one is named.
        """
        if decision_id.startswith(UNKEPT):
            return False
        pending = self._pending.get(decision_id)
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
        oldest = self._clocks.monotonic() - self._policy.expiry_seconds
        late = [(key, item) for key, item in self._pending.items() if item.opened < oldest]
        now = self._clocks.unix()
        ends = [
            Resolution(key, "withdrawn", None, now)
            if item.query in self._unheard
            else Resolution(key, "expired", WORST_REWARD, now)
            for key, item in late
        ]
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
            record = self._choose(query)
            if record.decision_id.startswith(UNKEPT):
                self._forget_answer(query)
                return record
            self._begin(record, query)
        except BaseException:
            self._forget_answer(query)
            raise
        try:
            if not await self._store.write(NewDecision(record)):
                raise ExecutionFailed("a decision's id was taken; ask again")
        except BaseException:
            self._withdraw(record.decision_id)
            raise
        return replace(record, scores=(), rejected=())  # kept for retries: small

    async def _make_room(self) -> None:
        """The oldest decisions give way untaught: whoever never reports keeps nobody else out."""
        while len(self._pending) >= self._policy.most_pending:
            oldest, now = next(iter(self._pending)), self._clocks.unix()
            await self._resolve(Resolution(oldest, "withdrawn", None, now))

    def _choose(self, query: DecideQuery) -> DecisionRecord:
        edges = self._rankings(query)
        context = build_context(query, _best_edge(edges))
        known = self._known.part_of(query)
        scores = self._scores(known, edges, context)
        kept = any(score.feasible for score in scores)
        if not kept:
            scores = self._scores(query, edges, context)
        feasible = [score for score in scores if score.feasible]
        anywhere = self._rank(query, ())
        if not feasible:
            raise self._refusal(query, scores, anywhere)
        drawn = draw([item.bound for item in feasible], self._policy.exploration, self._policy.rng)
        chosen = feasible[drawn.index]
        own = chosen.arm.members_on("edge")
        ranking = edges[own] if own else anywhere
        reason = "asked for" if query.requested_arm else told(drawn, feasible, anywhere)
        return DecisionRecord(
            decision_id=uuid.uuid4().hex if kept else unkept_id(query),
            request_id=query.request_id,
            created_unix=self._clocks.unix(),
            family=query.family,
            preference=query.preference,
            arm=chosen.arm,
            propensity=drawn.propensity,
            explored=drawn.explored,
            context=tuple(context.tolist()),
            scores=tuple(scores),
            edges=ranking.choices if own else (),
            rejected=ranking.rejected,
            reason=reason if kept else f"{reason}; not learned from: no edge names its members",
            owner=query.owner,
            latent_space=known.latent_space,
            features=FEATURES,
        )

    def _rankings(self, query: DecideQuery) -> dict[tuple[str, ...], Ranking]:
        """What `candidates` needs to know of the edges."""
        members = self._fleet.members(query.family)
        groups: list[tuple[str, ...]] = [(member,) for member in members]
        own = query.requested_arm.members_on("edge") if query.requested_arm else ()
        if len(own) > 1 and set(own) <= set(members):
            groups.append(own)
        return {group: self._rank(query, group) for group in groups}

    def _rank(self, query: DecideQuery, members: tuple[str, ...]) -> Ranking:
        return self._fleet.rank(
            Need(
                query.family,
                query.fingerprint,
                members,
                dict(query.probes),
                query.rtt_seconds,
                query.latent_space,
            )
        )

    def _scores(
        self, query: DecideQuery, edges: Mapping[tuple[str, ...], Ranking], context: FloatArray
    ) -> list[ArmScore]:
        return [self._score(query, item, context) for item in candidates(query, edges)]

    def _score(self, query: DecideQuery, item: Candidate, context: FloatArray) -> ArmScore:
        if not item.feasible:
            return ArmScore(item.arm, False, reason=item.reason)
        score = self._learner.score(query, item.arm, context)
        return ArmScore(item.arm, True, score.estimate, score.bonus)

    def _refusal(
        self, query: DecideQuery, scores: Sequence[ArmScore], edges: Ranking
    ) -> BatonError:
        device = "holds no member" if not query.members else "cannot run any arm"
        message = f"no arm is feasible: the device {device}, and edges: {edges.complaint}"
        if query.requested_arm is not None:
            message = f"arm {query.requested_arm} is not available: {scores[0].reason}"
        if not self._fleet.members(query.family):
            return Unreachable(f"{message} for family {query.family}; start an edge that serves it")
        if self._fleet.rank(Need(query.family)).best:
            return Incompatible(f"{message}; use the same family's files on both sides")
        return Overloaded(f"{message}; try again later")

    def _begin(self, record: DecisionRecord, query: DecideQuery | None) -> None:
        context = np.array(record.context, dtype=np.float64)
        key = self._learner.begin(record, context)
        edge = record.edges[0].node_id if record.edges else ""
        self._fleet.assign(edge, record.decision_id)
        opened = self._clocks.monotonic()
        self._pending[record.decision_id] = _Pending(
            record.arm, key, context, record.preference, edge, record.owner, opened, query
        )

    def _withdraw(self, decision_id: str) -> None:
        pending = self._forget(decision_id)
        if pending.key:
            self._learner.withdraw(pending.key, pending.context)

    async def _resolve(self, resolution: Resolution) -> bool:
        if not await self._store.write(resolution):
            return False
        if resolution.reward is None:
            self._withdraw(resolution.decision_id)
        else:
            pending = self._forget(resolution.decision_id)
            if pending.key:
                self._learner.resolve(pending.key, pending.context, resolution.reward)
        return True

    def _forget(self, decision_id: str) -> _Pending:
        pending = self._pending.pop(decision_id)
        self._fleet.release(pending.edge, decision_id)
        if pending.query is not None:
            self._forget_answer(pending.query)
        return pending

    def _forget_answer(self, query: DecideQuery) -> None:
        self._answers.pop(query, None)
        self._unheard.discard(query)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(task.exception(), ExecutionFailed):
            _log.error("%s", task.exception())


def _best_edge(edges: Mapping[tuple[str, ...], Ranking]) -> RankedEdge | None:
    found = [ranking.best for ranking in edges.values() if ranking.best]
    return min(found, key=lambda edge: edge.cost, default=None)
