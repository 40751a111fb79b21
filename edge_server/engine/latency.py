"""How fast the model thread is, measured, and when a request would be done."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from baton.common.plan import Plan, followers
from baton.common.size import Size
from baton.edge_server.engine.job import Work

_DECAY = 0.9  # of a round's weight with every later one
_SETTLED_WEIGHT = 3.0
_SEED_WEIGHT = 5.0  # in rounds
_OUTLIER = 4.0  # times what was expected: a stall of the machine says little of the next round
_FRESH_SECONDS = 5.0
_NONE = 1e-9  # rows, for what sums of floats leave behind


class Pace(NamedTuple):
    """Of what rounds are alike but for their load: the member, and the size of the pictures."""

    member: str
    size: Size


@dataclass(frozen=True)
class LatencyModel:
    """Seconds of a round as a straight line over its load: exponentially weighted least squares.

    A round is one model call with all that comes before and after it on the model thread; its load
    is what its rows run, in rows that run all blocks. The sums are weighted; ``measured`` is when
    the last round ended.
    """

    weight: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    rows_squared: float = 0.0
    rows_seconds: float = 0.0
    measured: float = -math.inf
    seed: LatencyModel | None = field(default=None, repr=False)

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> LatencyModel:
        """From rows and seconds of rounds that were measured ahead; at least one."""
        share = _SEED_WEIGHT / len(points)
        sums = (
            share * sum(column)
            for column in zip(*((r, t, r * r, r * t) for r, t in points), strict=True)
        )
        return cls(_SEED_WEIGHT, *sums)._seeding()

    @property
    def seeded(self) -> bool:
        """Whether it is known without a fresh round, too."""
        return self.seed is not None

    def at(self, now: float) -> LatencyModel:
        """What may be relied on now: without a fresh round, what it began with."""
        return self if self.seed is None or self.fresh(now) else self.seed._seeding()

    def _seeding(self) -> LatencyModel:
        """As it is before the first round."""
        return replace(self, seed=self)

    def after(self, rows: float, seconds: float, now: float | None = None) -> LatencyModel:
        """The model with one more round; one that took far too long counts as less."""
        if self.weight > _SETTLED_WEIGHT:
            seconds = min(seconds, _OUTLIER * self.round_seconds(rows))
        return LatencyModel(
            self.weight * _DECAY + 1.0,
            self.rows * _DECAY + rows,
            self.seconds * _DECAY + seconds,
            self.rows_squared * _DECAY + rows * rows,
            self.rows_seconds * _DECAY + rows * seconds,
            time.monotonic() if now is None else now,
            self.seed,
        )

    def fresh(self, now: float) -> bool:
        """Whether it may be relied on: what it refused meanwhile was not measured again."""
        return now - self.measured < _FRESH_SECONDS

    def round_seconds(self, rows: float) -> float:
        """Expected seconds of a round over so many rows."""
        mean_rows, mean = self.rows / self.weight, self.seconds / self.weight
        spread = self.rows_squared / self.weight - mean_rows**2
        slope = 0.0
        if spread > 1e-3:  # seen at more than one size; else a round costs the same at any
            slope = (self.rows_seconds / self.weight - mean_rows * mean) / spread
        slope = min(max(slope, 0.0), mean / mean_rows)
        return mean + slope * (rows - mean_rows)


@dataclass(frozen=True)
class RemainingWork:
    """What a request still asks of the model: so many calls, each of such a load, at a pace.

    Steps that may be evaluated together are one call.
    """

    pace: Pace
    rows: float
    steps: int

    @classmethod
    def course(cls, work: Work) -> tuple[RemainingWork, ...]:
        """By steps done since its first, what is left of the edge's part: one more than steps."""
        loads = work.loads or rows_of(work.plan)
        return cls.between(work.plan, (work.first_step, work.stop), work.task.size, loads)

    @classmethod
    def between(
        cls, plan: Plan, steps: tuple[int, int], size: Size, loads: Sequence[float]
    ) -> tuple[RemainingWork, ...]:
        """As if all steps were on the member of the next one. loads: by step of the plan."""
        first, stop = steps
        left = [(0, 0.0)] * (stop - first + 1)  # calls and rows
        for step in reversed(range(first, stop)):
            end = min(step + 1 + followers(plan.segment_at(step), step), stop)
            calls, rows = left[end - first]
            left[step - first] = calls + 1, rows + sum(loads[step:end])
        members = [plan.segment_at(min(step, stop - 1)).member for step in range(first, stop + 1)]
        return tuple(
            cls(Pace(member, size), rows / calls if calls else 1.0, calls)
            for member, (calls, rows) in zip(members, left, strict=True)
        )


def rows_of(plan: Plan) -> tuple[float, ...]:
    """The loads of its steps if every row costs as much."""
    return tuple(float(len(plan.branches_at(step))) for step in range(plan.steps))


@dataclass(frozen=True)
class Forecast:
    """Predicts when requests end that share the model as the engine lets them.

    active: requests that run together; rows: of one model call; the others wait in their order.
    """

    latency: Mapping[Pace, LatencyModel]
    active: int
    rows: int

    def knows(self, works: Iterable[RemainingWork], now: float) -> bool:
        """Whether every pace asked for has been measured lately, or ahead."""
        models = [self.latency.get(pace) for pace in {remaining.pace for remaining in works}]
        return all(model is not None and (model.seeded or model.fresh(now)) for model in models)

    def seconds(self, works: Sequence[RemainingWork], limit: float = math.inf) -> float:
        """Seconds until the last of the works is done, or the first value above ``limit``.

        All that run advance by one step a cycle, so the one with the fewest steps left ends first
        and the next in line takes its place.
        """
        running: list[tuple[int, int]] = []
        rows: dict[Pace, float] = {}
        waiting, last, cycles, elapsed = 0, len(works) - 1, 0, 0.0
        while elapsed <= limit:
            while waiting < len(works) and len(running) < self.active:
                remaining = works[waiting]
                heapq.heappush(running, (cycles + remaining.steps, waiting))
                rows[remaining.pace] = rows.get(remaining.pace, 0.0) + remaining.rows
                waiting += 1
            end, index = heapq.heappop(running)
            elapsed += (end - cycles) * self._cycle_seconds(rows)
            cycles = end
            rows[works[index].pace] -= works[index].rows
            if index == last:
                break
        return elapsed

    def _cycle_seconds(self, rows: Mapping[Pace, float]) -> float:
        """Seconds in which all that run take one step; rows: of all of them, by pace."""
        seconds = 0.0
        for pace, total in rows.items():
            if total > _NONE:
                calls = math.ceil(total / self.rows)
                seconds += calls * self.latency[pace].round_seconds(total / calls)
        return seconds
