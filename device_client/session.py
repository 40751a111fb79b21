"""One picture from request to result: decide, edge's part, device's part, report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from baton.common.arm import Arm
from baton.common.build import NodeBuild, this_build
from baton.common.checks import MAX_ATTEMPTS
from baton.common.decision import Decision
from baton.common.errors import (
    BatonError,
    Cancelled,
    ExecutionFailed,
    Incompatible,
    executing,
)
from baton.common.expansion import Terms, expand
from baton.common.latents import LatentState
from baton.common.limits import DEVICE_NODE
from baton.common.outcome import EdgeAttempt, Outcome
from baton.common.plan import Guidance, OpenPlan
from baton.common.query import DecideQuery
from baton.common.record import arm_that_ran
from baton.common.request import GenerationRequest, Task
from baton.common.rpc.channel import Keepalive, check_peer
from baton.common.size import Size
from baton.device_client import coordination
from baton.device_client.budget import Budget, Timer
from baton.device_client.decide import is_static, static_decision
from baton.device_client.device_part import NO_MEMBER, Device, DevicePart
from baton.device_client.edge_session import EdgePart, EdgeRequest
from baton.device_client.events import Decided, Event
from baton.device_client.features import prompt_features
from baton.device_client.provenance import Provenance
from baton.device_client.relay import EdgeRelay, Telling, without_edge
from baton.device_client.result import Result, Seconds, Traffic
from baton.device_client.settings import split_list

_FAREWELL_SECONDS = 1.0
#: What a coordinator says of the request itself; any other failure is its own.
_FINAL = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}


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
        self._timer = Timer()
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
        self._timer.budget = Budget.of(self.request.timeout)
        with executing("deciding"):
            self.device.spec.latent_shape(self._size)  # nobody is asked about what cannot work
            decision = self.decision = await self._decide()
        try:
            with executing("drawing on this device"):
                task = self.task = self._task(decision)
                self._emit(Decided(decision, task.plan))
                result = await self._draw(decision, task)
                await self._report(decision, result)
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
        return self._timer.budget.spent

    async def _draw(self, decision: Decision, task: Task) -> Result:
        """Every stretch of the plan in turn, where it says or where it can be run."""
        planned, part, seconds = task.plan, self.part, Seconds()
        while part.picture is None:
            begun = time.monotonic()
            if task.plan.segment_at(part.resume_step).location == "edge":
                task = await self._edge_part(decision, task)
                seconds = replace(seconds, edge=seconds.edge + time.monotonic() - begun)
            else:
                task, here = await self._draw_here(task)
                seconds = replace(seconds, device=seconds.device + here)
        scorer = self.device.scorer
        return Result(
            request_id=self.request_id,
            picture=part.picture,
            task=task,
            arm=str(decision.arm),
            planned=planned,
            decision_id=decision.decision_id,
            executed=tuple(part.executed),
            seconds=replace(seconds, total=self.spent),
            traffic=Traffic(part.sent, part.received),
            provenance=self._provenance(task),
            quality=scorer(part.picture, task.prompt) if scorer else None,
            notes=(*self.notes, *self.unheard(quote=True)),
            save_scale=self.device.spec.save_scale,
            attempts=tuple(self.attempts),
        )

    def unheard(self, quote: bool) -> list[str]:
        """What of the prompts is lost on the encoder; without ``quote``, none of it is told.

        A device without one cannot tell.
        """
        texts = {"prompt": self.request.prompt, "negative prompt": self.request.negative}
        family = self.device.loaded
        if family is None:
            return []
        return [
            note for what, text in texts.items() for note in family.heard(text).notes(what, quote)
        ]

    def _provenance(self, task: Task) -> Provenance:
        """What a replay needs; an envelope rounded the latent wherever somebody took it over."""
        part, builds = self.part, dict(self.part.nodes)
        resumed_at = {attempt.start for attempt in self.attempts if attempt.start < attempt.stop}
        ran_here = {step.member for step in part.executed if step.location == "device"}
        if ran_here:
            prints = self.device.family.member_fingerprints
            own = {member: prints[member] for member in ran_here}
            builds[DEVICE_NODE] = NodeBuild(this_build(), own)
        return Provenance(
            task=task,
            executed=tuple(part.executed),
            fingerprint=self.device.spec.fingerprint,
            codec=str(self.device.settings.codec),
            transfers=tuple(sorted((resumed_at | part.taken_over) - {0})),
            nodes={step.node_id: builds[step.node_id] for step in part.executed},
        )

    async def _decide(self) -> Decision:
        """Ask the coordinator unless an edge is named; decide alone if it has no sound answer."""
        request, settings, spec = self.request, self.device.settings, self.device.spec
        edges = split_list(request.edge or "") or settings.edge_list
        names, fallback = self.device.arm_names, bool(request.fallback)
        arm = names.requested(request)
        alone: list[str] = []
        if settings.coordinator and not request.edge:
            query = DecideQuery(
                request_id=self.request_id,
                prompt=prompt_features(request.prompt),
                preference=request.preference,
                family=spec.name,
                fingerprint=spec.fingerprint,
                latent_space=spec.latent_space.id,
                members=tuple(settings.member_list),
                steps=request.steps or spec.default_steps,
                size=self._size,
                requested_arm=arm,
            )
            try:
                timeout = self._timer.budget.within(settings.coordinator_timeout)
                link = replace(self._link, timeout=timeout)
                decision = await coordination.ask(link, query, self.device.offline_tickets)
                return names.check(decision, arm)
            except BatonError as error:
                if error.status in _FINAL:
                    raise
                alone = [f"decided alone: {error}"]
                self.notes += alone

        def decide(edges: Sequence[str]) -> Decision:
            return static_decision(names, request.arm, request.preference, edges, fallback)

        try:
            return self.device.offline_tickets.apply(decide, edges, spec.name, spec.fingerprint)
        except Incompatible as error:
            raise Incompatible("; ".join([str(error), *alone])) from error

    @property
    def _link(self) -> coordination.Link:
        of = self.device.settings
        access, timeout = self.device.access, of.coordinator_timeout
        return coordination.Link(of.coordinator, access, timeout, self.request.hide)

    def _task(self, decision: Decision) -> Task:
        request, spec, loaded = self.request, self.device.spec, self.device.loaded
        steps = spec.default_steps if request.steps is None else request.steps
        guidance = spec.default_guidance if request.guidance is None else request.guidance
        if request.sampler is None and spec.sampler_note:
            self.notes.append(spec.sampler_note)
        accel = request.accel or self.device.settings.accel
        terms = Terms(
            family=spec.name,
            sampler=request.sampler or spec.default_sampler,
            steps=steps,
            guidance=Guidance(guidance),
            accel=accel or spec.default_accel,
            own_guidance=spec.own_guidance(guidance),
            named=spec.named_grids,
            ratios=loaded.ratios if loaded else None,
        )
        plan = expand(decision.arm, terms)
        own = [segment.member for segment in plan.segments if segment.location == "device"]
        for member in own:
            self.device.family.denoiser(member)
        if own and accel is not None:  # who asks for nothing misses nothing
            self.notes += self.device.family.accelerator.notes(plan, own)
        return Task(request.prompt, request.negative, plan, request.seed, self._size)

    @property
    def _size(self) -> Size:
        size = self.request.size
        return self.device.spec.default_size if size is None else Size.of(size)

    async def _edge_part(self, decision: Decision, task: Task) -> Task:
        """Try the edges in order, each from where the last one got; then fall back to the device.

        Returns the task whose plan says what is really left to the device.
        """
        settings, spec = self.device.settings, self.device.spec
        self.part.handed_over = False
        if is_static(decision.decision_id):  # addresses that a caller or the settings name
            for edge in decision.edges:
                check_peer(edge.address, self.device.access)
        request = EdgeRequest(
            request_id=self.request_id,
            task=task,
            fingerprint=spec.fingerprint,
            latent_space=spec.latent_space,
            shape=spec.latent_shape(task.size),
            codec=settings.codec,
            checkpoint_every=settings.checkpoint_every,
            timeout=settings.edge_timeout,
            connect_timeout=settings.connect_timeout,
            reattach_timeout=settings.reattach_timeout,
            stall_timeout=settings.stall_timeout,
            check=self._latent_check(task.plan),
            keepalive=Keepalive(settings.keepalive_time, settings.keepalive_timeout),
            ticket=decision.ticket,
            access=self.device.access,
            clean=self.request.hide,
        )
        telling = Telling(self._emit, self.notes, self.attempts)
        relay = EdgeRelay(request, self.part, telling)
        reserve = self.device.times.reserve(task.plan, self.part.resume_step, self._timer.budget)
        lost = await relay.run(decision.edges, self._timer.budget, reserve)
        return task if self.part.done else self._fall_back(task, lost)

    def _latent_check(self, plan: OpenPlan) -> Callable[[LatentState], object]:
        """What raises BatonError for a latent with which this device could not go on.

        Without a model it could go on with none, and takes them as they come.
        """
        family = self.device.loaded
        if family is None:
            return lambda state: None
        from baton.common.diffusion.run import resumed

        course = family.course(plan)
        return lambda state: resumed(state, course)

    def _fall_back(self, task: Task, lost: BatonError | None) -> Task:
        members, allowed = self.device.settings.member_list, self.request.fallback
        if allowed is None:
            allowed = self.request.arm is None or self.part.begun
        if not (members and allowed):
            lost = lost or Incompatible("no edge is available")
            remedy = "--fallback lets the device draw instead" if members else NO_MEMBER
            raise without_edge(lost, self.part, f"{lost}; {remedy}")
        step = self.part.resume_step
        self.notes.append(f"drawn on the device with {members[0]} from step {step}")
        return replace(task, plan=task.plan.rest_on(members[0], "device", step))

    async def _draw_here(self, task: Task) -> tuple[Task, float]:
        """The device's stretch; anew and alone if it fails on what an edge has handed over."""
        part = self.part
        own = DevicePart(self.device, self.request_id, self._timer, self._emit)
        try:
            if part.state is not None:
                part.taken_over.add(part.resume_step)
            return task, await own.run(task, part)
        except ExecutionFailed as error:
            if part.state is None or self.request.fallback is False:
                raise
            self.notes.append(f"what came from an edge was of no use here: {error}")
        self.attempts[:] = [attempt.in_vain() for attempt in self.attempts]
        part.begin_anew()
        task = self._fall_back(task, None)
        return task, await own.run(task, part)

    async def _report(self, decision: Decision, result: Result) -> None:
        with coordination.reporting():
            outcome = Outcome(
                ok=True,
                arm=_arm_that_ran(decision, result),
                total_seconds=result.seconds.total,
                edge_seconds=result.seconds.edge,
                edge_compute_seconds=self.part.times.computed,
                edge_queue_seconds=self.part.times.queued,
                device_seconds=result.seconds.device,
                bytes_sent=result.traffic.sent,
                bytes_received=result.traffic.received,
                quality=None if result.quality is None else result.quality.graded,
                attempts=self._newest_attempts,
            )
            await self._send_report(decision.decision_id, outcome)

    async def _report_failure(self, decision: Decision, status: str) -> None:
        with coordination.reporting():
            outcome = Outcome(
                ok=False,
                arm=decision.arm,
                total_seconds=self.spent,
                error=status,
                attempts=self._newest_attempts,
            )
            await self._send_report(decision.decision_id, outcome)

    @property
    def _newest_attempts(self) -> tuple[EdgeAttempt, ...]:
        """As many as a report may hold."""
        return tuple(self.attempts[-MAX_ATTEMPTS:])

    async def _send_report(self, decision_id: str, outcome: Outcome) -> None:
        if self.device.settings.coordinator and not is_static(decision_id):
            link = self._link
            if outcome.withdrawn:  # whoever withdraws does not want to wait
                link = replace(link, timeout=min(link.timeout, _FAREWELL_SECONDS))
            await coordination.report(link, decision_id, outcome)


def _arm_that_ran(decision: Decision, result: Result) -> Arm:
    """The decided arm, or the device's own if no edge took part after all."""
    if result.steps_at("edge"):
        return decision.arm
    return arm_that_ran(result.executed, result.task.plan.grids)
