"""Disjoint LinUCB (Li et al. 2010, "A Contextual-Bandit Approach", algorithm 1), in float64.

Every arm a has its own ridge regression of the reward r on the context x:

    A_a = lambda I + sum x x^T        b_a = lambda theta0_a + sum r x        theta_a = A_a^-1 b_a
    score = theta_a^T x + alpha sqrt(x^T P_a^-1 x)

It differs from the paper in two ways. The regression shrinks to a prior mean theta0_a instead of 0,
so that the first choices are sensible; data override it as lambda says. And the bonus is
taken from P_a, which is A_a plus the contexts of pulls whose reward is still out, so that a burst
of decisions does not herd onto one arm; the estimate is not touched by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from baton.common.errors import InvalidRequest, Overloaded

FloatArray = npt.NDArray[np.float64]
#: Of an arm.
K = TypeVar("K", bound=Hashable)
#: Prior mean of an arm's coefficients, shape [d], by the arm's key.
Prior = Callable[[K], FloatArray]

#: Rank-one updates drift by rounding; after so many the inverse is solved for anew.
REFRESH_EVERY = 256
#: Keys come from members that clients name, so their number needs a bound.
MAX_ARMS = 4_096


class Score(NamedTuple):
    """Estimated reward and half-width of its confidence bound."""

    estimate: float
    bonus: float


@dataclass(frozen=True, slots=True)
class ArmState:
    """Sufficient statistics of one arm, prior included: A [d, d], b [d]; pulls with a reward."""

    A: FloatArray
    b: FloatArray
    rewards: int = 0
    reward_sum: float = 0.0


class ArmModel:
    """The regression of one arm with its cached inverses."""

    def __init__(self, state: ArmState) -> None:
        self.A = state.A.copy()
        self.b = state.b.copy()
        self.rewards = state.rewards
        self.reward_sum = state.reward_sum
        self.pending = 0
        self._P = self.A.copy()
        self.A_inv: FloatArray
        self.P_inv: FloatArray
        self.theta: FloatArray
        self.refresh()

    @property
    def state(self) -> ArmState:
        return ArmState(self.A.copy(), self.b.copy(), self.rewards, self.reward_sum)

    def estimate(self, x: FloatArray) -> float:
        return float(self.theta @ x)

    def width(self, x: FloatArray) -> float:
        """Standard deviation of the estimate, pending pulls counted as if observed."""
        return math.sqrt(max(0.0, float(x @ self.P_inv @ x)))

    def begin(self, x: FloatArray) -> None:
        self.pending += 1
        self._P += np.outer(x, x)
        self.P_inv = rank_one(self.P_inv, x, 1.0)
        self._count_update()

    def withdraw(self, x: FloatArray) -> None:
        self.pending -= 1
        self._P -= np.outer(x, x)
        self.P_inv = rank_one(self.P_inv, x, -1.0)
        self._count_update()

    def resolve(self, x: FloatArray, reward: float) -> None:
        """A pending pull is observed: it moves from P alone into A, so P stays as it is."""
        self.pending -= 1
        self._observe(x, reward)

    def update(self, x: FloatArray, reward: float) -> None:
        """An observation that was not pending."""
        self._P += np.outer(x, x)
        self.P_inv = rank_one(self.P_inv, x, 1.0)
        self._observe(x, reward)

    def absorb(self, x: FloatArray, reward: float) -> None:
        """Like `update`, but the inverses are stale until `refresh`."""
        outer = np.outer(x, x)
        self.A += outer
        self._P += outer
        self.b += reward * x
        self.rewards += 1
        self.reward_sum += reward

    def refresh(self) -> None:
        """Solve for the inverses exactly."""
        self.A_inv = inverse(self.A)
        self.P_inv = inverse(self._P)
        self.theta = self.A_inv @ self.b
        self._updates = 0

    def _observe(self, x: FloatArray, reward: float) -> None:
        self.A += np.outer(x, x)
        self.b += reward * x
        self.A_inv = rank_one(self.A_inv, x, 1.0)
        self.rewards += 1
        self.reward_sum += reward
        self.theta = self.A_inv @ self.b
        self._count_update()

    def _count_update(self) -> None:
        self._updates += 1
        if self._updates >= REFRESH_EVERY:
            self.refresh()


class LinUCB(Generic[K]):
    """One `ArmModel` per key. A key that was never pulled scores by its prior and holds no memory.

    Args:
        dimension: d, length of every context.
        alpha: width of the confidence bound in standard deviations.
        ridge: lambda, weight of the prior mean, in observations.
        prior: theta0 by key, shape [d]; None is zero.
    """

    def __init__(
        self, dimension: int, alpha: float, ridge: float, prior: Prior[K] | None = None
    ) -> None:
        self.dimension = dimension
        self.alpha = alpha
        self.ridge = ridge
        self._prior = prior
        self._models: dict[K, ArmModel] = {}
        self._prior_inverse: FloatArray = np.eye(dimension) / ridge

    def score(self, key: K, x: FloatArray) -> Score:
        """Estimate and bonus of an arm at context ``x`` [d]."""
        self._check(x)
        model = self._models.get(key)
        if model is None:
            width = math.sqrt(float(x @ self._prior_inverse @ x))
            return Score(float(self._theta0(key) @ x), self.alpha * width)
        return Score(model.estimate(x), self.alpha * model.width(x))

    def begin(self, key: K, x: FloatArray) -> None:
        """An arm is pulled; its reward is out. Raises Overloaded where it `has_room` for none."""
        self._model(key).begin(self._check(x))

    def withdraw(self, key: K, x: FloatArray) -> None:
        """A pull that was begun never happened."""
        self._model(key).withdraw(self._check(x))

    def resolve(self, key: K, x: FloatArray, reward: float) -> None:
        """The reward of a pull that was begun."""
        self._model(key).resolve(self._check(x), reward)

    def update(self, key: K, x: FloatArray, reward: float) -> None:
        """The reward of a pull that was never begun here."""
        self._model(key).update(self._check(x), reward)

    def replay(self, rows: Iterable[tuple[K, FloatArray, float]]) -> int:
        """Many past observations (key, x, reward) at once; returns how many."""
        touched: set[K] = set()
        count = 0
        for key, x, reward in rows:
            self._model(key).absorb(self._check(x), reward)
            touched.add(key)
            count += 1
        for key in touched & self._models.keys():  # while it reads, `keep` may make room
            self._models[key].refresh()
        return count

    def has_room(self, key: K) -> bool:
        """Whether the arm is known, or may become so."""
        return key in self._models or len(self._models) < MAX_ARMS

    def keep(self, wanted: Callable[[K], bool]) -> None:
        """Forget every arm that is not wanted, but for those whose reward is out."""
        self._models = {
            key: model for key, model in self._models.items() if model.pending or wanted(key)
        }

    def rename(self, name: Callable[[K], K]) -> None:
        """Give every arm the key that ``name`` makes of its own; no two the same."""
        self._models = {name(key): model for key, model in self._models.items()}

    def models(self) -> Mapping[K, ArmModel]:
        """The arms pulled so far, by key."""
        return self._models

    def states(self) -> dict[K, ArmState]:
        """A copy of every arm's statistics, without the pending pulls."""
        return {key: model.state for key, model in self._models.items()}

    def initial(self, key: K) -> ArmState:
        """The statistics of an arm without data: A0 = lambda I, b0 = lambda theta0."""
        eye: FloatArray = np.eye(self.dimension)
        return ArmState(self.ridge * eye, self.ridge * self._theta0(key))

    def load(self, states: Mapping[K, ArmState]) -> None:
        """Replace every arm by the given statistics. Raises InvalidRequest for another d."""
        for state in states.values():
            if state.A.shape != (self.dimension, self.dimension):
                raise InvalidRequest(f"an arm's state is for d = {state.A.shape[0]}")
        self._models = {key: ArmModel(state) for key, state in states.items()}

    def merged(self, parts: Sequence[Mapping[K, ArmState]]) -> dict[K, ArmState]:
        """What coordinators of equal settings have learned together.

        ``A = A0 + sum(A_i - A0)``, likewise b: exact, and the prior is not summed twice.
        """
        keys = dict.fromkeys(key for part in parts for key in part)
        return {
            key: merge(self.initial(key), [part[key] for part in parts if key in part])
            for key in keys
        }

    def _model(self, key: K) -> ArmModel:
        if key not in self._models:
            if not self.has_room(key):
                raise Overloaded(f"{MAX_ARMS} different arms are known; no more are taken", 60.0)
            self._models[key] = ArmModel(self.initial(key))
        return self._models[key]

    def _theta0(self, key: K) -> FloatArray:
        return self._prior(key) if self._prior else np.zeros(self.dimension)

    def _check(self, x: FloatArray) -> FloatArray:
        if x.shape != (self.dimension,):
            raise InvalidRequest(f"a context has shape ({self.dimension},), got {x.shape}")
        return x


def merge(base: ArmState, parts: Sequence[ArmState]) -> ArmState:
    """``A0 + sum(A_i - A0)`` for one arm, where every part started from ``base``."""
    return ArmState(
        base.A + sum((part.A - base.A for part in parts), np.zeros_like(base.A)),
        base.b + sum((part.b - base.b for part in parts), np.zeros_like(base.b)),
        base.rewards + sum(part.rewards - base.rewards for part in parts),
        base.reward_sum + sum(part.reward_sum - base.reward_sum for part in parts),
    )


def rank_one(M_inv: FloatArray, x: FloatArray, sign: float) -> FloatArray:
    """Inverse of ``M + sign x x^T`` for symmetric M (Sherman and Morrison 1950)."""
    u = M_inv @ x
    updated: FloatArray = M_inv - (sign / (1.0 + sign * float(x @ u))) * np.outer(u, u)
    return updated


def inverse(A: FloatArray) -> FloatArray:
    """Inverse of a symmetric positive definite matrix, kept symmetric."""
    solved = np.linalg.solve(A, np.eye(A.shape[0]))
    symmetric: FloatArray = np.asarray((solved + solved.T) / 2, dtype=np.float64)
    return symmetric
