"""The product's engine as a system: every request through `Engine.submit`, as a servicer does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from baton.common.errors import BatonError
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec
from baton.common.limits import Accel
from baton.edge_server.engine.job import (
    Drawn,
    Event,
    HandedOff,
    Job,
    Started,
    Work,
)
from tests.bench.serving.direct import answer_of
from tests.bench.serving.plans import task_of
from tests.bench.serving.scheduling import SHIPPED, engine_for, scheduling_gauges
from tests.bench.serving.systems import Answer, pixel_steps
from tests.bench.serving.trace import Request
from tests.support.engines import is_last


class Baton:
    """An engine on a thread of its own.

    relay: an arm for every other request, which the edge hands off; budget: of guidance, else the
    family's own; scheduling: a name of `tests.bench.serving.scheduling.SETTINGS`; settings: of the
    edge, else as shipped.
    """

    def __init__(
        self,
        family: LoadedFamily,
        member: str,
        scheduling: str = SHIPPED,
        accel: Accel = "none",
        relay: str = "",
        budget: str = "",
        **settings: Any,
    ) -> None:
        self._family, self._member = family, member
        self._accel, self._relay, self._budget = accel, relay, budget
        self._jobs: dict[int, Job] = {}
        self._started = self._rows = self._full_rows = self._steps = 0
        self._engine = engine_for(family, scheduling, **settings)
        self._engine.start()

    def submit(self, request: Request) -> Future[Answer]:
        future: Future[Answer] = Future()
        try:
            job = Job(self._work(request), self._listener(request, future))
        except BatonError as error:
            future.set_exception(error)
            return future
        self._jobs[request.index] = job
        self._engine.submit(job)
        return future

    def gauges(self) -> Mapping[str, float]:
        here = len(self._jobs)
        return {
            "waiting": here - self._started,
            "running": self._started,
            "rows": self._rows,
            "full_rows": self._full_rows,
            "pixel_steps": self._steps,
            **scheduling_gauges(self._engine),
        }

    def calls(self) -> Mapping[str, Any]:
        return {}

    def clear(self) -> None:
        for job in list(self._jobs.values()):
            self._engine.drop(job)

    def close(self) -> None:
        self._engine.stop()

    def _work(self, request: Request) -> Work:
        relay = self._relay if request.index % 2 else ""
        task = task_of(self._family.spec, self._member, request, self._accel, relay, self._budget)
        plan = self._family.accelerator.expand(task.plan)
        return Work(str(request.index), task, plan, Codec.FP16, 0)

    def _listener(self, request: Request, future: Future[Answer]) -> Callable[[Event], None]:
        """On the model thread; one object a request, as a registry's entry is."""
        index, started, counted = request.index, False, 0

        def hear(event: Event) -> None:
            nonlocal started, counted
            job = self._jobs[index]
            self._count(job, counted)
            self._steps += pixel_steps(request, len(job.executed) - counted)
            counted = len(job.executed)
            if isinstance(event, Started):
                started, self._started = True, self._started + 1
            elif is_last(event):
                del self._jobs[index]
                self._started -= started
                _settle(future, event)

        return hear

    def _count(self, job: Job, first: int) -> None:
        """Its steps from this one on; events come with the last of several that ran ahead."""
        for step in job.executed[first:]:
            self._rows += step.branch_rows
            self._full_rows += len(job.work.plan.branches_at(step.step))


def _settle(future: Future[Answer], event: Event) -> None:
    if isinstance(event, Drawn):
        future.set_result(answer_of(event.picture, list(event.executed)))
    elif isinstance(event, HandedOff):
        future.set_result(answer_of(None, list(event.executed)))
    elif isinstance(event, Exception):
        future.set_exception(event)
    else:
        future.cancel()
