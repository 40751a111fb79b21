"""How fast the model thread is, measured, and when a request would be done."""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from baton.common.plan import Plan, followers

_DECAY = 0.9  # of a round's weight with every later one
_SETTLED_WEIGHT = 3.0
_OUTLIER = 4.0  # times what was expected: a stall of the machine says little of the next round
_FRESH_SECONDS = 5.0


@dataclass(frozen=True)
class LatencyModel:
    """Seconds of a round as a straight line over its rows: exponentially weighted least squares.

    A round is one model call with all that comes before and after it on the model thread. The sums
    are weighted; ``measured`` is when the last round ended.
    """

    weight: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    rows_squared: float = 0.0
    rows_seconds: float = 0.0
    measured: float = -math.inf

    def after(self, rows: int, seconds: float, now: float | None = None) -> LatencyModel:
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
    """What a request still asks of the model: so many calls, each of so many rows, on a member.

    Steps that are evaluated together are one call.
    """

    member: str
    rows: int
    steps: int

    @classmethod
    def of(cls, plan: Plan, done: int, stop: int) -> RemainingWork:
        """The steps from ``done`` to ``stop``, as if all were on the first one's member."""
        return cls.course(plan, done, stop)[0]

    @classmethod
    def course(cls, plan: Plan, first: int, stop: int) -> tuple[RemainingWork, ...]:
        """By steps done since ``first``, what is left until ``stop``: one more than steps.

        As if all steps were on the member of the next one.
        """
        left = [(0, 0)] * (stop - first + 1)  # calls and rows
        for step in reversed(range(first, stop)):
            guided = plan.guided_at(step)
            group = 1 + followers(plan.segment_at(step), step)
            calls, rows = left[min(step + group, stop) - first]
            left[step - first] = calls + 1, rows + (2 if guided else 1) * group
        members = [plan.segment_at(min(step, stop - 1)).member for step in range(first, stop + 1)]
        return tuple(
            cls(member, max(1, round(rows / max(calls, 1))), calls)
            for member, (calls, rows) in zip(members, left, strict=True)
        )


@dataclass(frozen=True)
class Forecast:
    """Predicts when requests end that share the model as the engine lets them.

    active: requests that run together; rows: of one model call; the others wait in their order.
    """

    latency: Mapping[str, LatencyModel]
    active: int
    rows: int

    def knows(self, works: Iterable[RemainingWork], now: float) -> bool:
        """Whether every member asked for has been measured lately."""
        members = {remaining.member for remaining in works}
        return all(name in self.latency and self.latency[name].fresh(now) for name in members)

    def seconds(self, works: Sequence[RemainingWork], limit: float = math.inf) -> float:
        """Seconds until the last of the works is done, or the first value above ``limit``.

        All that run advance by one step a cycle, so the one with the fewest steps left ends first
        and the next in line takes its place.
        """
        running: list[tuple[int, int]] = []
        rows: Counter[str] = Counter()
        waiting, last, cycles, elapsed = 0, len(works) - 1, 0, 0.0
        while elapsed <= limit:
            while waiting < len(works) and len(running) < self.active:
                remaining = works[waiting]
                heapq.heappush(running, (cycles + remaining.steps, waiting))
                rows[remaining.member] += remaining.rows
                waiting += 1
            end, index = heapq.heappop(running)
            elapsed += (end - cycles) * self._cycle_seconds(rows)
            cycles = end
            rows[works[index].member] -= works[index].rows
            if index == last:
                break
        return elapsed

    def _cycle_seconds(self, rows: Mapping[str, int]) -> float:
        """Seconds in which all that run take one step; rows: of all of them, by member."""
        seconds = 0.0
        for member, total in rows.items():
            if calls := math.ceil(total / self.rows):
                seconds += calls * self.latency[member].round_seconds(total / calls)
        return seconds
