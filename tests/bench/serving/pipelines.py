"""diffusers' own pipeline: one request after the other, or in batches that leave together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import use_threads
from tests.bench.serving.systems import MAX_ROWS, Answer, CallLog, Picture, pixel_steps
from tests.bench.serving.trace import Request

#: Guided requests of one call.
MAX_BATCH = MAX_ROWS // 2

Draw = Callable[[Sequence[Request]], list[Picture]]


class Pipeline:
    """A member's plain pipeline; raises ValueError for requests of more than one shape."""

    def __init__(self, family: LoadedFamily, member: str) -> None:
        self._pipe = family.pipeline(member)
        self._pipe.set_progress_bar_config(disable=True)
        self._scale = family.spec.default_guidance
        self._device = family.models.device

    def __call__(self, requests: Sequence[Request]) -> list[Picture]:
        ((steps, side),) = {request.shape for request in requests}
        images = self._pipe(
            [request.prompt for request in requests],
            height=side,
            width=side,
            num_inference_steps=steps,
            guidance_scale=self._scale,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            output_type="np",
        ).images
        return list((images * 255).round().astype(np.uint8))


@dataclass
class Waiting:
    """since: when it came, seconds."""

    request: Request
    since: float
    future: Future[Answer] = field(default_factory=Future)


def leaving(
    waiting: Sequence[Waiting], now: float, most: int, window: float
) -> tuple[list[Waiting], float | None]:
    """The batch to draw now, or none and the seconds until one leaves; None: nobody is here.

    Requests of one shape leave together, when they are as many as may, or when the first of them
    has waited for ``window`` seconds; the shape whose first came first goes first.
    """
    groups: dict[tuple[int, int], list[Waiting]] = {}
    for item in waiting:
        groups.setdefault(item.request.shape, []).append(item)
    for group in groups.values():
        if len(group) >= most or now >= group[0].since + window:
            return group[:most], None
    firsts = [group[0].since for group in groups.values()]
    return [], min(firsts) + window - now if firsts else None


class Collecting:
    """A thread that draws whatever leaves. With ``most`` of one and no window: serial."""

    def __init__(self, draw: Draw, most: int = MAX_BATCH, window: float = 0.0) -> None:
        self._draw, self._most, self._window = draw, most, window
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._rows = self._steps = 0
        self._log = CallLog()
        self._thread = threading.Thread(target=self._run, name="collecting", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Answer]:
        item = Waiting(request, time.monotonic())
        with self._changed:
            self._waiting.append(item)
            self._changed.notify()
        return item.future

    def gauges(self) -> Mapping[str, float]:
        counted = {"rows": self._rows, "pixel_steps": self._steps}
        return {"waiting": len(self._waiting), **counted}

    def calls(self) -> Mapping[str, Any]:
        return self._log.told()

    def clear(self) -> None:
        with self._changed:
            dropped = list(self._waiting)
            self._waiting.clear()
        for item in dropped:
            item.future.cancel()

    def close(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self.clear()

    def _run(self) -> None:
        use_threads(1)
        while batch := self._next():
            requests = [item.request for item in batch]
            try:
                with self._log.timed((*requests[0].shape, len(batch))):
                    pictures = self._draw(requests)
            except Exception as error:
                for item in batch:
                    item.future.set_exception(error)
                continue
            for item, picture in zip(batch, pictures, strict=True):
                item.future.set_result(guided_answer(item.request, picture, len(batch)))
            self._rows += sum(2 * request.steps for request in requests)
            self._steps += sum(pixel_steps(request, request.steps) for request in requests)

    def _next(self) -> list[Waiting]:
        """Waits for it; empty at the end."""
        with self._changed:
            while not self._stopping:
                batch, left = leaving(self._waiting, time.monotonic(), self._most, self._window)
                for item in batch:
                    self._waiting.remove(item)
                if batch:
                    return batch
                self._changed.wait(left)
        return []


def guided_answer(request: Request, picture: Picture, batch: int) -> Answer:
    """Of a request whose every step takes both branches, in calls of so many requests."""
    steps = request.steps
    return Answer(picture, "b" * steps, 2 * steps, steps / batch)
