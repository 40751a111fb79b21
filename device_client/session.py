"""One picture from request to result: decide, edge's part, device's part, report."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from baton.v1 import coordinator_pb2
from common.errors import (
    BatonError,
    Cancelled,
    DeadlineExceeded,
    Draining,
    Incompatible,
    InvalidRequest,
    Unreachable,
)
from common.families.loader import Family
from common.families.local import begin, run_here
from common.plan import Arm, Decision, ExecutedStep, SamplerName, Task
from common.quality.verifier import Scorer
from device_client import coordination
from device_client.decide import ArmNames, Preference, static_decision
from device_client.edge_session import EdgePart, EdgeRequest, EdgeSession
from device_client.events import Decided, EdgeLost, Event, HandedOver, Stepped
from device_client.features import prompt_features
from device_client.png import Provenance
from device_client.result import Result, Seconds, Traffic
from device_client.settings import DeviceSettings, split_list


@dataclass(frozen=True)
class Wish:
    """What the caller asks for. None leaves it to the family, the coordinator or chance."""

    prompt: str = field(repr=False)
    negative: str = field(default="", repr=False)
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    size: int | None = None
    sampler: SamplerName = "ddim"
    preference: Preference = "balanced"
    arm: str | None = None
    edge: str | None = None


@dataclass(frozen=True)
class Device:
    """What the pictures of one client share."""

    family: Family
    settings: DeviceSettings
    scorer: Scorer | None
    model_thread: ThreadPoolExecutor

    @property
    def arm_names(self) -> ArmNames:
        return ArmNames(self.family.manifest, self.settings.member_list)


class PictureSession:
    """Draws one picture; ``emit`` hears every event on the event loop's thread."""

    def __init__(
        self, device: Device, wish: Wish, request_id: str, emit: Callable[[Event], None]
    ) -> None:
        self._device = device
        self._wish = wish
        self._request_id = request_id
        self._emit = emit
        self._part = EdgePart()
        self._notes: list[str] = []

    async def run(self) -> Result:
        """Raises BatonError if no way led to a picture; the coordinator hears of that too."""
        begun = time.monotonic()
        self._device.family.latent_shape(self._size)  # nobody is asked about what cannot work
        decision = await self._decide()
        try:
            task = self._task(decision)
            self._emit(Decided(decision, task.plan))
            result = await self._draw(decision, task, begun)
        except BatonError as error:
            await self._report_failure(decision, error, time.monotonic() - begun)
            raise
        await self._report(result)
        return result

    async def _draw(self, decision: Decision, task: Task, begun: float) -> Result:
        edge_begun = time.monotonic()
        if task.plan.segment_at(0).location == "edge":
            task = await self._edge_part(decision, task)
        edge_seconds = time.monotonic() - edge_begun
        picture, executed = self._part.picture, list(self._part.executed)
        device_seconds = 0.0
        if picture is None:
            picture, here, device_seconds = await self._device_part(task)
            executed += here
        settings, family = self._device.settings, self._device.family
        scorer = self._device.scorer
        return Result(
            request_id=self._request_id,
            picture=picture,
            task=task,
            arm=decision.arm.name,
            decision_id=decision.decision_id,
            executed=tuple(executed),
            seconds=Seconds(time.monotonic() - begun, edge_seconds, device_seconds),
            traffic=Traffic(self._part.sent, self._part.received),
            provenance=Provenance(task, tuple(executed), family.fingerprint, str(settings.codec)),
            quality=scorer(picture, task.prompt) if scorer else None,
            notes=tuple(self._notes),
            save_scale=family.manifest.save_scale,
        )

    async def _decide(self) -> Decision:
        """Ask the coordinator unless an edge is named; decide alone if it does not answer."""
        wish, settings, family = self._wish, self._device.settings, self._device.family
        edges = split_list(wish.edge or "") or settings.edge_list
        arm = self._device.arm_names.resolve(wish.arm) if wish.arm else None
        if settings.coordinator and not wish.edge:
            situation = coordination.Situation(
                request_id=self._request_id,
                features=prompt_features(wish.prompt),
                preference=wish.preference,
                family=family.name,
                fingerprint=family.fingerprint,
                members=settings.member_list,
                steps=wish.steps or family.manifest.default_steps,
                wish=arm.name if arm else "",
            )
            try:
                return await coordination.ask(
                    settings.coordinator, situation, settings.coordinator_timeout
                )
            except (DeadlineExceeded, Draining, Unreachable) as error:
                self._notes.append(f"decided alone: {error}")
        return static_decision(self._device.arm_names, wish.arm, wish.preference, edges)

    def _task(self, decision: Decision) -> Task:
        wish, family = self._wish, self._device.family
        manifest = family.manifest
        steps = manifest.default_steps if wish.steps is None else wish.steps
        guidance = manifest.default_guidance if wish.guidance is None else wish.guidance
        plan = decision.arm.expand(family.name, wish.sampler, steps, guidance)
        for segment in plan.segments:
            if segment.location == "device":
                family.denoiser(segment.member)
        return Task(wish.prompt, wish.negative, plan, wish.seed, self._size)

    @property
    def _size(self) -> int:
        size = self._wish.size
        return self._device.family.manifest.sizes.default if size is None else size

    async def _edge_part(self, decision: Decision, task: Task) -> Task:
        """Try the edges in order, each from where the last one got; then fall back to the device.

        Returns the task whose plan says what is really left to the device.
        """
        settings = self._device.settings
        request = EdgeRequest(
            request_id=self._request_id,
            task=task,
            fingerprint=self._device.family.fingerprint,
            shape=self._device.family.latent_shape(task.size),
            codec=settings.codec,
            checkpoint_every=settings.checkpoint_every,
            timeout=settings.edge_timeout,
        )
        lost: BatonError | None = None
        envelope = b""
        for choice in decision.edges:
            session = EdgeSession(choice.address, request, self._part, self._on_edge_step(task))
            try:
                await session.run(envelope)
            except InvalidRequest:
                raise
            except BatonError as error:
                lost, envelope = error, session.newest
                self._lose(choice.address, error)
            else:
                if self._part.handed_over:
                    self._emit(HandedOver(self._part.resume_step, self._part.handoff_bytes))
                return task
        return self._fall_back(task, lost)

    def _fall_back(self, task: Task, lost: BatonError | None) -> Task:
        members = self._device.settings.member_list
        if not members:
            raise lost or Incompatible("no edge is available and this device holds no member")
        step = self._part.resume_step
        self._notes.append(f"drawn on the device with {members[0]} from step {step}")
        return replace(task, plan=task.plan.rest_on(members[0], "device", step))

    def _lose(self, address: str, error: BatonError) -> None:
        step = self._part.resume_step
        self._notes.append(f"edge {address} lost at step {step}: {error}")
        self._emit(EdgeLost(address, str(error), step))

    def _on_edge_step(self, task: Task) -> Callable[[int], None]:
        def on_step(done: int) -> None:
            member = task.plan.segment_at(done - 1).member
            self._emit(Stepped(done, task.plan.steps, "edge", member))

        return on_step

    async def _device_part(
        self, task: Task
    ) -> tuple[npt.NDArray[np.uint8], list[ExecutedStep], float]:
        """Finish on the model thread; returns picture, steps and the seconds that they took."""
        loop = asyncio.get_running_loop()
        family, state = self._device.family, self._part.state
        withdrawn = threading.Event()

        def on_step(record: ExecutedStep) -> None:
            if withdrawn.is_set():
                raise Cancelled("the request was withdrawn")
            event = Stepped(record.step + 1, task.plan.steps, "device", record.member)
            loop.call_soon_threadsafe(self._emit, event)

        def finish() -> tuple[npt.NDArray[np.uint8], list[ExecutedStep], float]:
            begun = time.monotonic()
            run = begin(family, task, state)
            executed = run_here(family, run, task.plan.steps, ("device", "device"), on_step)
            return family.decode(run.x), executed, time.monotonic() - begun

        try:
            return await loop.run_in_executor(self._device.model_thread, finish)
        finally:
            withdrawn.set()

    async def _report(self, result: Result) -> None:
        message = coordinator_pb2.ReportRequest(
            decision_id=result.decision_id,
            ok=True,
            arm=_arm_that_ran(result),
            total_seconds=result.seconds.total,
            edge_seconds=result.seconds.edge,
            device_seconds=result.seconds.device,
            bytes_sent=result.traffic.sent,
            bytes_received=result.traffic.received,
        )
        if result.quality is not None:
            message.quality = result.quality.graded
        await self._send_report(message)

    async def _report_failure(self, decision: Decision, error: BatonError, seconds: float) -> None:
        await self._send_report(
            coordinator_pb2.ReportRequest(
                decision_id=decision.decision_id,
                ok=False,
                arm=decision.arm.name,
                total_seconds=seconds,
                error=error.status,
            )
        )

    async def _send_report(self, message: coordinator_pb2.ReportRequest) -> None:
        settings = self._device.settings
        if settings.coordinator and not message.decision_id.startswith("static-"):
            await coordination.report(settings.coordinator, message, settings.coordinator_timeout)


def _arm_that_ran(result: Result) -> str:
    """The decided arm, or the device's own if no edge took part after all."""
    if result.steps_at("edge"):
        return result.arm
    return Arm("device", (result.executed[-1].member,), 0.0).name
