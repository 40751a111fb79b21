"""One picture from request to result: decide, edge's part, device's part, report."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from baton.common.build import NodeBuild, this_build
from baton.common.diffusion.executor import resumed
from baton.common.errors import (
    BatonError,
    Cancelled,
    ExecutionFailed,
    Incompatible,
    executing,
)
from baton.common.families.loader import Family
from baton.common.families.local import begin, run_here
from baton.common.plan import DEVICE_NODE, Decision, ExecutedStep, Plan, Task, arm_that_ran
from baton.common.quality.verifier import Scorer
from baton.common.request import GenerationRequest
from baton.common.rpc.access import Access
from baton.common.rpc.channel import Keepalive, check_peer
from baton.device_client import coordination
from baton.device_client.budget import Budget, StepTimes
from baton.device_client.decide import ArmNames, is_static, static_decision
from baton.device_client.edge_session import EdgePart, EdgeRequest
from baton.device_client.events import Decided, Event, Stepped
from baton.device_client.features import prompt_features
from baton.device_client.model_thread import ModelThread
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.png import Provenance
from baton.device_client.relay import EdgeRelay, Telling, without_edge
from baton.device_client.result import EdgeAttempt, Result, Seconds, Traffic
from baton.device_client.settings import DeviceSettings, split_list
from baton.v1 import coordinator_pb2

_FAREWELL_SECONDS = 1.0
_GRACE_SECONDS = 1.0  # for the end of a step, and decoding, before a hung model is given up
_NO_MEMBER = "this device holds no member to draw with"
#: What a coordinator says of the request itself; any other failure is its own.
_FINAL = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}

#: The picture, the steps that ran here, and the seconds that they took.
_Finished = tuple[npt.NDArray[np.uint8], list[ExecutedStep], float]


@dataclass(frozen=True)
class Device:
    """What the pictures of one client share."""

    family: Family
    settings: DeviceSettings
    scorer: Scorer | None
    model_thread: ModelThread
    access: Access
    offline_tickets: OfflineTickets
    times: StepTimes = field(default_factory=StepTimes)

    @property
    def arm_names(self) -> ArmNames:
        return ArmNames(self.family.manifest, self.settings.member_list)


class PictureSession:
    """Draws one picture; ``emit`` hears every event on the event loop's thread.

    ``decision``, ``task``, ``part``, ``attempts`` and ``notes`` tell how far it has come, also if
    no picture comes of it.
    """

    def __init__(
        self,
        device: Device,
        request: GenerationRequest,
        request_id: str,
        emit: Callable[[Event], None],
    ) -> None:
        self.device = device
        self.request = request
        self.request_id = request_id
        self._hear = emit
        self._budget = Budget()
        self.part = EdgePart()
        self.decision: Decision | None = None
        self.task: Task | None = None
        self.notes: list[str] = []
        self.attempts: list[EdgeAttempt] = []

    async def run(self) -> Result:
        """Raises BatonError if no way led to a picture.

        The coordinator hears of that too, and of a request that is withdrawn: silence would count
        against the arm.
        """
        self._budget = Budget.of(self.request.timeout)
        with executing("deciding"):
            self.device.family.latent_shape(self._size)  # nobody is asked about what cannot work
            decision = self.decision = await self._decide()
        try:
            with executing("drawing on this device"):
                task = self.task = self._task(decision)
                self._emit(Decided(decision, task.plan))
                result = await self._draw(decision, task)
                await self._report(result)
        except BatonError as error:
            # only the caller's own word withdraws a request, not that of an edge
            status = "ABORTED" if isinstance(error, Cancelled) else error.status
            await self._report_failure(decision, status)
            raise
        except asyncio.CancelledError:
            await self._report_failure(decision, Cancelled.status)
            raise
        return result

    def _emit(self, event: Event) -> None:
        self._hear(replace(event, request_id=self.request_id))

    @property
    def spent(self) -> float:
        """Seconds since it began, without those in which this device drew other pictures first."""
        return self._budget.spent

    async def _draw(self, decision: Decision, task: Task) -> Result:
        edge_begun = time.monotonic()
        if task.plan.segment_at(0).location == "edge":
            task = await self._edge_part(decision, task)
        edge_seconds = time.monotonic() - edge_begun
        picture, executed = self.part.picture, list(self.part.executed)
        device_seconds = 0.0
        if picture is None:
            task, (picture, here, device_seconds) = await self._draw_rest(task)
            executed = [*self.part.executed, *here]
        family, scorer = self.device.family, self.device.scorer
        return Result(
            request_id=self.request_id,
            picture=picture,
            task=task,
            arm=decision.arm.name,
            decision_id=decision.decision_id,
            executed=tuple(executed),
            seconds=Seconds(self.spent, edge_seconds, device_seconds),
            traffic=Traffic(self.part.sent, self.part.received),
            provenance=self._provenance(task, tuple(executed)),
            quality=scorer(picture, task.prompt) if scorer else None,
            notes=(*self.notes, *self.unheard(quote=True)),
            save_scale=family.manifest.save_scale,
            attempts=tuple(self.attempts),
        )

    def unheard(self, quote: bool) -> list[str]:
        """What of the prompts is lost on the encoder; without ``quote``, none of it is told."""
        texts = {"prompt": self.request.prompt, "negative prompt": self.request.negative}
        family = self.device.family
        return [
            note for what, text in texts.items() for note in family.heard(text).notes(what, quote)
        ]

    def _provenance(self, task: Task, executed: tuple[ExecutedStep, ...]) -> Provenance:
        """What a replay needs; an envelope rounded the latent wherever somebody took it over."""
        family, part = self.device.family, self.part
        transfers = {attempt.start for attempt in self.attempts if attempt.start < attempt.stop}
        if part.picture is None:
            transfers.add(part.resume_step)
        ran_here = {step.member for step in executed if step.location == "device"}
        own = {member: family.member_fingerprints[member] for member in ran_here}
        builds = {**part.nodes, DEVICE_NODE: NodeBuild(this_build(), own)}
        return Provenance(
            task=task,
            executed=executed,
            fingerprint=family.fingerprint,
            codec=str(self.device.settings.codec),
            transfers=tuple(sorted(transfers - {0})),
            nodes={step.node_id: builds[step.node_id] for step in executed},
        )

    async def _decide(self) -> Decision:
        """Ask the coordinator unless an edge is named; decide alone if it has no sound answer."""
        request, settings, family = self.request, self.device.settings, self.device.family
        edges = split_list(request.edge or "") or settings.edge_list
        names, fallback = self.device.arm_names, bool(request.fallback)
        arm = None if request.arm is None else names.resolve(request.arm)
        alone: list[str] = []
        if settings.coordinator and not request.edge:
            situation = coordination.Situation(
                request_id=self.request_id,
                features=prompt_features(request.prompt),
                preference=request.preference,
                family=family.name,
                fingerprint=family.fingerprint,
                members=settings.member_list,
                steps=request.steps or family.manifest.default_steps,
                size=self._size,
                requested_arm=arm.name if arm else "",
            )
            try:
                timeout = self._budget.within(settings.coordinator_timeout)
                link = replace(self._link, timeout=timeout)
                decision = await coordination.ask(link, situation, self.device.offline_tickets)
                return names.check(decision, arm)
            except BatonError as error:
                if error.status in _FINAL:
                    raise
                alone = [request.hide(f"decided alone: {error}")]
                self.notes += alone

        def decide(edges: Sequence[str]) -> Decision:
            return static_decision(names, request.arm, request.preference, edges, fallback)

        try:
            return self.device.offline_tickets.apply(decide, edges, family.fingerprint)
        except Incompatible as error:
            raise Incompatible("; ".join([str(error), *alone])) from error

    @property
    def _link(self) -> coordination.Link:
        of = self.device.settings
        return coordination.Link(of.coordinator, self.device.access, of.coordinator_timeout)

    def _task(self, decision: Decision) -> Task:
        request, family = self.request, self.device.family
        manifest = family.manifest
        steps = manifest.default_steps if request.steps is None else request.steps
        guidance = manifest.default_guidance if request.guidance is None else request.guidance
        plan = decision.arm.expand(family.name, request.sampler, steps, guidance)
        accel = request.accel or self.device.settings.accel
        plan = replace(plan, accel=accel or manifest.default_accel)
        own = [segment.member for segment in plan.segments if segment.location == "device"]
        for member in own:
            family.denoiser(member)
        notes = family.accelerator.notes(plan, own)
        if accel is not None:  # who asks for nothing misses nothing
            self.notes += notes
        return Task(request.prompt, request.negative, plan, request.seed, self._size)

    @property
    def _size(self) -> int:
        size = self.request.size
        return self.device.family.manifest.sizes.default if size is None else size

    async def _edge_part(self, decision: Decision, task: Task) -> Task:
        """Try the edges in order, each from where the last one got; then fall back to the device.

        Returns the task whose plan says what is really left to the device.
        """
        settings, plan = self.device.settings, task.plan
        schedule = self.device.family.schedule(plan.sampler, plan.steps)
        if is_static(decision.decision_id):  # addresses that a caller or the settings name
            for edge in decision.edges:
                check_peer(edge.address, self.device.access)
        request = EdgeRequest(
            request_id=self.request_id,
            task=task,
            fingerprint=self.device.family.fingerprint,
            shape=self.device.family.latent_shape(task.size),
            codec=settings.codec,
            checkpoint_every=settings.checkpoint_every,
            timeout=settings.edge_timeout,
            connect_timeout=settings.connect_timeout,
            reattach_timeout=settings.reattach_timeout,
            stall_timeout=settings.stall_timeout,
            check=lambda state: resumed(state, schedule),
            keepalive=Keepalive(settings.keepalive_time, settings.keepalive_timeout),
            ticket=decision.ticket,
            access=self.device.access,
        )
        telling = Telling(self._emit, self.notes, self.attempts, self.request.hide)
        relay = EdgeRelay(request, self.part, telling)
        reserve = self.device.times.reserve(task.plan, self._budget)
        lost = await relay.run(decision.edges, self._budget, reserve)
        return task if self.part.done else self._fall_back(task, lost)

    def _fall_back(self, task: Task, lost: BatonError | None) -> Task:
        members, allowed = self.device.settings.member_list, self.request.fallback
        if allowed is None:
            allowed = self.request.arm is None or self.part.begun
        if not (members and allowed):
            lost = lost or Incompatible("no edge is available")
            remedy = "--fallback lets the device draw instead" if members else _NO_MEMBER
            raise without_edge(lost, self.part, f"{self.request.hide(str(lost))}; {remedy}")
        step = self.part.resume_step
        self.notes.append(f"drawn on the device with {members[0]} from step {step}")
        return replace(task, plan=task.plan.rest_on(members[0], "device", step))

    async def _draw_rest(self, task: Task) -> tuple[Task, _Finished]:
        """The device's part; anew and alone if it failed on what an edge had handed over."""
        try:
            return task, await self._device_part(task)
        except ExecutionFailed as error:
            if self.part.state is None or self.request.fallback is False:
                raise
            self.notes.append(f"what came from an edge was of no use here: {error}")
        self.attempts[:] = [attempt.in_vain() for attempt in self.attempts]
        self.part.state, self.part.executed = None, []
        task = self._fall_back(task, None)
        return task, await self._device_part(task)

    async def _device_part(self, task: Task) -> _Finished:
        """Finish on the model thread; returns picture, steps and the seconds that they took.

        Standing in line for that thread counts for nothing. Raises DeadlineExceeded before it
        begins if the time that is left is known not to do.
        """
        self._check_time(task.plan)
        loop, asked = asyncio.get_running_loop(), time.monotonic()
        begun, withdrawn = threading.Event(), threading.Event()

        def begin_now() -> None:
            if not begun.is_set():
                begun.set()
                self._budget = self._budget.later(time.monotonic() - asked)

        def on_step(record: ExecutedStep) -> None:
            if withdrawn.is_set():
                raise Cancelled("the request was withdrawn")
            self._budget.check()
            event = Stepped(record.step + 1, task.plan.steps, "device", record.member)
            loop.call_soon_threadsafe(self._emit, event)

        def watch() -> None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                limit.reschedule(loop.time() + self._budget.left + _GRACE_SECONDS)

        def finish() -> _Finished:
            begin_now()
            loop.call_soon_threadsafe(watch)
            self._check_time(task.plan)
            return self._finish(task, on_step)

        try:
            async with asyncio.timeout(None) as limit:
                return await asyncio.wrap_future(self.device.model_thread.submit(finish))
        except TimeoutError as error:
            raise self._budget.exceeded() from error
        finally:
            withdrawn.set()
            begin_now()

    def _check_time(self, plan: Plan) -> None:
        needed = self.device.times.needed(plan, self.part.resume_step)
        self._budget.check(needed or 0.0)

    def _finish(self, task: Task, on_step: Callable[[ExecutedStep], None]) -> _Finished:
        """The device's part itself, measured."""
        family, begun = self.device.family, time.monotonic()
        with executing("the model"):
            run = begin(family, task, self.part.state)
            first, ready = run.step, time.monotonic()
            executed = run_here(family, run, task.plan.steps, ("device", DEVICE_NODE), on_step)
            stepping = time.monotonic() - ready
            picture, seconds = family.decode(run.x), time.monotonic() - begun
        step = stepping / (run.step - first)
        member, accel = executed[-1].member, task.plan.accel
        self.device.times.measured(member, accel, step, seconds - stepping)
        return picture, executed, seconds

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
            attempts=coordination.attempts_to_proto(self.attempts),
        )
        if result.quality is not None:
            message.quality = result.quality.graded
        await self._send_report(message)

    async def _report_failure(self, decision: Decision, status: str) -> None:
        await self._send_report(
            coordinator_pb2.ReportRequest(
                decision_id=decision.decision_id,
                ok=False,
                arm=decision.arm.name,
                total_seconds=self.spent,
                error=status,
                attempts=coordination.attempts_to_proto(self.attempts),
            )
        )

    async def _send_report(self, message: coordinator_pb2.ReportRequest) -> None:
        if self.device.settings.coordinator and not is_static(message.decision_id):
            link = self._link
            if message.error == Cancelled.status:  # whoever withdraws does not want to wait
                link = replace(link, timeout=min(link.timeout, _FAREWELL_SECONDS))
            await coordination.report(link, message)


def _arm_that_ran(result: Result) -> str:
    """The decided arm, or the device's own if no edge took part after all."""
    if result.steps_at("edge"):
        return result.arm
    return arm_that_ran(result.executed)
