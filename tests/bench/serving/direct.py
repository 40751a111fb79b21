"""Direct concurrency, InstGenIE's way: batching step by step, whole decodes on a thread beside it.

Compact on purpose: the product's own executor, a queue, and a second thread. Nothing is skipped,
planned or cut into chunks.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import torch

from baton.common.diffusion.calls import Part
from baton.common.diffusion.executor import denoise
from baton.common.diffusion.run import HERE, Run
from baton.common.diffusion.work import StepWork
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin_unencoded, encode, use_threads
from baton.common.record import ExecutedStep
from tests.bench.serving.plans import task_of
from tests.bench.serving.systems import MAX_ROWS, Answer, CallLog, pixel_steps
from tests.bench.serving.trace import Request


@dataclass(eq=False)
class _Drawn:
    request: Request
    future: Future[Answer] = field(default_factory=Future)
    executed: list[ExecutedStep] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Ready:
    """With a place, and its next step."""

    drawn: _Drawn
    run: Run
    work: StepWork


class Direct:
    """active: requests that are denoised at a time; beside: whether decodes have a thread."""

    def __init__(
        self,
        family: LoadedFamily,
        member: str,
        active: int = 16,
        beside: bool = True,
        rows: int = MAX_ROWS,
    ) -> None:
        self._family, self._member = family, member
        self._active, self._most_rows = active, rows
        self._inbox: queue.SimpleQueue[_Drawn | None] = queue.SimpleQueue()
        self._waiting: deque[_Drawn] = deque()
        self._running: deque[_Ready] = deque()
        self._decoder = ThreadPoolExecutor(1, "decode", use_threads, (1,)) if beside else None
        device = family.models.device
        self._stream = torch.cuda.Stream(device) if beside and device.type == "cuda" else None
        self._stopping = False
        self._log, self._rows, self._steps = CallLog(), 0, 0
        self._thread = Thread(target=self._loop, name="direct", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Answer]:
        item = _Drawn(request)
        self._inbox.put(item)
        return item.future

    def gauges(self) -> Mapping[str, float]:
        waiting = self._inbox.qsize() + len(self._waiting)
        counted = {"rows": self._rows, "pixel_steps": self._steps}
        return {"waiting": waiting, "running": len(self._running), **counted}

    def calls(self) -> Mapping[str, Any]:
        """Of the thread that denoises; what it waits for beside it is no call of its own."""
        return self._log.told()

    def clear(self) -> None:
        """What has a place goes on."""
        for item in list(self._waiting):
            item.future.cancel()
        while not self._inbox.empty():
            if item := self._inbox.get():
                item.future.cancel()

    def close(self) -> None:
        self._stopping = True
        self._inbox.put(None)
        self._thread.join()
        if self._decoder is not None:
            self._decoder.shutdown()

    def _loop(self) -> None:
        use_threads(1)
        while not self._stopping:
            self._receive()
            self._admit()
            if batch := self._batch():
                self._step(batch)

    def _receive(self) -> None:
        """Waits if there is nothing else to do."""
        while not self._inbox.empty() or not (self._running or self._waiting or self._stopping):
            item = self._inbox.get()
            if item is not None:
                self._waiting.append(item)
            elif self._stopping:
                return

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._active:
            item = self._waiting.popleft()
            if not item.future.set_running_or_notify_cancel():
                continue
            task = task_of(self._family.spec, self._member, item.request)
            with self._log.timed("encode"):
                run = begin_unencoded(self._family, task, None, HERE, task.plan.closed())
                encode(self._family, [run])
            self._line_up(item, run)

    def _line_up(self, item: _Drawn, run: Run) -> None:
        self._running.append(_Ready(item, run, run.work(None)))

    def _batch(self) -> list[_Ready]:
        """Those of the group served longest ago, as many as fit."""
        chosen: list[_Ready] = []
        left = self._most_rows
        for item in self._running:
            alike = not chosen or item.work.group == chosen[0].work.group
            if alike and item.work.rows <= left:
                chosen.append(item)
                left -= item.work.rows
        return chosen

    def _step(self, batch: list[_Ready]) -> None:
        rows, side = sum(item.work.rows for item in batch), batch[0].drawn.request.side
        with self._log.timed(("denoise", side, rows)):
            parts: list[Part] = [(item.run, item.work) for item in batch]
            taken = denoise(parts, self._family.denoiser(self._member))
        self._rows += rows
        self._steps += sum(pixel_steps(item.drawn.request, item.work.steps) for item in batch)
        for item, steps in zip(batch, taken, strict=True):
            self._running.remove(item)
            item.drawn.executed.extend(steps)
            self._advance(item.drawn, item.run)

    def _advance(self, item: _Drawn, run: Run) -> None:
        if run.error is not None:
            item.future.set_exception(run.error)
        elif run.step < run.plan.steps:
            self._line_up(item, run)
        elif self._decoder is None:
            with self._log.timed(("decode", item.request.side)):
                self._decode(item, run)
        else:
            if self._stream is not None:  # its latent is whole by then
                self._stream.wait_stream(torch.cuda.current_stream(run.x.device))
            self._decoder.submit(self._decode, item, run)

    def _decode(self, item: _Drawn, run: Run) -> None:
        try:
            with torch.cuda.stream(self._stream):  # nothing, where there is none
                picture = self._family.decode(run.x)
        except Exception as error:
            item.future.set_exception(error)
        else:
            item.future.set_result(answer_of(picture, item.executed))


def answer_of(picture: Any, executed: list[ExecutedStep]) -> Answer:
    letters = {"both": "b", "positive": "p", "reuse": "r"}
    return Answer(
        picture,
        "".join(letters[step.branches] for step in executed),
        sum(step.branch_rows for step in executed),
        sum(step.branch_rows / step.rows for step in executed),
    )
