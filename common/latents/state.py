"""A paused request, in numpy: what a relay hands over and what survives a dead edge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baton.common.errors import CorruptEnvelope, InvalidRequest
from baton.common.limits import check_sampler, check_steps

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """``x = a * x0 + b * eps``. VP: a^2 + b^2 = 1; VE: a = 1, b = sigma; flow: a = 1 - t, b = t."""

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.a) and math.isfinite(self.b) and self.a >= 0 and self.b >= 0):
            raise InvalidRequest(f"({self.a}, {self.b}) is not a noise level")
        if self.a == 0 and self.b == 0:
            raise InvalidRequest("a noise level cannot have neither signal nor noise")

    def same_noise(self, other: NoiseLevel, rtol: float = 1e-5) -> bool:
        """Whether ``b / a`` agrees, without dividing (a is 0 at pure noise)."""
        size = math.hypot(self.a, self.b) * math.hypot(other.a, other.b)
        one, two = self.b * other.a, other.b * self.a
        return math.isclose(one, two, rel_tol=rtol, abs_tol=1e-9 * size)

    def noisier_than(self, other: NoiseLevel) -> bool:
        """Whether ``b / a`` is greater by more than rounding."""
        return self.b * other.a > other.b * self.a and not self.same_noise(other, rtol=1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class HistoryEntry:
    """An earlier prediction of x0 that a multistep sampler needs, with its noise level."""

    level: NoiseLevel
    x0: Array


@dataclass(frozen=True, slots=True, eq=False)
class LatentState:
    """One picture's latent between two steps.

    x: float32 [C, H, W], in the sampler's native form at noise level ``level``.
    step: the number of steps done, hence the 0-based index of the next one; steps: how many in all.
    history: earlier x0 predictions, newest last (DPM-Solver++ 2M keeps one).
    rng: the generator's state, for stochastic samplers; empty otherwise.

    Raises CorruptEnvelope for shapes that disagree and for values that are not finite.
    """

    x: Array
    level: NoiseLevel
    step: int
    steps: int
    sampler: str
    history: tuple[HistoryEntry, ...] = ()
    rng: bytes = b""

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_sampler(self.sampler)
        if not 0 <= self.step <= self.steps:
            raise CorruptEnvelope(f"step {self.step} is not within 0..{self.steps}")
        for array in (self.x, *(entry.x0 for entry in self.history)):
            if array.ndim != 3 or array.shape != self.x.shape or array.dtype != np.float32:
                raise CorruptEnvelope(
                    f"a latent is float32 [C, H, W], got {array.dtype} {array.shape}"
                )
            if not np.isfinite(array).all():
                raise CorruptEnvelope("the latent holds NaN or infinite values")

    @property
    def intensity(self) -> float:
        """Latent intensity ``||x||_2`` (RISE, Sec. III)."""
        return float(np.linalg.norm(self.x))
