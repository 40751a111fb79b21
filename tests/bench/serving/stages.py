"""The stages of the benchmark: what is measured, of whom, under which load."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

from rich.progress import track

from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.registry import Prompts, find_prompts, find_scorer
from baton.common.limits import Accel
from baton.common.quality.verifier import Scorer
from tests.bench.serving import relaying, replay
from tests.bench.serving.alone import references
from tests.bench.serving.closed import Loop, bare_gain, rounds, tuned
from tests.bench.serving.driver import open_loop
from tests.bench.serving.fleet import Fleet
from tests.bench.serving.keep import Kept
from tests.bench.serving.metrics import Alone, Judge, Slice
from tests.bench.serving.scheduling import ABLATIONS, SHIPPED
from tests.bench.serving.systems import Picture, Spec
from tests.bench.serving.trace import WARPS, Arrival, Trace, make_trace

BURST = "burst"
#: A system whose pace is below this share of a load's rate is measured with the first seed alone:
#: the second one would show the same backlog grow.
_HOPELESS = 0.8
_REPLAY_SEED, _MIX_SEED = 303, 404
#: Between two requests whose pictures are held against unbatched ones.
_REFERENCE_EVERY = 16


@dataclass(frozen=True)
class Size:
    """How much is measured.

    seconds: of a point and seed, in so many slices; a burst is one. grace: seconds after a slice in
    which what is under way may end. rates: of direct concurrency's pace; burst_rate: the mean one.
    ablated: the loads of the ablation. closed, large: rounds and seconds of closed loops. tuning:
    seconds of one; gathers, timeouts: of the batcher; actives, besides: of direct concurrency.
    replays: prompts; mixes: pictures of the relay's score.
    """

    seconds: float = 100.0
    slices: int = 2
    grace: float = 5.0
    seeds: tuple[int, ...] = (1, 2)
    rates: tuple[float, ...] = (0.5, 0.9, 1.1, 1.3)
    burst_rate: float = 0.7
    ablated: tuple[str, ...] = ("1.1", BURST)
    closed: tuple[int, float] = (5, 10.0)
    large: tuple[int, float] = (3, 20.0)
    tuning: float = 10.0
    gathers: tuple[int, ...] = (8, 16, 32)
    timeouts: tuple[float, ...] = (0.02, 0.2)
    actives: tuple[int, ...] = (8, 16)
    besides: tuple[bool, ...] = (True, False)
    accels: tuple[Accel, ...] = ("propagate", "masks", "full")
    replays: int = 1000
    mixes: int = 200
    warm: float = 3.0


QUICK = Size(
    seconds=2.5,
    slices=1,
    grace=1.0,
    seeds=(1,),
    closed=(1, 4.0),
    large=(1, 6.0),
    tuning=2.0,
    gathers=(16,),
    timeouts=(0.2,),
    actives=(16,),
    besides=(True,),
    accels=("propagate",),
    replays=20,
    mixes=4,
    warm=0.5,
)


@dataclass(frozen=True)
class Load:
    """rate: mean, of direct's pace."""

    name: str
    rate: float
    warp: str = "steady"


@dataclass
class Points:
    """By (system, load), its slices and the seeds of their traces."""

    slices: dict[tuple[str, str], list[Slice]] = field(default_factory=dict)
    seeds: dict[tuple[str, str], set[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """A slice to be measured. rate: requests a second; arrivals: with the seconds of the slice."""

    spec: Spec
    load: Load
    seed: int
    part: int
    rate: float
    arrivals: tuple[float, Sequence[Arrival]]


class Stages:
    """One run. member: that serves; large: another that the closed loops measure, too."""

    def __init__(self, size: Size, kept: Kept, family: str = "scenes", budget: str = "") -> None:
        """budget: of guidance that every request brings; empty: the family's own."""
        self.size, self.kept, self.budget = size, kept, budget
        self.family: LoadedFamily = load_family(family, ("large", "small"))
        self.name = family
        self.scorer: Scorer | None = find_scorer(self.family.spec.scorer)
        prompts = find_prompts(self.family.spec.prompts)
        if prompts is None:
            raise ValueError(f"{family} has no prompts")
        self.prompts: Prompts = prompts
        self.side = self.family.spec.default_size.width
        self._references: dict[int, dict[int, Picture]] = {}
        first = self.trace(size.seeds[0], 400)
        self.requests = list(first.requests)
        self.plain = [replace(request, side=self.side) for request in self.requests]
        self.alone: Alone = {}
        self.fleet = Fleet(self.requests, size.warm)

    def trace(self, seed: int, count: int) -> Trace:
        return make_trace(self.prompts, count, seed)

    def spec(self, name: str, kind: str, member: str = "small", **settings: Any) -> Spec:
        return Spec(name, kind, member, self.name, tuple(sorted(settings.items())))

    def baton(self, scheduling: str = SHIPPED, member: str = "small", **settings: Any) -> Spec:
        name = "baton" if scheduling == SHIPPED else f"baton {scheduling}"
        settings |= {"budget": self.budget} if self.budget else {}
        return self.spec(name, "baton", member, scheduling=scheduling, **settings)

    def time_alone(self) -> None:
        """Seconds of every kind of request, drawn alone."""
        shapes = {request.shape: request for request in self.requests}
        found = self.kept(("alone", self.size.warm), lambda: self._time_alone(shapes))
        self.alone = {(steps, side): seconds for steps, side, seconds in found}

    def _time_alone(self, shapes: Mapping[tuple[int, int], Any]) -> list[list[float]]:
        times: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
        for _ in range(3):
            _, seconds = references(self.family, "small", list(shapes.values()))
            for shape, took in zip(shapes, seconds, strict=True):
                times[shape].append(took)
        return [[*shape, median(took)] for shape, took in times.items()]

    def tune(self) -> tuple[Spec, Spec, list[dict[str, Any]]]:
        """The batcher and direct concurrency at their fastest, and what was tried."""
        batchers = [
            self.spec(f"batcher {gather} {timeout}", "batcher", gather=gather, timeout=timeout)
            for gather in self.size.gathers
            for timeout in self.size.timeouts
        ]
        directs = [
            self.spec(f"direct {active} {beside}", "direct", active=active, beside=beside)
            for active in self.size.actives
            for beside in self.size.besides
        ]
        best, rows = [], list[dict[str, Any]]()
        for grid in (batchers, directs):
            with self.apart():
                how = self.size.tuning, self.kept
                chosen, tried = tuned(self.fleet, grid, self.requests, how)
            best.append(replace(chosen, name=chosen.kind))
            rows += tried
        return best[0], best[1], rows

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Systems that are started within the block end with it."""
        before, self.fleet = self.fleet, Fleet(self.requests, self.size.warm)
        with self.fleet:
            yield
        self.fleet = before

    def closed(self, specs: Sequence[Spec], load: str = "mixed") -> dict[str, list[Loop]]:
        """load: ``mixed`` as the trace is, else all of it at the family's default size."""
        requests = self.requests if load == "mixed" else self.plain
        size = self.size.large if specs[0].member == "large" else self.size.closed
        named = f"{load} {specs[0].member}", requests
        return rounds(self.fleet, specs, named, size, self.kept)

    def bare(self, member: str) -> list[float]:
        """Of each round, what a bare loop gains at batch 8 over batch 1."""
        count, seconds = self.size.large if member == "large" else self.size.closed
        return [
            self.kept(
                ("bare", member, number, seconds),
                lambda: bare_gain(self.family, member, seconds / 2),
            )
            for number in range(count)
        ]

    def loads(self) -> list[Load]:
        steady = [Load(f"{rate:g}", rate) for rate in self.size.rates]
        return [*steady, Load(BURST, self.size.burst_rate, BURST)]

    def open(self, specs: Sequence[Spec], paces: Mapping[str, float]) -> Points:
        """Every system under every load, interleaved slice by slice.

        paces: pictures a second that each one can do; direct's is what the rates are of.
        """
        points = Points()
        for turn in track(list(self._turns(specs, paces)), description="open loop   "):
            spec, load, part = turn.spec, turn.load, turn.part
            key = ("open", spec, load, turn.seed, part, turn.rate, self.size.seconds)
            made = self.kept(key, partial(self._slice, turn))
            points.slices.setdefault((spec.name, load.name), []).append(Slice.of(made))
            points.seeds.setdefault((spec.name, load.name), set()).add(turn.seed)
        return points

    def _turns(self, specs: Sequence[Spec], paces: Mapping[str, float]) -> Iterator[Turn]:
        rng = random.Random(0)
        for load in self.loads():
            rate = load.rate * paces["direct"]
            there = [spec for spec in specs if self._takes(spec, load)]
            for seed in self.size.seeds:
                for part, arrivals in enumerate(self._slices(seed, rate, load)):
                    for spec in rng.sample(there, len(there)):
                        hopeless = paces.get(spec.name, rate) < _HOPELESS * rate
                        if seed == self.size.seeds[0] or not hopeless:
                            yield Turn(spec, load, seed, part, rate, arrivals)

    def _takes(self, spec: Spec, load: Load) -> bool:
        ablated = spec.options.get("scheduling") in ABLATIONS
        return not ablated or load.name in self.size.ablated

    def _slices(self, seed: int, rate: float, load: Load) -> list[tuple[float, list[Arrival]]]:
        """Seconds of each, and who comes in it; a burst stays whole."""
        seconds = self.size.seconds
        count = math.ceil(rate * seconds + 6 * math.sqrt(rate * seconds)) + 10
        arrivals = self.trace(seed, count).at(rate, seconds, WARPS[load.warp])
        parts = self.size.slices if load.warp == "steady" else 1
        length = seconds / parts
        return [
            (
                length,
                [
                    Arrival(item.seconds - part * length, item.request)
                    for item in arrivals
                    if part * length <= item.seconds < (part + 1) * length
                ],
            )
            for part in range(parts)
        ]

    def _slice(self, turn: Turn) -> dict[str, Any]:
        seconds, coming = turn.arrivals
        with self.fleet.working(turn.spec) as remote:
            measured = open_loop(remote, coming, seconds, self.size.grace)
        return self._judge(turn.seed, coming).slice(measured).as_dict()

    def _judge(self, seed: int, arrivals: Sequence[Arrival]) -> Judge:
        """Draws the pictures that are held against what was served, once for all systems."""
        known = self._references.setdefault(seed, {})
        new = [
            item.request
            for item in arrivals
            if item.request.index % _REFERENCE_EVERY == 0 and item.request.index not in known
        ]
        pictures, _ = references(self.family, "small", new)
        known.update(zip((request.index for request in new), pictures, strict=True))
        return Judge(self.scorer, self.side, known)

    def replays(self, points: Points, normal: str) -> dict[str, dict[str, Any]]:
        """Scores of what `baton` ran at a load and in the burst, on other prompts."""
        if self.scorer is None:
            return {}
        prompts = self.prompts(self.side, self.size.replays, _REPLAY_SEED)
        loads = [points.slices["baton", load] for load in (normal, BURST)]
        given = replay.cases(prompts, _REPLAY_SEED, loads, self.side)
        names, scorer = ("normal", "burst"), self.scorer
        key = ("replay", [case.patterns for case in given], _REPLAY_SEED)
        found: dict[str, dict[str, Any]] = self.kept(
            key, lambda: replay.scored(self.family, "small", given, names, scorer)
        )
        return found

    def relay_ideal(self) -> float:
        """Throughput with half of the requests handed off, as accounted from a picture's costs."""
        _, seconds = self.size.large
        found = self.kept(
            ("costs", seconds), lambda: astuple(relaying.costs(self.family, seconds / 2))
        )
        return relaying.Costs(*found).ideal()

    def relay_scores(self) -> dict[str, dict[str, Any]]:
        if self.scorer is None:
            return {}
        scorer = self.scorer
        count = self.size.mixes
        requests = [
            replace(request, side=self.side) for request in self.trace(_MIX_SEED, count).requests
        ]
        found: dict[str, dict[str, Any]] = self.kept(
            ("mix", count), lambda: relaying.mix_scores(self.family, requests, scorer)
        )
        return found
