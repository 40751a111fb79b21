"""What a load came to: latencies from the scheduled arrival, goodput, scores, occupancy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import numpy as np

from baton.common.quality.scores import Score, summarise
from baton.common.quality.verifier import Scorer
from tests.bench.serving.driver import Measured, Outcome
from tests.bench.serving.systems import MAX_ROWS, SPAN, Picture

#: A picture is good within so many times what it takes alone.
GOOD_WITHIN = 3.0
#: Requests below which a 99th percentile says nothing.
P99_REQUESTS = 1000
#: Where two pictures are the same.
_SAME_DB = 99.0

#: By (steps, side), seconds of a picture drawn alone.
Alone = Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class Judged:
    """One request. Seconds since the beginning; graded, strict, psnr_db: None where not known."""

    index: int
    steps: int
    side: int
    due: float
    finished: float | None
    graded: float | None = None
    strict: bool | None = None
    psnr_db: float | None = None
    rows: int = 0
    calls: float = 0.0
    pattern: str = ""
    error: str = ""

    def latency(self, waited: float) -> float:
        """At least that, of one that was given up."""
        return (waited if self.finished is None else self.finished) - self.due

    def good(self, alone: Alone) -> bool:
        limit = GOOD_WITHIN * alone[self.steps, self.side]
        return self.finished is not None and self.finished - self.due <= limit


@dataclass(frozen=True)
class Slice:
    """A load on a system, judged: plain values, which a file can keep."""

    requests: tuple[Judged, ...]
    seconds: float
    waited: float
    cpu_seconds: float
    series: tuple[Mapping[str, float], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Slice:
        requests = tuple(Judged(**item) for item in kept["requests"])
        return cls(**{**kept, "requests": requests, "series": tuple(kept["series"])})


@dataclass(frozen=True)
class Judge:
    """scorer: of pictures of one side; references: unbatched pictures, by index."""

    scorer: Scorer | None
    side: int
    references: Mapping[int, Picture]

    def slice(self, measured: Measured) -> Slice:
        requests = tuple(self._judged(outcome) for outcome in measured.outcomes)
        told = measured.seconds, measured.waited, measured.cpu_seconds
        return Slice(requests, *told, tuple(measured.series))

    def _judged(self, outcome: Outcome) -> Judged:
        request, answer = outcome.request, outcome.answer
        place = request.index, request.steps, request.side, outcome.due, outcome.finished
        if answer is None:
            return Judged(*place, error=outcome.error)
        graded, strict, near = None, None, None
        if answer.picture is not None:
            if self.scorer and request.side == self.side:
                found = self.scorer(answer.picture, request.prompt)
                graded, strict = (found.graded, found.strict) if found else (None, None)
            if request.index in self.references:
                near = psnr(answer.picture, self.references[request.index])
        return Judged(*place, graded, strict, near, answer.rows, answer.calls, answer.pattern)


def psnr(one: Picture, other: Picture) -> float:
    """Peak signal-to-noise ratio, dB; `_SAME_DB` at most."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return min(10 * math.log10(255**2 / error), _SAME_DB) if error else _SAME_DB


def row_of(slices: Sequence[Slice], alone: Alone) -> dict[str, Any]:
    """The figures of a point: of a system at a load, all its slices together.

    Latencies of what was given up count as what they were by then (``given_up`` of them).
    """
    requests = [request for part in slices for request in part.requests]
    if not requests:
        return {"offered": 0}
    late = [item.latency(part.waited) for part in slices for item in part.requests]
    seconds = sum(part.seconds for part in slices)
    done = [request for request in requests if request.finished is not None]
    in_time = sum(
        item.finished is not None and item.finished <= part.seconds
        for part in slices
        for item in part.requests
    )
    cpu = sum(part.cpu_seconds for part in slices)
    return {
        "offered": len(requests),
        "done": len(done),
        "given_up": sum(not request.error for request in requests) - len(done),
        "refused": sum(bool(request.error) for request in requests),
        "throughput_per_s": in_time / seconds,
        "goodput_per_s": sum(request.good(alone) for request in requests) / seconds,
        "good_share": fmean(request.good(alone) for request in requests),
        **_latencies(late),
        "occupancy": occupancy(done),
        "skipped_share": skipped_share(done),
        "cpu_seconds": cpu,
        "cpu_seconds_per_picture": cpu / len(done) if done else None,
        "psnr_db": _median([item.psnr_db for item in done]),
        **_told(score_of(done)),
    }


def _latencies(late: Sequence[float]) -> dict[str, float | None]:
    p50, p95, p99 = np.percentile(late, [50, 95, 99])
    enough = len(late) >= P99_REQUESTS
    return {
        "latency_mean_s": fmean(late),
        "latency_p50_s": float(p50),
        "latency_p95_s": float(p95),
        "latency_p99_s": float(p99) if enough else None,
    }


def occupancy(done: Sequence[Judged]) -> float | None:
    """Rows of a call, as a share of the most that it may have."""
    calls = sum(request.calls for request in done)
    return sum(request.rows for request in done) / calls / MAX_ROWS if calls else None


def skipped_share(done: Sequence[Judged]) -> float | None:
    """Steps with cheaper guidance, of all."""
    steps = sum(len(request.pattern) for request in done)
    return 1 - sum(request.pattern.count("b") for request in done) / steps if steps else None


def score_of(done: Sequence[Judged]) -> Score | None:
    graded = [request.graded for request in done if request.graded is not None]
    strict = [request.strict for request in done if request.strict is not None]
    return summarise(graded, strict) if graded else None


def _told(score: Score | None) -> dict[str, object]:
    return score.as_dict() if score else {}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def straw(calls: Mapping[str, Sequence[float]]) -> float | None:
    """Share of its time that a thread spends in its calls; None if nothing was logged.

    So it is throughput over what so many calls of the time they took would give, one after another.
    """
    if SPAN not in calls:
        return None
    busy = sum(sum(took) for shape, took in calls.items() if shape != SPAN)
    first, last = calls[SPAN]
    return busy / (last - first)


def rates(series: Sequence[Mapping[str, float]], counter: str) -> list[float | None]:
    """A counter of the series by the second, since the look before; None at the first."""
    found: list[float | None] = [None]
    for before, now in pairwise(series):
        apart = now["t"] - before["t"]
        found.append((now[counter] - before[counter]) / apart if apart > 0 else None)
    return found[: len(series)]
