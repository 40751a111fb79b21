"""The load: who asks for what, and when. One value for every system, saved beside the results.

Arrivals are a Poisson process of one request a second; a rate stretches it, a burst warps it. So
every load asks for the same pictures in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baton.common.families.registry import Prompts
from baton.common.files import saving

#: Steps as people ask for them. They are few, since a batcher can put together equal ones alone.
STEPS = (20, 30, 40, 50)
#: Share of the requests of a burst, and where in the time it begins and ends.
BURST_SHARE, BURST_BEGIN, BURST_END = 0.5, 0.20, 0.25


@dataclass(frozen=True, slots=True)
class Request:
    """arrival: seconds at one request a second; side: of the square picture, pixels."""

    index: int
    arrival: float
    prompt: str
    seed: int
    steps: int
    side: int

    @property
    def shape(self) -> tuple[int, int]:
        """What a batch of diffusers' pipeline must share."""
        return self.steps, self.side


@dataclass(frozen=True, slots=True)
class Arrival:
    """seconds: after the beginning."""

    seconds: float
    request: Request


#: From a share of the requests to the share of the time by which they have come.
Warp = Callable[[float], float]


def steady(share: float) -> float:
    return share


def burst(share: float) -> float:
    """Half of the requests come within 5% of the time; the others at an even pace around it."""
    if BURST_BEGIN == 0:
        raise ValueError("a burst follows something")
    outside = (1 - BURST_SHARE) / (1 - (BURST_END - BURST_BEGIN))  # requests by time, both shares
    first = outside * BURST_BEGIN
    if share <= first:
        return share / outside
    if share <= first + BURST_SHARE:
        return BURST_BEGIN + (share - first) * (BURST_END - BURST_BEGIN) / BURST_SHARE
    return BURST_END + (share - first - BURST_SHARE) / outside


WARPS: dict[str, Warp] = {"steady": steady, "burst": burst}


@dataclass(frozen=True)
class Trace:
    """seed: of everything in it; a longer trace of a seed begins with the shorter one."""

    seed: int
    requests: tuple[Request, ...]

    def at(self, rate: float, seconds: float, warp: Warp = steady) -> list[Arrival]:
        """Those of so many seconds at a mean rate. Raises ValueError if the trace is too short."""
        until = rate * seconds
        if self.requests[-1].arrival < until:
            raise ValueError(f"{len(self.requests)} requests are fewer than {until:.0f}")
        return [
            Arrival(seconds * warp(request.arrival / until), request)
            for request in self.requests
            if request.arrival < until
        ]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"requests": [list(astuple(item)) for item in self.requests]}


@dataclass(frozen=True)
class Mix:
    """What is asked for. sides: each with its share of the requests."""

    sides: tuple[tuple[int, float], ...] = ((32, 0.75), (64, 0.25))
    steps: tuple[int, ...] = STEPS


def make_trace(prompts: Prompts, count: int, seed: int, mix: Mix | None = None) -> Trace:
    """prompts: the family's; they are of the world of the first side."""
    mix = mix or Mix()
    sides, shares = zip(*mix.sides, strict=True)
    texts = prompts(sides[0], count, seed)
    arrivals = np.cumsum(np.random.default_rng([seed, 1]).exponential(size=count))
    kinds = np.random.default_rng([seed, 2]).random((count, 2))
    edges = np.cumsum(shares)
    made = (
        Request(
            index,
            float(arrivals[index]),
            texts[index],
            seed * 1_000_000 + index,
            mix.steps[int(kinds[index, 0] * len(mix.steps))],
            sides[min(int(np.searchsorted(edges, kinds[index, 1], "right")), len(sides) - 1)],
        )
        for index in range(count)
    )
    return Trace(seed, tuple(made))


def save(traces: Sequence[Trace], path: Path) -> None:
    with saving(path) as file:
        file.write(json.dumps([trace.as_dict() for trace in traces]).encode() + b"\n")


def load(path: Path) -> list[Trace]:
    return [
        Trace(item["seed"], tuple(Request(*request) for request in item["requests"]))
        for item in json.loads(path.read_text())
    ]
