"""What a device draws itself, on its model thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from baton.common.errors import Cancelled, Incompatible, executing
from baton.common.families.spec import FamilySpec
from baton.common.latents import LatentState, decode_state, encode_state
from baton.common.plan import OpenPlan
from baton.common.quality.verifier import Scorer
from baton.common.record import ExecutedStep
from baton.common.request import Task
from baton.common.rpc.access import Access
from baton.device_client.budget import StepTimes, Timer
from baton.device_client.decide import ArmNames
from baton.device_client.edge_session import EdgePart
from baton.device_client.events import Event, Stepped
from baton.device_client.model_thread import ModelThread
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.settings import DeviceSettings

if TYPE_CHECKING:  # a device that holds no member draws without torch
    from baton.common.diffusion.run import Run
    from baton.common.families.loaded import LoadedFamily

NO_MEMBER = "this device holds no member to draw with"
_GRACE_SECONDS = 1.0  # for the end of a step, and decoding, before a hung model is given up


@dataclass(frozen=True)
class Device:
    """What the pictures of one client share. loaded: None on a device that holds no member."""

    spec: FamilySpec
    settings: DeviceSettings
    scorer: Scorer | None
    model_thread: ModelThread
    access: Access
    offline_tickets: OfflineTickets
    loaded: LoadedFamily | None = None
    times: StepTimes = field(default_factory=StepTimes)

    @property
    def arm_names(self) -> ArmNames:
        return ArmNames(self.spec, self.settings.member_list)

    @property
    def family(self) -> LoadedFamily:
        """The loaded one. Raises Incompatible on a device that holds no member."""
        if self.loaded is None:
            raise Incompatible(NO_MEMBER)
        return self.loaded


class DevicePart:
    """Runs the plan's next stretch here. timer: of the whole picture; emit: hears the steps."""

    def __init__(
        self, device: Device, request_id: str, timer: Timer, emit: Callable[[Event], None]
    ) -> None:
        self._device = device
        self._request_id = request_id
        self._timer = timer
        self._emit = emit

    async def run(self, task: Task, part: EdgePart) -> float:
        """Go on from where the part is, to the picture or to the next edge's first step.

        Returns the seconds that it took. Standing in line for the model thread counts for nothing.
        Raises DeadlineExceeded before it begins if the time that is left is known not to do.
        """
        first = part.resume_step
        self._check_time(task.plan, first)
        loop, asked = asyncio.get_running_loop(), time.monotonic()
        begun, withdrawn = threading.Event(), threading.Event()

        def begin_now() -> None:
            if not begun.is_set():
                begun.set()
                self._timer.budget = self._timer.budget.later(time.monotonic() - asked)

        def on_step(record: ExecutedStep) -> None:
            if withdrawn.is_set():
                raise Cancelled("the request was withdrawn")
            self._timer.budget.check()
            event = Stepped(record.step + 1, task.plan.steps, "device", record.member)
            loop.call_soon_threadsafe(self._emit, event)

        def watch() -> None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                limit.reschedule(loop.time() + self._timer.budget.left + _GRACE_SECONDS)

        def work() -> _Ran:
            begin_now()
            loop.call_soon_threadsafe(watch)
            self._check_time(task.plan, first)
            return self._work(task, part, on_step)

        try:
            async with asyncio.timeout(None) as limit:
                ran = await asyncio.wrap_future(self._device.model_thread.submit(work))
        except TimeoutError as error:
            raise self._timer.budget.exceeded() from error
        finally:
            withdrawn.set()
            begin_now()
        part.executed = [*part.executed, *ran.executed]
        part.state, part.newest, part.picture = ran.state, ran.envelope, ran.picture
        return ran.seconds

    def _check_time(self, plan: OpenPlan, first: int) -> None:
        needed = self._device.times.needed(plan, first)
        self._timer.budget.check(needed or 0.0)

    def _work(self, task: Task, part: EdgePart, on_step: Callable[[ExecutedStep], None]) -> _Ran:
        """The stretch itself, measured."""
        from baton.common.families.local import begin, run_here

        family, begun = self._device.family, time.monotonic()
        with executing("the model"):
            run = begin(family, task, part.state)
            first, stop, ready = run.step, task.plan.stretch_end(run.step), time.monotonic()
            executed = run_here(family, run, stop, on_step)
            stepping = time.monotonic() - ready
            if stop == task.plan.steps:
                ran = _Ran(executed, picture=family.decode(run.x))
            else:
                ran = self._handed_on(executed, run)
            ran.seconds = time.monotonic() - begun
        step, last = stepping / (run.step - first), task.plan.segment_at(stop - 1)
        self._device.times.measured(last.member, last.accel, step, ran.seconds - stepping)
        return ran

    def _handed_on(self, executed: list[ExecutedStep], run: Run) -> _Ran:
        """Whoever goes on, this device too, does so from what the envelope has rounded."""
        fingerprint, codec = self._device.family.fingerprint, self._device.settings.codec
        envelope = encode_state(run.state(), self._request_id, fingerprint, codec)
        return _Ran(executed, decode_state(envelope, fingerprint).state, envelope)


@dataclass
class _Ran:
    """What came of a stretch: a picture, or a latent and the envelope in which it travels on."""

    executed: list[ExecutedStep]
    state: LatentState | None = None
    envelope: bytes = b""
    picture: npt.NDArray[np.uint8] | None = None
    seconds: float = 0.0
