"""The model thread: what reaches it from others, and how it begins and ends."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from baton.common.errors import BatonError, Draining, ExecutionFailed, origin
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import use_threads
from baton.edge_server.engine.job import Job
from baton.edge_server.engine.latency import Forecast
from baton.edge_server.engine.loop import Loop
from baton.edge_server.engine.observer import Observer
from baton.edge_server.engine.runner import Runner
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.engine.steering import Course, Steering

_log = logging.getLogger(__name__)
_JOIN_SECONDS = 30.0  # for the model call that is under way


class Engine:
    """Continuous batching at the granularity of denoising steps, on a thread of its own.

    Each round makes one model call over rows of many requests, each at its own step with its own
    guidance scale; a request takes a place when one is free and leaves it when it is denoised.
    Every submitted job gets one last event, whatever happens to the thread.
    """

    def __init__(
        self,
        family: LoadedFamily,
        node_id: str,
        limits: Limits,
        threads: int | None = None,
        steering: Steering | None = None,
        observer: Observer | None = None,
    ) -> None:
        """threads: of the model, None: as many as torch takes by default."""
        self._threads = threads
        self._limits = limits
        runner = Runner(family, node_id)
        self._loop = Loop(runner, limits, steering, threads, observer)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._over: BatonError | None = None
        self._closing = threading.Lock()
        self._on_crash: Callable[[BatonError], None] | None = None
        self._thread = threading.Thread(target=self._run, name="baton-model", daemon=True)

    def start(self, on_crash: Callable[[BatonError], None] | None = None) -> None:
        """``on_crash``: hears on the model thread that it is ending without having been asked."""
        self._on_crash = on_crash
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job; its outcome arrives through ``job.emit``. Thread-safe."""
        with self._closing:
            if self._over is None:
                self._inbox.put(lambda: self._loop.take(job))
                return
        job.emit(self._over)

    def drop(self, job: Job) -> None:
        """Let a job go at its next step, unless it has ended by then. Thread-safe."""
        self._inbox.put(lambda: self._loop.drop(job))

    def release(self, job: Job) -> None:
        """Let a job go on elsewhere: at its next step it ends with its state. Thread-safe.

        One that is denoised to the end is decoded here all the same.
        """
        self._inbox.put(lambda: self._loop.release(job))

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
        now = time.monotonic()
        latency = {pace: model.at(now) for pace, model in dict(self._loop.latency).items()}
        return Forecast(latency, self._limits.active, self._limits.rows)

    def course(self) -> Course:
        """How its rounds go. Thread-safe."""
        return self._loop.wheel.course()

    def _run(self) -> None:
        error: BatonError = _stopped()
        try:
            if self._threads is not None:
                use_threads(self._threads)
            while not self._stopping:
                self._receive()
                self._loop.step()
        except BaseException as crash:  # whatever ends the thread, its requests must hear of it
            _log.critical("the model thread has crashed: %s", origin(crash))
            error = ExecutionFailed("the model of this edge has crashed; restart it or use another")
        self._close(error)
        if self._on_crash is not None and not self._stopping:
            self._on_crash(error)

    def _receive(self) -> None:
        """Take what has arrived; wait only if there is nothing else to do."""
        idle = self._loop.idle
        while idle or not self._inbox.empty():
            self._inbox.get()()
            idle = False

    def _stop(self) -> None:
        self._stopping = True

    def _close(self, error: BatonError) -> None:
        """Take nothing any more, and end what is here."""
        with self._closing:
            self._over = error
        while not self._inbox.empty():
            self._inbox.get()()
        self._loop.close(error)


def _stopped() -> BatonError:
    return Draining("the edge is shutting down; use another")
