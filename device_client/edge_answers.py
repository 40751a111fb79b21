"""What one edge answers, checked and kept."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from baton.common.build import NodeBuild
from baton.common.errors import (
    CorruptEnvelope,
    Draining,
    Incompatible,
    InvalidRequest,
    Unreachable,
)
from baton.common.latents import decode_state
from baton.common.record import ExecutedStep, check_record
from baton.common.rpc.convert import check_protocol, executed_from_proto
from baton.common.rpc.latent_spaces import Latents
from baton.device_client import wire
from baton.device_client.edge_request import EdgeRequest, Listener, unheard
from baton.device_client.so_far import SoFar
from baton.v1 import edge_pb2


class Forgotten(Unreachable):
    """The edge answers again but no longer knows the request that it had accepted."""


class EdgeAnswers:
    """Checks what one edge tells of its part, and keeps what holds in a `SoFar`.

    node_id: as the edge calls itself, empty before it has; on_queued: hears how many wait before
    the request there. Raises InvalidRequest, or its CorruptEnvelope, for what cannot be.
    """

    def __init__(
        self,
        address: str,
        request: EdgeRequest,
        so_far: SoFar,
        listener: Listener,
        on_queued: Callable[[int], None] = unheard,
    ) -> None:
        self._address = address
        self._request = request
        self._so_far = so_far
        self._listener = listener
        self._on_queued = on_queued
        self._executed_before = list(so_far.executed)
        self._first_step = so_far.resume_step
        self._told = so_far.resume_step
        self._begun_before = so_far.begun
        self.node_id = ""

    def accept(self, accepted: edge_pb2.Accepted, broken: Unreachable | None) -> None:
        """What it says of itself. broken: why the connection before this one ended, if one did.

        Raises Incompatible for another latent space or protocol, `Forgotten` if it begins anew.
        """
        check_protocol(accepted.protocol_version, self._address)
        known, told = bool(self.node_id), wire.acceptance_from_proto(accepted, self._request.clean)
        own = Latents(self._request.latent_space)
        own.check(Latents(told.latent_space), "the edge's", "this device's")
        self._identify(told.node_id, told.build)
        self._listener.on_notes(self._address, told.notes)
        if broken is None:
            return
        if told.attached:
            self._listener.on_reattached(self._address, str(broken))
        elif known:
            raise Forgotten("the edge has begun the request anew")

    def _identify(self, node_id: str, build: NodeBuild) -> None:
        """Note who it is and what it draws with, for the picture's record.

        Raises InvalidRequest for nonsense, Incompatible if steps are already on record as this
        node's that were drawn with something else: a record holds one build for a node id.
        """
        if not self._planned_members() <= build.members.keys():
            raise InvalidRequest("a member of its part has no fingerprint")
        known = self._so_far.nodes.get(node_id)
        if known and any(step.node_id == node_id for step in self._so_far.executed):
            if not known.agrees(build):
                raise Incompatible(
                    f"edge {node_id} has other weights or another build than when it drew earlier"
                    " steps; if two edges have one name, give each its own"
                )
            build = NodeBuild(build.build, {**known.members, **build.members})
        self.node_id, self._so_far.nodes[node_id] = node_id, build
        self._so_far.begun = True

    def _planned_members(self) -> set[str]:
        plan = self._request.task.plan
        steps = range(self._first_step, plan.stretch_end(self._first_step))
        return {plan.segment_at(step).member for step in steps}

    def _progressed(self, step: int) -> bool:
        """Whether the step is new: a stream that was reattached may tell one once more."""
        if step <= self._told:
            return False
        self._told, self._so_far.begun = step, True
        self._listener.on_step(step)
        return True

    def take(self, event: edge_pb2.DenoiseEvent) -> bool:
        """Whether it is a sign of life: a new step, or word from the queue before the first."""
        kind = event.WhichOneof("event")
        plan = self._request.task.plan
        if kind == "progress":
            if not self._first_step < event.progress.step <= plan.steps:
                raise InvalidRequest(f"step {event.progress.step} of {plan.steps}")
            return self._progressed(event.progress.step)
        if kind == "queued":
            self._so_far.begun = self._begun_before
            self._on_queued(event.queued.position)
            return self._told == self._first_step
        if kind == "checkpoint":
            self._keep(event.checkpoint.envelope, event.checkpoint)
            return self._progressed(self._so_far.resume_step)
        if kind == "drained":
            if event.drained.HasField("checkpoint"):
                self._keep(event.drained.checkpoint.envelope, event.drained.checkpoint)
            self._so_far.times += wire.times_from_proto(event.drained.times)
            raise Draining("the edge is shutting down")
        if kind == "handoff":
            times = wire.times_from_proto(event.handoff.times)
            self._keep(event.handoff.envelope, event.handoff)
            self._so_far.handed_over, self._so_far.times = True, self._so_far.times + times
            self._so_far.handoff_bytes = len(event.handoff.envelope)
            self._so_far.arrived = time.monotonic()
            return self._progressed(self._so_far.resume_step)
        if kind == "image":
            picture, executed = self._picture(event.image), self._ran(event.image, plan.steps)
            self._so_far.times += wire.times_from_proto(event.image.times)
            self._so_far.picture, self._so_far.executed = picture, executed
            return self._progressed(plan.steps)
        return False

    def _keep(self, envelope: bytes, message: edge_pb2.Checkpoint | edge_pb2.Handoff) -> None:
        decoded = decode_state(envelope, self._request.fingerprint)
        state, plan = decoded.state, self._request.task.plan
        if decoded.request_id != self._request.request_id:
            raise CorruptEnvelope("the edge sent another request's latent")
        sampler = plan.segment_at(min(state.step, plan.steps - 1)).grid.sampler
        told = state.sampler, state.steps, state.x.shape
        if told != (sampler, plan.steps, self._request.shape):
            raise CorruptEnvelope("the edge sent a latent of another plan")
        end = plan.stretch_end(self._first_step)
        handed_over, kept = isinstance(message, edge_pb2.Handoff), self._so_far.resume_step
        if not max(self._first_step + 1, kept) <= state.step <= min(end, plan.steps - 1):
            raise CorruptEnvelope(f"the edge sent the latent of step {state.step} after {kept}")
        if (state.step == end) != handed_over:
            raise CorruptEnvelope(f"the edge sent the latent of step {state.step}, not of {end}")
        self._request.check(state)
        executed = self._ran(message, state.step)
        so_far = self._so_far
        so_far.state, so_far.executed, so_far.newest = state, executed, envelope

    def _ran(
        self, message: edge_pb2.Checkpoint | edge_pb2.Handoff | edge_pb2.Image, stop: int
    ) -> list[ExecutedStep]:
        """All steps until ``stop``; the edge must have run those since it began, as planned."""
        here, plan = executed_from_proto(message.executed), self._request.task.plan
        told = [(step.step, step.member, step.location, step.node_id) for step in here]
        planned = {step: plan.segment_at(step) for step in range(self._first_step, stop)}
        if told != [
            (step, segment.member, segment.location, self.node_id)
            for step, segment in planned.items()
        ]:
            raise CorruptEnvelope("the edge's steps are not those of its latent")
        check_record(here)
        return [*self._executed_before, *here]

    def _picture(self, image: edge_pb2.Image) -> npt.NDArray[np.uint8]:
        size = self._request.task.size
        told = image.width, image.height, len(image.rgb)
        if told != (size.width, size.height, 3 * size.pixels):
            raise CorruptEnvelope("the edge's picture is incomplete or of another size")
        return np.frombuffer(image.rgb, np.uint8).reshape(size.height, size.width, 3)
