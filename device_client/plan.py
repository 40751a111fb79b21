"""Plan: what is drawn where, as decided, and what of it is left to a device without an edge."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

from baton.common.arm import Arm
from baton.common.errors import BatonError, DeadlineExceeded, Incompatible, InvalidRequest
from baton.common.expansion import Terms, expand
from baton.common.guidance import GuidanceBudget, parse_budget
from baton.common.limits import Accel
from baton.common.plan import Guidance, Holder, OpenPlan
from baton.common.request import Task
from baton.device_client.order import NO_MEMBER, Order
from baton.device_client.so_far import SoFar


class Planner:
    """Makes the decided arm a task, and notes what of it is otherwise than asked."""

    def __init__(self, order: Order, so_far: SoFar) -> None:
        self._order = order
        self._so_far = so_far

    def task(self, arm: Arm) -> Task:
        """Raises BatonError for an arm that means no plan here, or whose members are not here."""
        request, spec = self._order.request, self._order.device.spec
        if request.sampler is None and spec.sampler_note:
            self._so_far.notes.append(spec.sampler_note)
        plan = expand(arm, self._terms())
        if plan.grids[0].name:  # what the family makes cheaper by default was tried on plain levels
            plan = expand(arm, self._terms(named=True))
        self._check_own(plan)
        return Task(request.prompt, request.negative_prompt, plan, request.seed, self._order.size)

    def fall_back(self, task: Task, lost: BatonError | None) -> Task:
        """The task with all that is left of its plan on this device.

        lost: why no edge did it. Raises what ends the request if the device may not draw.
        """
        so_far, request = self._so_far, self._order.request
        held, allowed = self._order.device.members, request.fallback
        if allowed is None:
            allowed = request.arm is None or so_far.begun
        if not (held and allowed):
            lost = lost or Incompatible("no edge is available")
            remedy = "--fallback lets the device draw instead" if held else NO_MEMBER
            raise _without_edge(lost, so_far.begun, f"{lost}; {remedy}")
        step = so_far.resume_step
        plan = task.plan.rest_on(step, self._holders(task))
        members = dict.fromkeys(plan.segment_at(i).member for i in range(step, plan.steps))
        so_far.notes.append(f"drawn on the device with {' and '.join(members)} from step {step}")
        return replace(task, plan=plan)

    def _holders(self, task: Task) -> Callable[[int], Holder | None]:
        """Who takes over each step of an edge here. Raises Incompatible where nobody can.

        A member that is made for a step's level of noise goes before one that is for all.
        """
        device = self._order.device
        parts = {name: device.spec.members[name] for name in device.members}
        ranked = sorted(parts, key=lambda name: parts[name].levels is None)
        levels = device.family.course(task.plan, task.size).ratios

        def holder(step: int) -> Holder | None:
            segment = task.plan.segment_at(step)
            if segment.location == "device":
                return None
            for name in ranked:
                if parts[name].knows(levels[step]):
                    guidance = Guidance(segment.guidance.scale, parts[name].guidance)
                    return Holder(name, "device", guidance)
            raise Incompatible(
                f"this device holds no member for noise level {levels[step]:.3g}, at which step"
                f" {step} begins"
            )

        return holder

    def _terms(self, named: bool = False) -> Terms:
        """named: over a grid that the family names."""
        request, device = self._order.request, self._order.device
        spec, loaded = device.spec, device.loaded
        steps = spec.default_steps if request.steps is None else request.steps
        guidance = spec.default_guidance if request.guidance is None else request.guidance
        return Terms(
            family=spec.name,
            sampler=request.sampler or spec.default_sampler,
            steps=steps,
            guidance=Guidance(guidance),
            accel=self._accel or ("none" if named else spec.default_accel),
            budget=self._budget(named),
            own_guidance=spec.own_guidance,
            named=spec.named_grids,
            ratios=loaded.ratios if loaded else None,
        )

    @property
    def _accel(self) -> Accel | None:
        """As asked for; None leaves it to the family."""
        return self._order.request.accel or self._order.device.settings.accel

    def _budget(self, named: bool) -> GuidanceBudget | None:
        device = self._order.device
        asked = self._order.request.guidance_budget or device.settings.guidance_budget
        own = parse_budget(device.spec.guidance_budget)
        if asked is not None:
            return parse_budget(asked, own)
        return None if named else own

    def _check_own(self, plan: OpenPlan) -> None:
        """Raises BatonError if the device's own stretches cannot be run here."""
        device = self._order.device
        own = [segment.member for segment in plan.segments if segment.location == "device"]
        for member in own:
            device.family.denoiser(member)
        if device.loaded is not None:  # an edge refuses likewise
            device.loaded.check_levels(plan, self._order.size)
        if own and self._accel is not None:  # who asks for nothing misses nothing
            self._so_far.notes += device.family.accelerator.notes(plan, own)


def _without_edge(lost: BatonError, begun: bool, text: str) -> BatonError:
    """What ends a request whose edges have not done their part; ``text``: its message.

    What an edge says of the request is not the caller's wrong input, and one that did not accept
    it has refused, whatever it says.
    """
    failed = begun and not isinstance(lost, InvalidRequest)
    if not (failed or lost.exit_code in (3, 4) or isinstance(lost, DeadlineExceeded)):
        return Incompatible(text)
    error = copy(lost)
    error.args = (text,)
    return error
