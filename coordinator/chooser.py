"""From a question to a decision: what is feasible, what each arm is worth, which one is drawn."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from baton.common.errors import BatonError, Incompatible, Overloaded, Unreachable
from baton.common.explanation import ArmScore, DecisionRecord
from baton.common.query import DecideQuery
from baton.coordinator.bandit.arms import Candidate, candidates
from baton.coordinator.bandit.context import FEATURES, build_context
from baton.coordinator.bandit.linucb import FloatArray
from baton.coordinator.bandit.policy import draw, told
from baton.coordinator.fleet import Fleet
from baton.coordinator.known import Known, unkept_id
from baton.coordinator.learner import Learner
from baton.coordinator.ranking import Need
from baton.coordinator.survey import Survey


@dataclass(frozen=True, slots=True)
class Chooser:
    """Turns a question into a decision, and keeps no trace of either.

    exploration: share of the decisions that are drawn evenly. clock: unix time, seconds.
    """

    fleet: Fleet
    known: Known
    learner: Learner
    exploration: float
    rng: np.random.Generator
    clock: Callable[[], float]

    def choose(self, query: DecideQuery) -> DecisionRecord:
        """An arm of what is known if one is feasible, else of what the device alone names.

        That one has an `unkept_id`. Raises Overloaded, Incompatible or Unreachable if none is.
        """
        asked, own = query.requested_arm, self.known.own_arms(query.family)
        survey = Survey.of(query, self.fleet, [asked] if asked else own)
        context = build_context(query, survey.best)
        known = self.known.part_of(query)
        scores = self._scores(known, survey, context)
        kept = any(score.feasible for score in scores)
        if not kept:
            scores = self._scores(query, survey, context)
        feasible = [score for score in scores if score.feasible]
        if not feasible:
            raise self._refusal(query, scores, survey)
        drawn = draw([item.bound for item in feasible], self.exploration, self.rng)
        chosen = feasible[drawn.index]
        on_edge = chosen.arm.members_on("edge")
        ranking = survey.groups[on_edge] if on_edge else survey.anywhere
        reason = "asked for" if query.requested_arm else told(drawn, feasible, survey.anywhere)
        return DecisionRecord(
            decision_id=uuid.uuid4().hex if kept else unkept_id(query),
            request_id=query.request_id,
            created_unix=self.clock(),
            family=query.family,
            preference=query.preference,
            arm=chosen.arm,
            propensity=drawn.propensity,
            explored=drawn.explored,
            context=tuple(context.tolist()),
            scores=tuple(scores),
            edges=ranking.choices if on_edge else (),
            rejected=ranking.rejected,
            reason=reason if kept else f"{reason}; not learned from: no edge names its members",
            owner=query.owner,
            latent_space=known.latent_space,
            features=FEATURES,
            own_arm=chosen.arm in own,
        )

    def _scores(self, query: DecideQuery, survey: Survey, context: FloatArray) -> list[ArmScore]:
        own = self.known.own_arms(query.family)
        found = candidates(query, survey.groups, own, self.known.partial(query))
        return [self._score(query, item, context) for item in found]

    def _score(self, query: DecideQuery, item: Candidate, context: FloatArray) -> ArmScore:
        if not item.feasible:
            return ArmScore(item.arm, False, reason=item.reason)
        score = self.learner.score(query, item.arm, context)
        return ArmScore(item.arm, True, score.estimate, score.bonus)

    def _refusal(
        self, query: DecideQuery, scores: Sequence[ArmScore], survey: Survey
    ) -> BatonError:
        device = "holds no member" if not query.members else "cannot run any arm"
        complaint = survey.anywhere.complaint
        message = f"no arm is feasible: the device {device}, and edges: {complaint}"
        if query.requested_arm is not None:
            message = f"arm {query.requested_arm} is not available: {scores[0].reason}"
        if not self.fleet.census.members(query.family):
            return Unreachable(f"{message} for family {query.family}; start an edge that serves it")
        if self.fleet.ranks().rank(Need(query.family)).best:
            return Incompatible(f"{message}; use the same family's files on both sides")
        return Overloaded(f"{message}; try again later")
