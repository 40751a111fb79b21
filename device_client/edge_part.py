"""The edge's part: a stretch of the plan on the best edge that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from baton.common.decision import Decision, EdgeChoice
from baton.common.latents import LatentState
from baton.common.plan import OpenPlan
from baton.common.request import Task
from baton.common.rpc.channel import check_peer
from baton.device_client.edge_request import EdgeRequest
from baton.device_client.order import Order
from baton.device_client.plan import Planner
from baton.device_client.relay import EdgeRelay
from baton.device_client.so_far import SoFar
from baton.device_client.static_decision import is_static


class EdgePart:
    """Has a stretch of the plan drawn at an edge, or leaves it to the device."""

    def __init__(self, order: Order, so_far: SoFar, planner: Planner) -> None:
        self._order = order
        self._so_far = so_far
        self._planner = planner

    async def run(self, task: Task, decision: Decision) -> Task:
        """Try the edges in order, each from where the last one got; then fall back to the device.

        Returns the task whose plan says what is really left to the device.
        """
        so_far, budget = self._so_far, self._order.timer.budget
        so_far.handed_over = False
        if is_static(decision.decision_id):
            self._check_named(decision.edges)
        relay = EdgeRelay(self._request(task, decision.ticket), so_far, self._order.emit)
        reserve = self._order.device.times.reserve(task.plan, so_far.resume_step, budget)
        lost = await relay.run(decision.edges, budget, reserve)
        return task if so_far.done else self._planner.fall_back(task, lost)

    def _check_named(self, edges: Sequence[EdgeChoice]) -> None:
        """Raises BatonError for an address of a caller or the settings that none may have."""
        for edge in edges:
            check_peer(edge.address, self._order.device.access)

    def _request(self, task: Task, ticket: str) -> EdgeRequest:
        settings, spec = self._order.device.settings, self._order.device.spec
        return EdgeRequest(
            request_id=self._order.request_id,
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
            channels=self._order.device.channels,
            ticket=ticket,
            access=self._order.device.access,
            clean=self._order.request.hide,
        )

    def _latent_check(self, plan: OpenPlan) -> Callable[[LatentState], object]:
        """What raises BatonError for a latent with which this device could not go on.

        Without a model it could go on with none, and takes them as they come.
        """
        family = self._order.device.loaded
        if family is None:
            return lambda state: None
        from baton.common.diffusion.run import resumed

        course = family.course(plan)
        return lambda state: resumed(state, course)
