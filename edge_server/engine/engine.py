"""The loop on the model thread: receive, admit, form a batch, step it, retire what has ended."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from baton.common.diffusion.executor import Place, denoise_step
from baton.common.errors import BatonError, Draining, ExecutionFailed, origin
from baton.common.families.loader import Family
from baton.common.families.local import begin, use_threads
from baton.common.latents import encode_state
from baton.edge_server.engine.job import (
    Checkpointed,
    Drawn,
    Dropped,
    HandedOff,
    Job,
    Outcome,
    Progressed,
    Started,
)
from baton.edge_server.engine.latency import Forecast, LatencyModel

_log = logging.getLogger(__name__)
_JOIN_SECONDS = 30.0  # for the model call that is under way


@dataclass(frozen=True)
class Limits:
    """active: requests denoised together; rows: of one model call.

    cache_bytes: what they all may keep of their blocks' outputs.
    """

    active: int = 16
    rows: int = 16
    cache_bytes: int = 1 << 30


class Engine:
    """Continuous batching at the granularity of denoising steps.

    Each round makes one model call over rows of many requests, each at its own step with its own
    guidance scale; a request takes a place when one is free and leaves it at its handoff. Every
    submitted job gets one last event, whatever happens to the thread.
    """

    def __init__(
        self, family: Family, node_id: str, limits: Limits, threads: int | None = None
    ) -> None:
        self._threads = threads
        self._family = family
        self._node_id = node_id
        self._limits = limits
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: dict[Job, None] = {}
        self._waiting: deque[Job] = deque()
        self._active: deque[Job] = deque()
        self._latency: dict[str, LatencyModel] = {}
        self._stopping = False
        self._over: BatonError | None = None
        self._closing = threading.Lock()
        self._on_crash: Callable[[BatonError], None] | None = None
        self._thread = threading.Thread(target=self._loop, name="baton-model", daemon=True)

    def start(self, on_crash: Callable[[BatonError], None] | None = None) -> None:
        """``on_crash``: hears on the model thread that it is ending without having been asked."""
        self._on_crash = on_crash
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job; its outcome arrives through ``job.emit``. Thread-safe."""
        with self._closing:
            if self._over is None:
                self._inbox.put(lambda: self._take(job))
                return
        job.emit(self._over)

    def drop(self, job: Job) -> None:
        """Let a job go at its next step, unless it has ended by then. Thread-safe."""
        self._inbox.put(lambda: self._drop(job))

    def stop(self) -> None:
        """End the thread; what is still here ends with Draining."""
        self._inbox.put(self._stop)
        if self._thread.ident is None:
            self._close(_stopped())
            return
        self._thread.join(_JOIN_SECONDS)
        if self._thread.is_alive():
            _log.warning("a model call does not end; leaving it behind")

    def forecast(self) -> Forecast:
        """What the measured pace lets one expect. Thread-safe."""
        return Forecast(dict(self._latency), self._limits.active, self._limits.rows)

    def _loop(self) -> None:
        error: BatonError = _stopped()
        try:
            if self._threads is not None:
                use_threads(self._threads)
            while not self._stopping:
                self._receive()
                self._round()
        except BaseException as crash:  # whatever ends the thread, its requests must hear of it
            _log.critical("the model thread has crashed: %s", origin(crash))
            error = ExecutionFailed("the model of this edge has crashed; restart it or use another")
        self._close(error)
        if self._on_crash is not None and not self._stopping:
            self._on_crash(error)

    def _close(self, error: BatonError) -> None:
        """Take nothing any more, and end what is here."""
        with self._closing:
            self._over = error
        while not self._inbox.empty():
            self._inbox.get()()
        for job in list(self._jobs):
            with contextlib.suppress(RuntimeError):  # whoever listened has closed its event loop
                self._end(job, error)

    def _receive(self) -> None:
        """Take what has arrived; wait only if there is nothing else to do."""
        idle = not self._jobs
        while idle or not self._inbox.empty():
            self._inbox.get()()
            idle = False

    def _round(self) -> None:
        begun = time.monotonic()
        self._admit()
        if not (batch := self._next_batch()):
            return
        member, rows = batch[0].group[0], sum(job.started.rows for job in batch)
        self._step(batch)
        model = self._latency.get(member, LatencyModel())
        self._latency[member] = model.after(rows, time.monotonic() - begun)

    def _stop(self) -> None:
        self._stopping = True

    def _take(self, job: Job) -> None:
        self._jobs[job] = None
        self._waiting.append(job)

    def _drop(self, job: Job) -> None:
        if job not in self._jobs:
            return
        for jobs in (self._waiting, self._active):
            if job in jobs:
                jobs.remove(job)
        self._end(job, Dropped())

    def _end(self, job: Job, event: Outcome | Dropped) -> None:
        """The last that is heard of a job."""
        del self._jobs[job]
        job.emit(event)

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._limits.active:
            job = self._waiting[0]
            try:
                self._prepare(job)
            except Exception as error:
                self._waiting.popleft()
                self._fail(job, error)
                continue
            cached = sum(other.cache_bytes for other in self._active)
            if self._active and cached + job.cache_bytes > self._limits.cache_bytes:
                return
            self._waiting.popleft()
            job.queued_seconds = time.monotonic() - job.submitted
            self._active.append(job)
            job.emit(Started())

    def _prepare(self, job: Job) -> None:
        """Make its run, once; what would keep more than all together may runs in full."""
        if job.run is not None:
            return
        place: Place = ("edge", self._node_id)
        run = begin(self._family, job.work.task, job.work.resume, place, job.work.plan)
        run.pause_every, run.most_rows = job.work.checkpoint_every, self._limits.rows
        job.cache_bytes = self._family.cache_bytes(run.plan, job.work.task.size)
        if job.cache_bytes > self._limits.cache_bytes:
            run.plan, job.cache_bytes = run.plan.in_full(), 0
        job.run = run

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
            _log.error("a batch failed, its requests run one by one: %s", origin(error))
            for job in batch:
                self._active.append(job)
                self._step([job])
            return
        for job in batch:
            self._retire(job)

    def _forward(self, batch: list[Job]) -> None:
        """One model call; each job's record says in how many rows it ran, and in which."""
        member = batch[0].group[0]
        begun = time.monotonic()
        ran = denoise_step([job.started for job in batch], self._family.denoiser(member))
        seconds = time.monotonic() - begun
        for job, steps in zip(batch, ran, strict=True):
            job.model_seconds += seconds
            job.executed += steps

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
            self._end(job, HandedOff(self._envelope(job), executed, job.times()))
            return
        begun = time.monotonic()
        picture = self._family.decode(run.x)
        self._end(job, Drawn(picture, executed, job.times(time.monotonic() - begun)))

    def _envelope(self, job: Job) -> bytes:
        work = job.work
        fingerprint = work.fingerprint or self._family.fingerprint
        return encode_state(job.started.state(), work.request_id, fingerprint, work.codec)

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, BatonError):
            _log.error("request %s failed: %s", job.work.request_id, origin(error))
            error = ExecutionFailed(f"the model failed: {type(error).__name__}")
        self._end(job, error)


def _stopped() -> BatonError:
    return Draining("the edge is shutting down; use another")
