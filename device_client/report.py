"""Report: what came of a picture, for its caller, its file and the coordinator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from baton.common.arm import Arm
from baton.common.build import NodeBuild, this_build
from baton.common.checks import MAX_ATTEMPTS
from baton.common.decision import Decision
from baton.common.limits import DEVICE_NODE
from baton.common.outcome import EdgeAttempt, Outcome
from baton.common.plan import OpenPlan
from baton.common.record import arm_that_ran
from baton.common.request import Task
from baton.device_client import coordination
from baton.device_client.order import Order
from baton.device_client.provenance import Provenance
from baton.device_client.result import Result
from baton.device_client.so_far import SoFar
from baton.device_client.static_decision import is_static

_FAREWELL_SECONDS = 1.0


class Report:
    """Tells what came of a picture: its caller as a result, the coordinator as an outcome."""

    def __init__(self, order: Order, so_far: SoFar, decision: Decision) -> None:
        self._order = order
        self._so_far = so_far
        self._decision = decision

    def result(self, picture: npt.NDArray[np.uint8], planned: OpenPlan, task: Task) -> Result:
        """planned: what the arm means; task: with the plan of what ran."""
        so_far, device = self._so_far, self._order.device
        return Result(
            request_id=self._order.request_id,
            picture=picture,
            task=task,
            arm=str(self._decision.arm),
            planned=planned,
            decision_id=self._decision.decision_id,
            executed=tuple(so_far.executed),
            seconds=so_far.seconds,
            traffic=so_far.traffic,
            provenance=self._provenance(task),
            quality=device.scorer(picture, task.prompt) if device.scorer else None,
            notes=(*so_far.notes, *self._order.unheard(quote=True)),
            save_scale=device.spec.save_scale,
            attempts=tuple(so_far.attempts),
        )

    def tell(self, result: Result) -> None:
        """The coordinator will hear of a picture."""
        seconds = result.seconds
        with coordination.reporting():
            outcome = Outcome(
                ok=True,
                arm=self._arm_that_ran(result),
                total_seconds=seconds.total,
                edge_seconds=seconds.at_edges,
                edge_compute_seconds=seconds.edge,
                edge_queue_seconds=seconds.queue,
                transfer_seconds=seconds.transfer,
                device_seconds=seconds.device + seconds.decode,
                handoff_seconds=self._so_far.handoff_seconds,
                bytes_sent=result.traffic.sent,
                bytes_received=result.traffic.received,
                quality=None if result.quality is None else result.quality.graded,
                attempts=self._newest_attempts,
            )
            self._send(outcome)

    def tell_failure(self, status: str) -> None:
        """It will hear that there is no picture: silence would count against the arm."""
        with coordination.reporting():
            outcome = Outcome(
                ok=False,
                arm=self._decision.arm,
                total_seconds=self._order.timer.budget.spent,
                error=status,
                attempts=self._newest_attempts,
            )
            self._send(outcome)

    def _provenance(self, task: Task) -> Provenance:
        """What a replay needs; an envelope rounded the latent wherever somebody took it over."""
        so_far, device = self._so_far, self._order.device
        builds = dict(so_far.nodes)
        resumed_at = {attempt.start for attempt in so_far.attempts if attempt.start < attempt.stop}
        ran_here = {step.member for step in so_far.executed if step.location == "device"}
        if ran_here:
            prints = device.family.member_fingerprints
            own = {member: prints[member] for member in ran_here}
            builds[DEVICE_NODE] = NodeBuild(this_build(), own)
        return Provenance(
            task=task,
            executed=tuple(so_far.executed),
            fingerprint=device.spec.fingerprint,
            codec=str(device.settings.codec),
            transfers=tuple(sorted((resumed_at | so_far.taken_over) - {0})),
            nodes={step.node_id: builds[step.node_id] for step in so_far.executed},
        )

    def _arm_that_ran(self, result: Result) -> Arm:
        """The decided arm, or the device's own if no edge took part after all."""
        decided = self._decision.arm
        if result.steps_at("edge"):
            return decided
        return arm_that_ran(result.executed, result.task.plan, decided)

    @property
    def _newest_attempts(self) -> tuple[EdgeAttempt, ...]:
        """As many as a report may hold."""
        return tuple(self._so_far.attempts[-MAX_ATTEMPTS:])

    def _send(self, outcome: Outcome) -> None:
        decision_id = self._decision.decision_id
        if self._order.device.settings.coordinator and not is_static(decision_id):
            link = self._order.link
            if outcome.withdrawn:  # whoever withdraws does not want to wait
                link = replace(link, timeout=min(link.timeout, _FAREWELL_SECONDS))

            async def send() -> None:
                with coordination.reporting():
                    await coordination.report(link, decision_id, outcome)

            self._order.device.outbox.post(send)
