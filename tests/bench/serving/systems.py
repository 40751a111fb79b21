"""What is compared: whatever draws requests, behind one small protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tests.bench.serving.trace import Request

#: Rows of one model call, of every system; a guided request takes two.
MAX_ROWS = 16

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    picture: uint8 [H, W, 3], None where it was handed off. pattern: by step, ``b`` for both
    branches of guidance, ``p`` for the conditional one alone, ``r`` for guidance used again.
    rows: of all its steps; calls: its share of the model calls, by rows.
    """

    picture: Picture | None
    pattern: str
    rows: int
    calls: float


class System(Protocol):
    """Draws requests; anything may be called from any thread."""

    def submit(self, request: Request) -> Future[Answer]: ...

    def gauges(self) -> Mapping[str, float]:
        """Of now: what the system decides by, and what has been counted so far.

        ``waiting`` requests; ``rows`` and ``pixel_steps`` done.
        """
        ...

    def calls(self) -> Mapping[str, Any]:
        """`CallLog.told`; empty where nothing is logged."""
        ...

    def clear(self) -> None:
        """Cancel what has not begun."""
        ...

    def close(self) -> None: ...


#: Of what `CallLog` tells: when the first call began and the last one ended, on the thread's clock.
SPAN = "span"


def pixel_steps(request: Request, steps: int) -> int:
    """What so many of its steps are worth, as a gauge counts them: steps of larger ones more."""
    return steps * request.side**2


@dataclass
class CallLog:
    """Seconds of the calls of a model thread, by what a call's time hangs on."""

    seconds: dict[Hashable, list[float]] = field(default_factory=dict)
    _first: float | None = None
    _last: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def timed(self, shape: Hashable) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        with self._lock:
            self._last = time.perf_counter()
            self._first = begun if self._first is None else self._first
            self.seconds.setdefault(shape, []).append(self._last - begun)

    def told(self) -> dict[str, list[float]]:
        """By shape as text, and their `SPAN`; each call is told once."""
        with self._lock:
            found, self.seconds = self.seconds, {}
            first, self._first = self._first, None
        if first is None:
            return {}
        told = {str(shape): values for shape, values in found.items()}
        return told | {SPAN: [first, self._last]}


def merged(calls: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Logs of one thread, told one after the other, as one."""
    found: dict[str, list[float]] = {}
    for told in calls:
        for shape, took in told.items():
            found.setdefault(shape, []).extend(took)
    if SPAN in found:
        found[SPAN] = [min(found[SPAN]), max(found[SPAN])]
    return found


@dataclass(frozen=True)
class Spec:
    """A system by name, as it crosses to its own process.

    kind: of `tests.bench.serving.process.MAKERS`; settings: what its maker takes, plain values.
    """

    name: str
    kind: str
    member: str = "small"
    family: str = "scenes"
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.settings)
