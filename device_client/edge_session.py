"""One request's exchange with one edge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import grpc.aio
import numpy as np
import numpy.typing as npt

from baton.common.build import NodeBuild
from baton.common.errors import (
    ConnectionBroken,
    CorruptEnvelope,
    Draining,
    ExecutionFailed,
    Incompatible,
    InvalidRequest,
    Unreachable,
)
from baton.common.foreign import Clean, cleaned, one_line
from baton.common.latents import LatentState, decode_state, largest_envelope
from baton.common.record import ExecutedStep, check_record
from baton.common.rpc.access import OPEN, Access
from baton.common.rpc.channel import CONTROL_BYTES, Keepalive, open_channel
from baton.common.rpc.convert import (
    check_protocol,
    executed_from_proto,
    largest_record,
)
from baton.common.rpc.latent_spaces import Latents
from baton.common.rpc.peer import Peer
from baton.common.rpc.status import parsed
from baton.device_client import wire
from baton.device_client.wire import Asked, EdgeTimes
from baton.v1 import edge_pb2, edge_pb2_grpc

_CANCEL_TIMEOUT = 1.0


def _unheard(told: object) -> None:
    """For whoever does not want to know."""


@dataclass
class EdgePart:
    """How far the edge's part of one request has come, over all edges that worked on it.

    state: the newest latent, from a checkpoint or the handoff, after ``executed``; newest: its
    envelope, from which another edge can go on; picture: set if an edge finished, uint8 [H, W, 3];
    nodes: what each edge that accepted the request draws with, by node id; begun: an edge has
    accepted it, and not said that it waits there. taken_over: the steps at which the device went
    on from an edge's latent. times: of the edges that did their part, together.
    """

    state: LatentState | None = None
    newest: bytes = field(default=b"", repr=False)
    executed: list[ExecutedStep] = field(default_factory=list)
    picture: npt.NDArray[np.uint8] | None = None
    nodes: dict[str, NodeBuild] = field(default_factory=dict)
    begun: bool = False
    handed_over: bool = False
    handoff_bytes: int = 0
    sent: int = 0
    received: int = 0
    taken_over: set[int] = field(default_factory=set)
    times: EdgeTimes = field(default_factory=EdgeTimes)

    def begin_anew(self) -> None:
        """Forget what was drawn so far."""
        self.state, self.newest, self.executed = None, b"", []
        self.taken_over.clear()

    @property
    def done(self) -> bool:
        return self.handed_over or self.picture is not None

    @property
    def resume_step(self) -> int:
        return self.state.step if self.state else 0


@dataclass(frozen=True, kw_only=True)
class EdgeRequest(Asked):
    """A request for edges, and how they are reached.

    Seconds: timeout for an edge's whole part, connect_timeout for its first answer, stall_timeout
    for each step once it does not wait any more, reattach_timeout for the first answer after the
    connection broke; zero does not try. check: raises BatonError for a latent with which nobody
    could go on; clean: what an edge's texts pass through.
    """

    shape: tuple[int, int, int]
    timeout: float
    access: Access = OPEN
    keepalive: Keepalive = field(default_factory=Keepalive)
    connect_timeout: float = 5.0
    reattach_timeout: float = 0.8
    stall_timeout: float = 30.0
    check: Callable[[LatentState], object] = field(default=_unheard, repr=False)
    clean: Clean = field(default=one_line, repr=False)

    @property
    def connection(self) -> tuple[Access, Keepalive, int]:
        """For `open_channel`: an answer holds a latent or the picture, and a record, at most."""
        picture = 3 * self.task.size.pixels
        largest = max(largest_envelope(self.shape), picture)
        record = largest_record(self.task.plan.steps)
        return self.access, self.keepalive, CONTROL_BYTES + largest + record


class Listener(Protocol):
    """Hears how an edge session goes."""

    def on_step(self, done: int) -> None: ...

    def on_notes(self, address: str, notes: Sequence[str]) -> None: ...

    def on_reattached(self, address: str, reason: str) -> None: ...


class _Forgotten(Unreachable):
    """The edge answers again but no longer knows the request that it had accepted."""


class _Stalled(Unreachable):
    """The edge is there, and no step comes."""


class EdgeSession:
    """Runs the edge's part on one edge, collecting into an `EdgePart`.

    node_id: as the edge calls itself; forgotten: the edge was reached again after the connection
    broke, but it no longer knew the request; on_queued: hears how many wait before it there.
    """

    def __init__(
        self,
        address: str,
        request: EdgeRequest,
        part: EdgePart,
        listener: Listener,
        on_queued: Callable[[int], None] = _unheard,
    ) -> None:
        self._address = address
        self._request = request
        self._part = part
        self._listener = listener
        self._on_queued = on_queued
        self._executed_before = list(part.executed)
        self._first_step = part.resume_step
        self._told = part.resume_step
        self._begun_before = part.begun
        self.node_id = ""
        self.forgotten = False

    async def run(self, resume: bytes, timeout: float) -> None:
        """Follow the edge to its handoff or picture.

        ``resume``: the envelope to go on from, or nothing. If the connection breaks, the request is
        sought once more at the same edge, where it lingers. Raises the edge's BatonError; what was
        collected until then stays in the part. If this task is cancelled, the edge is told.
        """
        message = wire.denoise_request(self._request, resume)
        deadline = time.monotonic() + timeout
        try:
            await self._follow(message, deadline, self._request.connect_timeout)
        except _Stalled:
            raise
        except Unreachable as error:
            accepted = self.node_id or isinstance(error, ConnectionBroken)
            if not (accepted and self._request.reattach_timeout):
                raise
            await self._follow_again(message, deadline, error)

    async def _follow_again(
        self, message: edge_pb2.DenoiseRequest, deadline: float, broken: Unreachable
    ) -> None:
        """Raises ``broken`` if the request is not to be found there any more."""
        try:
            await self._follow(message, deadline, self._request.reattach_timeout, broken)
        except _Forgotten as error:
            self.forgotten = True
            raise broken from error
        except Unreachable as error:
            raise broken from error

    async def _follow(
        self,
        message: edge_pb2.DenoiseRequest,
        deadline: float,
        patience: float,
        broken: Unreachable | None = None,
    ) -> None:
        """One stream, on a connection of its own. ``broken``: why the one before it ended."""
        request = self._request
        with cleaned(request.clean):
            async with open_channel(self._address, *request.connection) as channel:
                stub = edge_pb2_grpc.EdgeStub(channel)
                self._part.sent += message.ByteSize()
                call = stub.Denoise(message, timeout=max(deadline - time.monotonic(), 0.001))
                try:
                    await self._read(call, patience, broken)
                except grpc.aio.AioRpcError as error:
                    peer = Peer("an edge", self._address, request.access)
                    raise await peer.failure(error, channel) from error
                except TimeoutError as error:
                    raise Unreachable(
                        f"no answer from {self._address} within {patience:g} s; is it overloaded or"
                        " stopped?"
                    ) from error
                except BaseException as error:  # the edge knows nothing of it and works on
                    await self._cancel(stub)
                    if isinstance(error, InvalidRequest):  # the answer is bad, not the request
                        raise ExecutionFailed(
                            f"{self._address} answered nonsense: {error}"
                        ) from error
                    raise

    async def _read(
        self,
        call: AsyncIterable[edge_pb2.DenoiseEvent],
        patience: float,
        broken: Unreachable | None,
    ) -> None:
        """Until the part is done. Raises TimeoutError if there is no answer at all."""
        loop, stall, answered = asyncio.get_running_loop(), self._request.stall_timeout, False
        try:
            async with asyncio.timeout(patience) as waiting:
                async for answer in call:
                    event = parsed(answer, self._address)
                    self._part.received += event.ByteSize()
                    if event.HasField("accepted"):
                        self._accepted(event.accepted, broken)
                    elif not self.node_id:
                        raise InvalidRequest("it has not said who it is")
                    if self._take(event) or not answered:
                        waiting.reschedule(loop.time() + stall)
                    if self._part.done:
                        return  # nothing that is told after it counts
                    answered = True
        except TimeoutError as error:
            if not answered:
                raise
            raise _Stalled(f"{self._address} has reported no step for {stall:g} s") from error
        raise ExecutionFailed(f"the edge at {self._address} ended without a result")

    def _accepted(self, accepted: edge_pb2.Accepted, broken: Unreachable | None) -> None:
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
            raise _Forgotten("the edge has begun the request anew")

    def _identify(self, node_id: str, build: NodeBuild) -> None:
        """Note who it is and what it draws with, for the picture's record.

        Raises InvalidRequest for nonsense, Incompatible if steps are already on record as this
        node's that were drawn with something else: a record holds one build for a node id.
        """
        if not self._planned_members() <= build.members.keys():
            raise InvalidRequest("a member of its part has no fingerprint")
        known = self._part.nodes.get(node_id)
        if known and any(step.node_id == node_id for step in self._part.executed):
            if not known.agrees(build):
                raise Incompatible(
                    f"edge {node_id} has other weights or another build than when it drew earlier"
                    " steps; if two edges have one name, give each its own"
                )
            build = NodeBuild(build.build, {**known.members, **build.members})
        self.node_id, self._part.nodes[node_id] = node_id, build
        self._part.begun = True

    def _planned_members(self) -> set[str]:
        plan = self._request.task.plan
        steps = range(self._first_step, plan.stretch_end(self._first_step))
        return {plan.segment_at(step).member for step in steps}

    def _progressed(self, step: int) -> bool:
        """Whether the step is new: a stream that was reattached may tell one once more."""
        if step <= self._told:
            return False
        self._told, self._part.begun = step, True
        self._listener.on_step(step)
        return True

    def _take(self, event: edge_pb2.DenoiseEvent) -> bool:
        """Whether it is a sign of life: a new step, or word from the queue before the first."""
        kind = event.WhichOneof("event")
        plan = self._request.task.plan
        if kind == "progress":
            if not self._first_step < event.progress.step <= plan.steps:
                raise InvalidRequest(f"step {event.progress.step} of {plan.steps}")
            return self._progressed(event.progress.step)
        if kind == "queued":
            self._part.begun = self._begun_before
            self._on_queued(event.queued.position)
            return self._told == self._first_step
        if kind == "checkpoint":
            self._keep(event.checkpoint.envelope, event.checkpoint)
            return self._progressed(self._part.resume_step)
        if kind == "drained":
            if event.drained.HasField("checkpoint"):
                self._keep(event.drained.checkpoint.envelope, event.drained.checkpoint)
            raise Draining(f"the edge at {self._address} leaves")
        if kind == "handoff":
            times = wire.times_from_proto(event.handoff.times)
            self._keep(event.handoff.envelope, event.handoff)
            self._part.handed_over, self._part.times = True, self._part.times + times
            self._part.handoff_bytes = len(event.handoff.envelope)
            return self._progressed(self._part.resume_step)
        if kind == "image":
            picture, executed = self._picture(event.image), self._ran(event.image, plan.steps)
            self._part.times += wire.times_from_proto(event.image.times)
            self._part.picture, self._part.executed = picture, executed
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
        handed_over, kept = isinstance(message, edge_pb2.Handoff), self._part.resume_step
        if not max(self._first_step + 1, kept) <= state.step <= min(end, plan.steps - 1):
            raise CorruptEnvelope(f"the edge sent the latent of step {state.step} after {kept}")
        if (state.step == end) != handed_over:
            raise CorruptEnvelope(f"the edge sent the latent of step {state.step}, not of {end}")
        self._request.check(state)
        executed = self._ran(message, state.step)
        part = self._part
        part.state, part.executed, part.newest = state, executed, envelope

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

    async def _cancel(self, stub: edge_pb2_grpc.EdgeStub) -> None:
        """Free the place at the edge; it may be gone, which is as good."""
        with suppress(grpc.aio.AioRpcError):
            request = wire.cancel_request(self._request.request_id)
            await stub.Cancel(request, timeout=_CANCEL_TIMEOUT)
