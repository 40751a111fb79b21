"""Serving *simulated*: requests without a model on a clock that a latency model drives.

The engine's rounds are chosen by what chooses them when it serves: `next_round`, planner and
controller. Nothing is measured on a GPU: it says what follows from a latency model, here from how
much a UNet call slows beside a decode.

The latency model, in seconds, with the constants of what fits SynerDiff's Table I:

- A UNet call alone: 0.0076 and 0.0194 a row, the latter times the size's pixels to those of 512 px.
- A decode alone: a multiple of a request's guided step without that overhead (``decode_steps``;
  0.92 in Table I), as many times longer for more pixels. Encoding prompts costs nothing.
- Direct concurrency: whole decodes on a lane of their own, one after the other. While both lanes
  are busy each runs at 1 / (1 + slowdown) of its pace.
- Rounds: chunks begin with the call, and the next round with the end of both. If they fill a share
  x of the call's time, both take 1 + slowdown * x ** power times as long. A power of 2 says that
  short chunks find bandwidth left over, which is SynerDiff's claim; a power of 1 that contention
  adds up to the same however a decode is cut, which is the control.
  A decode is cut by Eq. 1 at rest, and finer as the controller says.
- Dynamic batching: up to as many requests of one size as fit, within 0.5 s of the first one's
  arrival; all leave when the one of most steps does and all are decoded, with nothing beside.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.scheduling.actions import Action, Bounds
from baton.edge_server.scheduling.bounds import chunk_cost
from baton.edge_server.scheduling.controller import Controller, ControllerSettings, Knobs
from baton.edge_server.scheduling.planner import Waiting
from baton.edge_server.scheduling.table import PlanTable
from tests.support.fake_requests import BOTH, Chosen, FakeLoop, FakeRequest

#: Of 512, 768 and 1024 px: pixels to those of 512 px.
SIZES = (1.0, 2.25, 4.0)
STEPS = (20, 50)
LIMITS = Limits(active=16, rows=16)
WINDOW = 0.5
#: Of a decoder that is cut as finely as it can be.
PIECES = 24
#: Most steps in a row that skip guidance (SynerDiff, Sec. III-B).
IN_A_ROW = 2
#: The controller as it ships, and one that never skips.
SKIPPING = ControllerSettings(places=LIMITS.active)
UNSKIPPED = ControllerSettings(places=LIMITS.active, floor=1.0)


@dataclass(frozen=True)
class Costs:
    """The latency model; see the module."""

    slowdown: float = 0.0
    power: int = 2
    decode_steps: float = 0.92
    overhead: float = 0.0076
    row: float = 0.0194

    def call(self, rows: int, size: float) -> float:
        return self.overhead + self.row * size * rows

    def decode(self, size: float) -> float:
        return self.decode_steps * 2 * self.row * size

    def beside(self, call: float, chunks: float) -> float:
        """How many times as long a call and the chunks beside it take as alone."""
        if not call:
            return 1.0
        return float(1 + self.slowdown * min(1.0, chunks / call) ** self.power)


@dataclass(frozen=True)
class OfSize:
    """What the planner knows of one size: `Costs` of its rounds."""

    costs: Costs
    size: float
    chunks: int

    def unet(self, u: int, v: int, s: int) -> float | None:
        if 2 * u - s > LIMITS.rows:
            return None
        call = self.costs.call(2 * u - s, self.size)
        return call * self.costs.beside(call, self._alone(v))

    def vae(self, u: int, v: int, s: int) -> float | None:
        if 2 * u - s > LIMITS.rows:
            return None
        call = self.costs.call(2 * u - s, self.size) if u else 0.0
        return self._alone(v) * self.costs.beside(call, self._alone(v))

    def _alone(self, v: int) -> float:
        return v * self.costs.decode(self.size) / self.chunks


@cache
def table(costs: Costs, size: float, chunks: int, bounds: Bounds) -> PlanTable:
    return PlanTable.build(OfSize(costs, size, chunks), bounds, Waiting.BARRIER)


@cache
def chunks_at_rest(costs: Costs, size: float) -> int:
    """Into how many a decode is cut: what costs least by Eq. 1 beside calls of half a batch."""
    call, decode = costs.call(LIMITS.rows // 2, size), costs.decode(size)

    def cost(count: int) -> float:
        times = costs.beside(call, decode / count)
        lanes = [times * call] * count, [times * decode / count] * count
        return chunk_cost(*lanes, (call, decode))

    return min(range(1, PIECES + 1), key=cost)


class Asked(NamedTuple):
    """A request of the trace. arrival: seconds."""

    arrival: float
    size: float
    steps: int


def trace(count: int, rate: float, seed: int = 0) -> list[Asked]:
    """Poisson arrivals at so many a second, of even shares of sizes and steps; all at 0 if inf."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1.0, count)) / rate
    sizes = rng.choice(SIZES, count)
    steps = rng.integers(STEPS[0], STEPS[1] + 1, count)
    return list(map(Asked, arrivals.tolist(), sizes.tolist(), steps.tolist()))


@dataclass
class Position:
    """Where the controller's knobs stand; requests look at them when they line up."""

    costs: Costs
    knobs: Knobs

    def chunks(self, size: float) -> int:
        """Into how many a decode that begins now is cut."""
        return min(PIECES, chunks_at_rest(self.costs, size) * self.knobs.chunks)

    def plan(
        self, size: Hashable, bounds: Bounds, unet: int, vae: int, lean: int
    ) -> tuple[Action, ...] | None:
        """A `Planner`; a size is its requests' pace."""
        assert isinstance(size, float)
        plans = table(self.costs, size, self.chunks(size), bounds)
        return plans.plan(unet, vae, lean, self.knobs.delta)


@dataclass(eq=False)
class Simulated(FakeRequest):
    """A request of the trace. position: of the knobs; without it, it never skips."""

    asked: Asked = field(kw_only=True)
    position: Position | None = None

    def line_up(self) -> None:
        if self.position is not None:
            self.lean_from = ceil(self.position.knobs.skip_after * self.asked.steps)
        super().line_up()
        if self.skipped[-IN_A_ROW:] == list(range(self.step - IN_A_ROW, self.step)):
            self.lean = None


def simulated(asked: Asked, position: Position | None = None) -> Simulated:
    """One that is decoded by its loop, if it has a position; else elsewhere."""
    chunks = 1 if position else 0
    return Simulated(
        (BOTH,) * asked.steps, asked.size, chunks=chunks, asked=asked, position=position
    )


def _size(request: FakeRequest) -> float:
    assert isinstance(request, Simulated)
    return request.asked.size


class Arrivals:
    """Hands requests over as the clock reaches them."""

    def __init__(self, requests: Sequence[Simulated]) -> None:
        self._requests = requests
        self._times = [request.asked.arrival for request in requests]
        self._taken = 0

    def until(self, now: float) -> Sequence[Simulated]:
        begin, self._taken = self._taken, bisect_right(self._times, now)
        return self._requests[begin : self._taken]

    @property
    def next(self) -> float:
        """When somebody comes, infinity if nobody does."""
        return self._times[self._taken] if self._taken < len(self._times) else float("inf")


@dataclass
class Outcome:
    """ends: of each request when it came and when it had its picture, seconds.

    rounds: that denoised; planned: of those; rows: that ran, and skipped: that were left out;
    levels: of the controller, by round.
    """

    ends: list[tuple[float, float]] = field(default_factory=list)
    rounds: int = 0
    planned: int = 0
    rows: int = 0
    skipped: int = 0
    levels: list[int] = field(default_factory=list)

    def ended(self, request: FakeRequest, now: float) -> None:
        assert isinstance(request, Simulated)
        self.ends.append((request.asked.arrival, now))

    def ran(self, chosen: Chosen) -> None:
        self.rounds += 1
        self.planned += chosen.planned
        self.rows += _rows(chosen)
        self.skipped += sum(work is request.lean for request, work in chosen.denoise)

    @property
    def throughput(self) -> float:
        """Pictures a second, from the first arrival to the last picture."""
        first = min(arrival for arrival, _ in self.ends)
        return len(self.ends) / (max(end for _, end in self.ends) - first)

    def told(self) -> dict[str, Any]:
        waits = np.array([end - arrival for arrival, end in self.ends])
        told: dict[str, Any] = {
            "throughput": self.throughput,
            "mean_seconds": float(waits.mean()),
            "p99_seconds": float(np.quantile(waits, 0.99)),
        }
        if self.levels:
            told["planned_share"] = self.planned / self.rounds
            told["skipped_rows_share"] = self.skipped / (self.rows + self.skipped)
            told["mean_level"] = float(np.mean(self.levels))
        return told


def by_rounds(asked: Sequence[Asked], costs: Costs, settings: ControllerSettings) -> Outcome:
    """The engine: `next_round` with planner and controller, a clock beside it."""
    controller, now, outcome = Controller(settings), 0.0, Outcome()
    position = Position(costs, controller.knobs)
    loop = FakeLoop(LIMITS, plan=position.plan)
    arrivals = Arrivals([simulated(each, position) for each in asked])
    while len(outcome.ends) < len(asked):
        loop.queues.waiting.extend(arrivals.until(now))
        controller = controller.after(len(loop.queues.waiting), now)
        position.knobs = controller.knobs
        chosen = loop.choose()
        if chosen is None:
            now = arrivals.next
            continue
        now = _timed(chosen, now, position, outcome)
        if chosen.denoise:
            outcome.ran(chosen)
            outcome.levels.append(controller.level)
        loop.run(chosen)
    return outcome


def _timed(chosen: Chosen, now: float, position: Position, outcome: Outcome) -> float:
    """When a round that begins now has ended; pictures end with their last chunk."""
    for request in chosen.decode:
        if not request.decoded:
            request.chunks = position.chunks(_size(request))
    costs = position.costs
    call = _call(chosen, costs)
    alone = [costs.decode(_size(each)) / each.chunks for each in chosen.decode]
    times = costs.beside(call, sum(alone))
    for request, until in zip(chosen.decode, np.cumsum(alone), strict=True):
        if request.decoded + 1 == request.chunks:
            outcome.ended(request, now + float(until) * times)
    return now + times * max(call, sum(alone))


def _rows(chosen: Chosen) -> int:
    return sum(work.rows for _, work in chosen.denoise)


def _call(chosen: Chosen, costs: Costs) -> float:
    if not chosen.denoise:
        return 0.0
    return costs.call(_rows(chosen), _size(chosen.denoise[0][0]))


class Lane:
    """Whole decodes, one after the other."""

    def __init__(self, costs: Costs, outcome: Outcome) -> None:
        self.costs = costs
        self.outcome = outcome
        self.line: deque[Simulated] = deque()
        self.left = 0.0

    def take(self, requests: Iterable[FakeRequest]) -> None:
        for request in requests:
            assert isinstance(request, Simulated)
            self.line.append(request)
            self.left = self.left or self.costs.decode(request.asked.size)

    def beside(self, call: float, now: float) -> float:
        """When a call that begins now ends."""
        pace = 1 + self.costs.slowdown
        while self.line and call > 0:
            both = min(call, self.left)
            now, call = now + both * pace, call - both
            self._decoded(both, now)
        return now + call

    def alone(self, now: float, until: float) -> float:
        """When its first decode ends, or the time is over."""
        seconds = min(self.left, until - now)
        self._decoded(seconds, now + seconds)
        return now + seconds

    def _decoded(self, seconds: float, now: float) -> None:
        self.left = max(0.0, self.left - seconds)
        if self.left < 1e-12:
            self.outcome.ended(self.line.popleft(), now)
            self.left = self.costs.decode(self.line[0].asked.size) if self.line else 0.0


def directly(asked: Sequence[Asked], costs: Costs) -> Outcome:
    """Direct concurrency (InstGenIE's way): greedy calls, whole decodes beside them."""
    loop, now, outcome = FakeLoop(LIMITS), 0.0, Outcome()
    arrivals, lane = Arrivals([simulated(each) for each in asked]), Lane(costs, outcome)
    while len(outcome.ends) < len(asked):
        loop.queues.waiting.extend(arrivals.until(now))
        chosen = loop.choose()
        if chosen is None:
            now = lane.alone(now, arrivals.next) if lane.line else arrivals.next
            continue
        now = lane.beside(_call(chosen, costs), now)
        loop.run(chosen)
        lane.take(loop.ended)
        loop.ended.clear()
    return outcome


def in_batches(asked: Sequence[Asked], costs: Costs) -> Outcome:
    """Dynamic batching; see the module."""
    outcome, now, most = Outcome(), 0.0, LIMITS.rows // 2
    waiting = list(asked)
    while waiting:
        first = waiting[0]
        now = max(now, first.arrival)
        closes = max(now, first.arrival + WINDOW)
        come = waiting[: bisect_right(waiting, closes, key=lambda each: each.arrival)]
        batch = [each for each in come if each.size == first.size][:most]
        now = max(now, batch[-1].arrival) if len(batch) == most else closes
        now += max(each.steps for each in batch) * costs.call(2 * len(batch), first.size)
        now += len(batch) * costs.decode(first.size)
        outcome.ends += [(each.arrival, now) for each in batch]
        gone = set(map(id, batch))
        waiting = [each for each in waiting if id(each) not in gone]
    return outcome
