"""The device's part: a stretch of the plan on its own model thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from baton.common.errors import Cancelled, ExecutionFailed, executing
from baton.common.latents import LatentState, decode_state, encode_state
from baton.common.plan import OpenPlan
from baton.common.record import ExecutedStep
from baton.common.request import Task
from baton.device_client.events import Stepped
from baton.device_client.order import Order
from baton.device_client.plan import Planner
from baton.device_client.so_far import SoFar

if TYPE_CHECKING:  # a device that holds no member draws without torch
    from baton.common.diffusion.run import Run

_GRACE_SECONDS = 1.0  # for the end of a step, and decoding, before a hung model is given up


class DevicePart:
    """Draws a stretch of the plan here, on the model thread."""

    def __init__(self, order: Order, so_far: SoFar, planner: Planner) -> None:
        self._order = order
        self._so_far = so_far
        self._planner = planner

    async def run(self, task: Task) -> Task:
        """Go on to the picture or to an edge's first step; anew if what edges brought is of no use.

        Returns the task whose plan says what ran, all of it here if it began anew.
        """
        so_far = self._so_far
        try:
            if so_far.state is not None:
                so_far.taken_over.add(so_far.resume_step)
            await self._stretch(task)
            return task
        except ExecutionFailed as error:
            if so_far.state is None or self._order.request.fallback is False:
                raise
            so_far.notes.append(f"what came from an edge was of no use here: {error}")
        so_far.begin_anew()
        task = self._planner.fall_back(task, None)
        await self._stretch(task)
        return task

    async def _stretch(self, task: Task) -> None:
        """Standing in line for the model thread counts for nothing.

        Raises DeadlineExceeded before it begins if the time that is left is known not to do.
        """
        so_far, timer = self._so_far, self._order.timer
        first = so_far.resume_step
        self._check_time(task.plan, first)
        loop, asked = asyncio.get_running_loop(), time.monotonic()
        begun, withdrawn = threading.Event(), threading.Event()

        def begin_now() -> None:
            if not begun.is_set():
                begun.set()
                timer.budget = timer.budget.later(time.monotonic() - asked)

        def on_step(record: ExecutedStep) -> None:
            if withdrawn.is_set():
                raise Cancelled("the request was withdrawn")
            timer.budget.check()
            event = Stepped(record.step + 1, task.plan.steps, "device", record.member)
            loop.call_soon_threadsafe(self._order.emit, event)

        def watch() -> None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                limit.reschedule(loop.time() + timer.budget.left + _GRACE_SECONDS)

        def work() -> _Ran:
            begin_now()
            loop.call_soon_threadsafe(watch)
            self._check_time(task.plan, first)
            return self._work(task, on_step)

        try:
            async with asyncio.timeout(None) as limit:
                ran = await asyncio.wrap_future(self._order.device.model_thread.submit(work))
        except TimeoutError as error:
            raise timer.budget.exceeded() from error
        finally:
            withdrawn.set()
            begin_now()
        so_far.executed = [*so_far.executed, *ran.executed]
        so_far.state, so_far.newest, so_far.picture = ran.state, ran.envelope, ran.picture
        so_far.decode_seconds += ran.decoding
        if so_far.arrived is not None:
            so_far.handoff_seconds += ran.began - so_far.arrived
            so_far.arrived = None

    def _check_time(self, plan: OpenPlan, first: int) -> None:
        needed = self._order.device.times.needed(plan, first)
        self._order.timer.budget.check(needed or 0.0)

    def _work(self, task: Task, on_step: Callable[[ExecutedStep], None]) -> _Ran:
        """The stretch itself, measured."""
        from baton.common.families.local import begin, run_here

        family, begun = self._order.device.family, time.monotonic()
        with executing("the model"):
            run = begin(family, task, self._so_far.state)
            stop, ready = task.plan.stretch_end(run.step), time.monotonic()
            executed: list[ExecutedStep] = []
            while run.step < stop:
                segment, before, at = task.plan.segment_at(run.step), run.step, time.monotonic()
                executed += run_here(family, run, segment.stop, on_step)
                each = (time.monotonic() - at) / (run.step - before)
                self._order.device.times.measured(segment, each)
            stepped = time.monotonic()
            if stop == task.plan.steps:
                ran = _Ran(executed, picture=family.decode(run.x))
                ran.decoding = time.monotonic() - stepped
            else:
                ran = self._handed_on(executed, run)
            ran.began = ready
        if ran.picture is not None:
            self._order.device.times.measured_rest(ready - begun + ran.decoding)
        return ran

    def _handed_on(self, executed: list[ExecutedStep], run: Run) -> _Ran:
        """Whoever goes on, this device too, does so from what the envelope has rounded."""
        device = self._order.device
        fingerprint, codec = device.family.fingerprint, device.settings.codec
        envelope = encode_state(run.state(), self._order.request_id, fingerprint, codec)
        return _Ran(executed, decode_state(envelope, fingerprint).state, envelope)


@dataclass
class _Ran:
    """What came of a stretch: a picture, or a latent and the envelope in which it travels on.

    began: monotonic time of its first step; decoding: seconds.
    """

    executed: list[ExecutedStep]
    state: LatentState | None = None
    envelope: bytes = b""
    picture: npt.NDArray[np.uint8] | None = None
    began: float = 0.0
    decoding: float = 0.0
