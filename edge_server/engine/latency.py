"""How fast the model thread is, measured, and when a request would be done."""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from baton.common.plan import Plan, followers
from baton.common.size import Size
from baton.edge_server.engine.job import Work

_LASTING, _RECENT = 0.99, 0.9  # of a round's weight with every later one
_SETTLED_WEIGHT = 3.0
_SEED_WEIGHT = 5.0  # in rounds
_OUTLIER = 4.0  # times what was expected: a stall of the machine says little of the next round
_FRESH_SECONDS = 5.0
_OLD_SECONDS = 1.0
_NONE = 1e-9  # rows, for what sums of floats leave behind


class Pace(NamedTuple):
    """Of what calls are alike but for their load.

    The rounds of a member at a size of pictures; without a size, the encoder of the member's
    prompts; without a member, the decoder at the size.
    """

    member: str
    size: Size | None

    @classmethod
    def encoding(cls, member: str) -> Pace:
        """Its load: prompts."""
        return cls(member, None)

    @classmethod
    def decoding(cls, size: Size) -> Pace:
        """Its load: the parts, each between two rounds, in which a latent is decoded."""
        return cls("", size)


class Line(NamedTuple):
    """Seconds over a load."""

    base: float
    slope: float

    def at(self, load: float) -> float:
        return self.base + self.slope * load


@dataclass(frozen=True)
class _Sums:
    """Weighted, over rounds."""

    weight: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    rows_squared: float = 0.0
    rows_seconds: float = 0.0

    def after(self, rows: float, seconds: float, decay: float) -> _Sums:
        return _Sums(
            self.weight * decay + 1.0,
            self.rows * decay + rows,
            self.seconds * decay + seconds,
            self.rows_squared * decay + rows * rows,
            self.rows_seconds * decay + rows * seconds,
        )

    def line(self) -> Line:
        """Least squares; it neither falls nor passes below zero."""
        mean_rows, mean = self.rows / self.weight, self.seconds / self.weight
        spread = self.rows_squared / self.weight - mean_rows**2
        slope = 0.0
        if spread > 1e-3:  # seen at more than one size; else a round costs the same at any
            slope = (self.rows_seconds / self.weight - mean_rows * mean) / spread
        slope = min(max(slope, 0.0), mean / mean_rows)
        return Line(mean - slope * mean_rows, slope)


@dataclass(frozen=True)
class LatencyModel:
    """Seconds of a round as a straight line over its load: exponentially weighted least squares.

    A round is one model call with what comes before and after it on the model thread; its load is
    what its rows run, in rows that run all blocks. How a round grows with its load is learnt from
    the last hundred rounds, since under a steady load ten are all alike; how fast the machine is
    now, from the last ten. ``measured`` is when the last one ended.
    """

    lasting: _Sums = field(default_factory=_Sums)
    recent: _Sums = field(default_factory=_Sums)
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
        ahead = _Sums(_SEED_WEIGHT, *sums)
        return cls(ahead, ahead)._seeding()

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
        if self.recent.weight > _SETTLED_WEIGHT:
            seconds = min(seconds, _OUTLIER * self.round_seconds(rows))
        return replace(
            self,
            lasting=self.lasting.after(rows, seconds, _LASTING),
            recent=self.recent.after(rows, seconds, _RECENT),
            measured=time.monotonic() if now is None else now,
        )

    def fresh(self, now: float) -> bool:
        """Whether it was measured lately."""
        return now - self.measured < _FRESH_SECONDS

    @property
    def load(self) -> float:
        """Mean of the last rounds'."""
        return self.recent.rows / self.recent.weight

    def line(self) -> Line:
        """Expected seconds over the load: as it lasts, as fast as of late."""
        base, slope = self.lasting.line()
        expected = base * self.recent.weight + slope * self.recent.rows
        level = self.recent.seconds / expected if expected > 0 else 1.0
        return Line(level * base, level * slope)

    def round_seconds(self, rows: float) -> float:
        """Expected seconds of a round over so many rows."""
        return self.line().at(rows)


@dataclass(frozen=True)
class RemainingWork:
    """What a request still asks of the model: so many calls, each of such a load, at a pace.

    Steps that may be evaluated together are one call. unencoded: its prompts are encoded first;
    then: what another member does after it; decodes: the size at which it is decoded at the end.
    """

    pace: Pace
    rows: float
    steps: int
    unencoded: bool = False
    then: RemainingWork | None = None
    decodes: Size | None = None

    @classmethod
    def course(cls, work: Work) -> tuple[RemainingWork, ...]:
        """By steps done since its first, what is left of the edge's part: one more than steps."""
        loads, size = work.loads or rows_of(work.plan), work.task.size
        ended = cls._ended(work.plan, work.stop, size)
        if work.stop == work.plan.steps:
            ended = replace(ended, decodes=size)
        first, *later = cls._until(ended, work.plan, (work.first_step, work.stop), loads)
        return replace(first, unencoded=True), *later

    @classmethod
    def between(
        cls, plan: Plan, steps: tuple[int, int], size: Size, loads: Sequence[float]
    ) -> tuple[RemainingWork, ...]:
        """Of steps alone, their prompts encoded. loads: by step of the plan."""
        return cls._until(cls._ended(plan, steps[1], size), plan, steps, loads)

    @classmethod
    def _ended(cls, plan: Plan, stop: int, size: Size) -> RemainingWork:
        return cls(Pace(plan.segment_at(stop - 1).member, size), 1.0, 0)

    @classmethod
    def _until(
        cls, ended: RemainingWork, plan: Plan, steps: tuple[int, int], loads: Sequence[float]
    ) -> tuple[RemainingWork, ...]:
        first, stop = steps
        left = [ended] * (stop - first + 1)
        for step in reversed(range(first, stop)):
            segment = plan.segment_at(step)
            end = min(step + 1 + followers(segment, step), stop)
            rest, load = left[end - first], sum(loads[step:end])
            pace = Pace(segment.member, ended.pace.size)
            if rest.pace == pace:
                calls = rest.steps + 1
                rows = (rest.rows * rest.steps + load) / calls
                left[step - first] = replace(rest, rows=rows, steps=calls)
            else:
                then = replace(rest, unencoded=True)
                left[step - first] = cls(pace, load, 1, then=then)
        return tuple(left)

    def paces(self) -> set[Pace]:
        """Of all its rounds."""
        later = self.then.paces() if self.then else set()
        return {self.pace} | later

    @property
    def load(self) -> float:
        """Of all its rounds, in rows that run all blocks."""
        return self.rows * self.steps + (self.then.load if self.then else 0.0)

    @property
    def calls(self) -> int:
        """In which it takes part."""
        return self.steps + (self.then.calls if self.then else 0)


def rows_of(plan: Plan) -> tuple[float, ...]:
    """The loads of its steps if every row costs as much."""
    return tuple(float(len(plan.branches_at(step))) for step in range(plan.steps))


@dataclass(frozen=True)
class Forecast:
    """Predicts when requests end that share the model as the engine lets them.

    active: requests that run together; rows: of one model call; the others wait in their order.
    What was never measured takes no time.
    """

    latency: Mapping[Pace, LatencyModel]
    active: int
    rows: int

    def old(self, work: RemainingWork, now: float) -> set[Pace]:
        """Its paces of which nothing was measured just now, though something once in serving."""
        return {
            pace
            for pace in work.paces() & self.latency.keys()
            if -math.inf < self.latency[pace].measured <= now - _OLD_SECONDS
        }

    def knows(self, works: Iterable[RemainingWork], now: float) -> bool:
        """Whether every pace asked for has been measured lately, or ahead."""
        paces = {pace for remaining in works for pace in remaining.paces()}
        models = [self.latency.get(pace) for pace in paces]
        return all(model is not None and (model.seeded or model.fresh(now)) for model in models)

    def seconds(self, works: Sequence[RemainingWork], limit: float = math.inf) -> float:
        """Seconds until the last of the works is done, or the first value above ``limit``."""
        play = _Play(self, works)
        return min(play.run(limit)[-1], play.elapsed)

    def ends(self, works: Sequence[RemainingWork], limit: float = math.inf) -> list[float]:
        """By request, the seconds until it is done; infinite for some that end after ``limit``.

        works: those that run, then those that wait, in the order in which they get their places.
        """
        return _Play(self, works).run(limit)

    def cycle(self, works: Sequence[RemainingWork]) -> float:
        """Seconds in which those of the works that have places take one step each."""
        return _Play(self, works).cycle()


class _Play:
    """The queue played forward: all that run advance by one step a cycle.

    A cycle is a round, or more, of each pace, with a part of each picture that is being decoded.
    """

    def __init__(self, forecast: Forecast, works: Sequence[RemainingWork]) -> None:
        self._lines = {pace: model.line() for pace, model in forecast.latency.items()}
        self._forecast = forecast
        self._waiting = deque(enumerate(works))
        #: By the cycle of its end, what a member does of a request; of a picture, a part's seconds.
        self._running: list[tuple[int, int, RemainingWork | float]] = []
        self._placed = 0
        self._rows: dict[Pace, float] = {}
        self._parts = 0.0  # seconds of a cycle
        self._cycle = 0
        self._ends = [math.inf] * len(works)
        self.elapsed = 0.0

    def cycle(self) -> float:
        """Seconds in which all that run take a step."""
        self._fill()
        return self._seconds()

    def run(self, limit: float) -> list[float]:
        while self._waiting or self._running:
            self._fill()
            if self._running:
                self._to_the_next_end()
            if self.elapsed > limit:
                break
        return self._ends

    def _fill(self) -> None:
        while self._waiting and self._placed < self._forecast.active:
            number, work = self._waiting.popleft()
            self._placed += 1
            self._begin(number, work)

    def _begin(self, number: int, work: RemainingWork) -> None:
        if not work.steps:
            self._denoised(number, work)
            return
        if work.unencoded:
            self.elapsed += self._line(Pace.encoding(work.pace.member)).at(1.0)
        heapq.heappush(self._running, (self._cycle + work.steps, number, work))
        self._rows[work.pace] = self._rows.get(work.pace, 0.0) + work.rows

    def _denoised(self, number: int, work: RemainingWork) -> None:
        self._placed -= 1
        pace = Pace("", work.decodes)
        model = self._forecast.latency.get(pace)
        if work.decodes is None or model is None:
            self._ends[number] = self.elapsed
            return
        parts = max(round(model.load), 1)
        seconds = self._line(pace).at(parts) / parts
        heapq.heappush(self._running, (self._cycle + parts, number, seconds))
        self._parts += seconds

    def _to_the_next_end(self) -> None:
        end, number, work = heapq.heappop(self._running)
        if end > self._cycle:
            self.elapsed += (end - self._cycle) * self._seconds()
            self._cycle = end
        if not isinstance(work, RemainingWork):
            self._parts -= work
            self._ends[number] = self.elapsed
            return
        self._rows[work.pace] -= work.rows
        if work.then is not None:
            self._begin(number, work.then)
        else:
            self._denoised(number, work)

    def _seconds(self) -> float:
        """Of a cycle."""
        seconds = self._parts
        for pace, total in self._rows.items():
            if total > _NONE:
                line, calls = self._line(pace), math.ceil(total / self._forecast.rows - _NONE)
                seconds += calls * line.base + line.slope * total
        return seconds

    def _line(self, pace: Pace) -> Line:
        return self._lines.get(pace, _FREE)


_FREE = Line(0.0, 0.0)
