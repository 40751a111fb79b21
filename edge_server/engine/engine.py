"""The loop on the model thread: receive, admit, form a batch, step it, retire what has ended."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.diffusion.executor import denoise_step
from common.errors import BatonError, Cancelled, Draining, ExecutionFailed
from common.families.loader import Family
from common.families.local import begin
from common.latents import encode_state
from common.plan import ExecutedStep
from edge_server.engine.job import Checkpointed, Drawn, HandedOff, Job, Progressed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """active: requests denoised together; rows: of one model call."""

    active: int = 16
    rows: int = 16


class Engine:
    """Continuous batching at the granularity of denoising steps.

    Each round makes one model call over rows of many requests, each at its own step with its own
    guidance scale; a request takes a place when one is free and leaves it at its handoff.
    """

    def __init__(self, family: Family, node_id: str, limits: Limits) -> None:
        self._family = family
        self._node_id = node_id
        self._limits = limits
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._active: deque[Job] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="baton-model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job; its outcome arrives through ``job.emit``. Thread-safe."""
        self._inbox.put(lambda: self._waiting.append(job))

    def cancel(self, request_id: str, first_step: int | None = None) -> None:
        """End a request (or its part from ``first_step``) at its next step. Thread-safe."""
        self._inbox.put(lambda: self._cancel(request_id, first_step))

    def stop(self) -> None:
        """End the thread; what is still here ends with Draining."""
        self._inbox.put(self._stop)
        self._thread.join()

    def _loop(self) -> None:
        while not self._stopping:
            self._receive()
            self._admit()
            if batch := self._next_batch():
                self._step(batch)
        for job in [*self._active, *self._waiting]:
            job.emit(Draining("the edge is shutting down"))

    def _receive(self) -> None:
        """Take what has arrived; wait only if there is nothing else to do."""
        idle = not self._active and not self._waiting
        while idle or not self._inbox.empty():
            self._inbox.get()()
            idle = False

    def _stop(self) -> None:
        self._stopping = True

    def _cancel(self, request_id: str, first_step: int | None) -> None:
        for jobs in (self._active, self._waiting):
            for job in [job for job in jobs if job.work.request_id == request_id]:
                if first_step in (None, job.work.first_step):
                    jobs.remove(job)
                    job.emit(Cancelled(f"request {request_id} was cancelled"))

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._limits.active:
            job = self._waiting.popleft()
            job.queued_seconds = time.monotonic() - job.submitted
            try:
                job.run = begin(self._family, job.work.task, job.work.resume)
            except Exception as error:
                self._fail(job, error)
            else:
                self._active.append(job)

    def _next_batch(self) -> list[Job]:
        """The jobs of the next call: those that share a group with the one served longest ago."""
        if not self._active:
            return []
        group, rows = self._active[0].group, 0
        batch: list[Job] = []
        for job in self._active:
            if job.group == group and rows + job.started.rows <= self._limits.rows:
                batch.append(job)
                rows += job.started.rows
        return batch

    def _step(self, batch: list[Job]) -> None:
        for job in batch:
            self._active.remove(job)
        try:
            self._forward(batch)
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            _log.exception("a batch of %d failed; running its requests one by one", len(batch))
            for job in batch:
                self._active.append(job)
                self._step([job])
            return
        for job in batch:
            self._retire(job)

    def _forward(self, batch: list[Job]) -> None:
        """One model call; each job's record says in how many rows it ran."""
        member = batch[0].group[0]
        guided = [job.started.rows == 2 for job in batch]
        begun = time.monotonic()
        rows = denoise_step([job.started for job in batch], self._family.denoiser(member))
        seconds = time.monotonic() - begun
        for job, both in zip(batch, guided, strict=True):
            job.model_seconds += seconds
            if job.started.error is None:
                step = job.started.step - 1
                threads = torch.get_num_threads()
                record = ExecutedStep(step, member, "edge", self._node_id, both, rows, threads)
                job.executed.append(record)

    def _retire(self, job: Job) -> None:
        """Report the step; end the job if its part is done, else give it its place back."""
        run = job.started
        try:
            if run.error is not None:
                raise run.error
            if run.step >= job.work.stop:
                self._finish(job)
                return
            job.emit(Progressed(run.step, run.plan.steps, job.executed[-1].rows))
            every = job.work.checkpoint_every
            if every and (run.step - job.work.first_step) % every == 0:
                job.emit(Checkpointed(self._envelope(job), tuple(job.executed)))
        except Exception as error:
            self._fail(job, error)
        else:
            self._active.append(job)

    def _finish(self, job: Job) -> None:
        run, executed = job.started, tuple(job.executed)
        if run.step < run.plan.steps:
            job.emit(HandedOff(self._envelope(job), executed, job.times()))
            return
        begun = time.monotonic()
        picture = self._family.decode(run.x)
        job.emit(Drawn(picture, executed, job.times(time.monotonic() - begun)))

    def _envelope(self, job: Job) -> bytes:
        return encode_state(
            job.started.state(), job.work.request_id, self._family.fingerprint, job.work.codec
        )

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, BatonError):
            _log.error("request %s failed", job.work.request_id, exc_info=error)
            error = ExecutionFailed(f"the model failed: {type(error).__name__}")
        job.emit(error)
