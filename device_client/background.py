"""Where a client exchanges with other nodes: an event loop on a thread of its own.

Its channels outlive the loops of its callers there, and what follows a picture needs none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from baton.common.errors import InvalidRequest

T = TypeVar("T")


class Job(Generic[T]):
    """Work on the loop of another thread. outcome: what comes of it; it cannot be cancelled."""

    def __init__(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> None:
        self.outcome: Future[T] = Future()
        self.outcome.set_running_or_notify_cancel()
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        loop.call_soon_threadsafe(self._begin, work)

    def withdraw(self) -> None:
        """Cancel the work; its outcome tells when it has ended. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed, and it has ended
            self._loop.call_soon_threadsafe(self._cancel)

    async def ended(self) -> None:
        """Wait for the end, on any loop."""
        await asyncio.gather(asyncio.wrap_future(self.outcome), return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.set_exception(asyncio.CancelledError())
        elif error := task.exception():
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


class Background:
    """The loop, begun with the first job. ``last`` runs on it after the last job, and ends it."""

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._last = last
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._jobs: set[Job[Any]] = set()
        self._process = os.getpid()
        self._closed = False

    def start(self, work: Coroutine[Any, Any, T]) -> Job[T]:
        """Raises InvalidRequest once closed."""
        with self._lock:
            if self._closed:
                work.close()
                raise InvalidRequest("this client is closed: make another")
            job = Job(work, self._loop or self._begin())
            self._jobs.add(job)
        job.outcome.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    def close(self, seconds: float = 0.0) -> None:
        """Take no more jobs, and end after those there are; wait so long for that at most.

        Jobs that have not ended by then are withdrawn. On an event loop, where nobody may wait,
        they end by themselves. A forked child has nothing to end.
        """
        if os.getpid() != self._process:
            return
        with self._lock:
            loop, thread, again = self._loop, self._thread, self._closed
            self._closed = True
            if loop is None or thread is None:
                return
            if not again:
                loop.call_soon_threadsafe(lambda: loop.create_task(self._end(loop)))
        if seconds and not _on_a_loop():
            thread.join(seconds)
            if thread.is_alive():
                for job in tuple(self._jobs):
                    job.withdraw()
                thread.join(seconds)

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_run, args=(loop,), name="baton-exchange", daemon=True
        )
        self._thread.start()
        return loop

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._jobs:
                await next(iter(self._jobs)).ended()
            await self._last()
        finally:
            loop.stop()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
