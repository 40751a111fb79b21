"""How a block mask is trained, and what of it can never work. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from baton.common.errors import InvalidRequest, UnknownName

#: How a binary gate is relaxed, and its gradient estimated: `baton.common.accel.estimators`.
Estimator = Literal["bernoulli", "interpolate", "gumbel"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


@dataclass(frozen=True)
class Settings:
    """How a mask is trained; symbols as in the paper where it has any.

    target_speed: the cost of all full steps in that of the rectified mask's. sparsity, bimodal:
    lambda_1 and lambda_2 of Eq. 8. loss_scaling: Eq. 10, with ``calm`` and ``busy`` as weights of
    the regularisers at steps whose features change less or more than at the median one.
    refresh_every: every so many steps all blocks run, 0 for the first only. The error of a single
    step does not tell what a stale cache adds up to over many.
    """

    target_speed: float = 1.8
    estimator: Estimator = "bernoulli"
    iterations: int = 40
    learning_rate: float = 0.2
    sparsity: float = 1e-2
    bimodal: float = 1e-3
    loss_scaling: bool = True
    calm: float = 2.0
    busy: float = 0.5
    refresh_every: int = 3
    seed: int = 0

    def check(self) -> Settings:
        """Raises InvalidRequest, naming what cannot be."""
        if not 1.0 < self.target_speed <= 10.0:
            raise InvalidRequest(
                f"the target speed is above 1 and at most 10, got {self.target_speed}"
            )
        if self.refresh_every < 0 or self.refresh_every == 1:
            raise InvalidRequest(
                f"refresh at least every second step, or 0 for never, got {self.refresh_every}"
            )
        if self.iterations < 1:
            raise InvalidRequest(f"at least one iteration is needed, got {self.iterations}")
        if not 0.0 <= self.bimodal < math.inf:
            raise InvalidRequest(f"the bi-modal weight is 0 or more, got {self.bimodal}")
        return self

    def full_steps(self, steps: int, keys: Sequence[int] = ()) -> frozenset[int]:
        """Those at which every block runs. keys: of an encoder propagation, which are those."""
        every = self.refresh_every
        return frozenset({0, *keys, *(range(0, steps, every) if every and not keys else ())})

    def check_reachable(self, steps: int, keys: Sequence[int] = ()) -> None:
        """Raises InvalidRequest for a speed that could not be even if only full steps cost."""
        full = len(self.full_steps(steps, keys))
        if self.target_speed >= steps / full:
            raise InvalidRequest(
                f"with {full} of {steps} steps in full the target speed is below"
                f" {steps / full:.4g}, got {self.target_speed:g}; refresh less often"
            )


def check_estimator(name: str) -> Estimator:
    if name not in ESTIMATORS:
        raise UnknownName(f"unknown estimator {name[:32]!r}; known: {', '.join(ESTIMATORS)}")
    return name
