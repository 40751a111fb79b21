"""Decide: which arm draws a picture, and which edges may serve it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from baton.common.arm import Arm
from baton.common.decision import Decision
from baton.common.errors import BatonError, Incompatible
from baton.common.query import DecideQuery
from baton.device_client import coordination
from baton.device_client.features import prompt_features
from baton.device_client.order import Order
from baton.device_client.settings import split_list
from baton.device_client.so_far import SoFar
from baton.device_client.static_decision import static_decision

#: What a coordinator says of the request itself; any other failure is its own.
_FINAL = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}


class Decider:
    """Decides where a picture is drawn: as the coordinator says, or else as this device does."""

    def __init__(self, order: Order, so_far: SoFar) -> None:
        self._order = order
        self._so_far = so_far

    async def decide(self) -> Decision:
        """Ask the coordinator unless an edge is named; decide alone if it has no sound answer.

        Raises what the coordinator says of the request itself, and as `static_decision`.
        """
        settings, request = self._order.device.settings, self._order.request
        arm = self._order.device.arm_names.requested(request)
        alone: list[str] = []
        if settings.coordinator and not request.edge:
            try:
                return await self._ask(arm)
            except BatonError as error:
                if error.status in _FINAL:
                    raise
                alone = [f"decided alone: {error}"]
                self._so_far.notes += alone
        try:
            return self._decide_alone()
        except Incompatible as error:
            raise Incompatible("; ".join([str(error), *alone])) from error

    async def _ask(self, arm: Arm | None) -> Decision:
        order, device = self._order, self._order.device
        link = order.link
        link = replace(link, timeout=order.timer.budget.within(link.timeout))
        decision = await coordination.ask(
            link, self._query(arm), device.offline_tickets, self._so_far.count_trip
        )
        return device.arm_names.check(decision, arm, self._order.request)

    def _query(self, arm: Arm | None) -> DecideQuery:
        order, request, spec = self._order, self._order.request, self._order.device.spec
        return DecideQuery(
            request_id=order.request_id,
            prompt=prompt_features(request.prompt),
            preference=request.preference,
            family=spec.name,
            fingerprint=spec.fingerprint,
            latent_space=spec.latent_space.id,
            members=tuple(order.device.members),
            steps=request.steps or spec.default_steps,
            any_steps=request.any_steps,
            partial_members=tuple(m for m in spec.partial_members if m in order.device.members),
            size=order.size,
            requested_arm=arm,
        )

    def _decide_alone(self) -> Decision:
        device, request, spec = self._order.device, self._order.request, self._order.device.spec
        named = split_list(request.edge or "") or device.settings.edge_list

        def decide(edges: Sequence[str]) -> Decision:
            fallback = bool(request.fallback)
            return static_decision(device.arm_names, request, edges, fallback)

        return device.offline_tickets.apply(decide, named, spec.name, spec.fingerprint)
