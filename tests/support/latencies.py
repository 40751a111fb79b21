"""Latency tables for the planner, without a machine on which to measure them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Key = tuple[int, int, int]


@dataclass(frozen=True)
class TableI:
    """What fits SynerDiff's Table I, in seconds: a call of u tasks, and decodes back to back.

    saved: of a task's time in a call, what leaving out its unconditional row saves.
    """

    saved: float = 0.0

    def unet(self, u: int, v: int, s: int) -> float:
        return 0.0076 + 0.0388 * (u - self.saved * s)

    def vae(self, u: int, v: int, s: int) -> float:
        return 0.0358 * v


@dataclass(frozen=True)
class Listed:
    """Those that are listed, in whole milliseconds; the others are not known."""

    calls: dict[Key, int]
    chunks: dict[Key, int]

    def unet(self, u: int, v: int, s: int) -> float | None:
        return _seconds(self.calls.get((u, v, s)))

    def vae(self, u: int, v: int, s: int) -> float | None:
        return _seconds(self.chunks.get((u, v, s)))


@dataclass(frozen=True)
class Noisy:
    """Table I's times some noise, 0 for none to 1 for up to twice as long, with holes."""

    seed: int
    noise: float
    holes: float = 0.0
    base: TableI = field(default=TableI(saved=0.5))

    def unet(self, u: int, v: int, s: int) -> float | None:
        return self._spoilt(self.base.unet(u, v, s), (0, u, v, s))

    def vae(self, u: int, v: int, s: int) -> float | None:
        return self._spoilt(self.base.vae(u, v, s), (1, u, v, s))

    def _spoilt(self, seconds: float, key: tuple[int, ...]) -> float | None:
        hole, more = np.random.default_rng((self.seed, *key)).random(2)
        return None if hole < self.holes else round(seconds * (1 + self.noise * more), 3)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
