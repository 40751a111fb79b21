"""One request's exchange with one edge."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc.aio
import numpy as np
import numpy.typing as npt

from baton.v1 import edge_pb2, edge_pb2_grpc
from common.errors import CorruptEnvelope, ExecutionFailed, InvalidRequest
from common.latents import Codec, LatentState, decode_state
from common.plan import ExecutedStep, Task
from common.rpc import PROTOCOL_VERSION
from common.rpc.channel import channel_to
from common.rpc.convert import check_protocol, executed_from_proto, plan_to_proto
from common.rpc.status import from_rpc_error

_CANCEL_TIMEOUT = 1.0


@dataclass
class EdgePart:
    """How far the edge's part of one request has come, over all edges that worked on it.

    state: the newest latent, from a checkpoint or the handoff, after ``executed``; picture: set if
    an edge finished, uint8 [H, W, 3].
    """

    state: LatentState | None = None
    executed: list[ExecutedStep] = field(default_factory=list)
    picture: npt.NDArray[np.uint8] | None = None
    handed_over: bool = False
    handoff_bytes: int = 0
    sent: int = 0
    received: int = 0

    @property
    def done(self) -> bool:
        return self.handed_over or self.picture is not None

    @property
    def resume_step(self) -> int:
        return self.state.step if self.state else 0


@dataclass(frozen=True)
class EdgeRequest:
    """What every edge is told about a request."""

    request_id: str
    task: Task
    fingerprint: str
    shape: tuple[int, int, int]
    codec: Codec
    checkpoint_every: int
    timeout: float

    def message(self, resume: bytes) -> edge_pb2.DenoiseRequest:
        return edge_pb2.DenoiseRequest(
            protocol_version=PROTOCOL_VERSION,
            request_id=self.request_id,
            prompt=self.task.prompt,
            negative_prompt=self.task.negative,
            plan=plan_to_proto(self.task.plan),
            seed=self.task.seed,
            size=self.task.size,
            fingerprint=self.fingerprint,
            codec=str(self.codec),
            checkpoint_every=self.checkpoint_every,
            resume=resume,
        )


class EdgeSession:
    """Runs the edge's part on one edge, collecting into an `EdgePart`."""

    def __init__(
        self,
        address: str,
        request: EdgeRequest,
        part: EdgePart,
        on_progress: Callable[[int], None],
    ) -> None:
        self._address = address
        self._request = request
        self._part = part
        self._on_progress = on_progress
        self._executed_before = list(part.executed)
        self._first_step = part.resume_step
        self.newest = b""

    async def run(self, resume: bytes) -> None:
        """Follow the edge to its handoff or picture.

        ``resume``: the envelope to go on from, or nothing. Raises the edge's BatonError; what was
        collected until then stays in the part, and ``newest`` is the envelope to go on from. If
        this task is cancelled, the edge is told.
        """
        self.newest = resume
        message = self._request.message(resume)
        async with channel_to(self._address) as channel:
            stub = edge_pb2_grpc.EdgeStub(channel)
            self._part.sent += message.ByteSize()
            try:
                async for event in stub.Denoise(message, timeout=self._request.timeout):
                    self._part.received += event.ByteSize()
                    if event.HasField("accepted"):
                        check_protocol(event.accepted.protocol_version, self._address)
                    self._take(event)
            except InvalidRequest as error:  # not of the request: of the answer
                raise ExecutionFailed(f"{self._address} answered nonsense: {error}") from error
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, self._address) from error
            finally:
                if not self._part.done:
                    await self._cancel(stub)
        if not self._part.done:
            raise ExecutionFailed(f"the edge at {self._address} ended without a result")

    def _take(self, event: edge_pb2.DenoiseEvent) -> None:
        kind = event.WhichOneof("event")
        plan = self._request.task.plan
        if kind == "progress":
            if not self._first_step < event.progress.step <= plan.steps:
                raise InvalidRequest(f"step {event.progress.step} of {plan.steps}")
            self._on_progress(event.progress.step)
        elif kind == "checkpoint":
            self._keep(event.checkpoint.envelope, event.checkpoint)
        elif kind == "handoff":
            self._keep(event.handoff.envelope, event.handoff)
            self._part.handed_over = True
            self._part.handoff_bytes = len(event.handoff.envelope)
            self._on_progress(self._part.resume_step)
        elif kind == "image":
            picture, executed = self._picture(event.image), self._ran(event.image, plan.steps)
            self._part.picture, self._part.executed = picture, executed
            self._on_progress(plan.steps)

    def _keep(self, envelope: bytes, message: edge_pb2.Checkpoint | edge_pb2.Handoff) -> None:
        decoded = decode_state(envelope, self._request.fingerprint)
        state, plan = decoded.state, self._request.task.plan
        if decoded.request_id != self._request.request_id:
            raise CorruptEnvelope("the edge sent another request's latent")
        if (state.sampler, state.steps, state.x.shape) != (
            plan.sampler,
            plan.steps,
            self._request.shape,
        ):
            raise CorruptEnvelope("the edge sent a latent of another plan")
        end = plan.stretch_end(self._first_step)
        if state.step > end or (state.step == end) != isinstance(message, edge_pb2.Handoff):
            raise CorruptEnvelope(f"the edge sent the latent of step {state.step}, not of {end}")
        executed = self._ran(message, state.step)
        self._part.state, self._part.executed = state, executed
        self.newest = envelope

    def _ran(
        self, message: edge_pb2.Checkpoint | edge_pb2.Handoff | edge_pb2.Image, stop: int
    ) -> list[ExecutedStep]:
        """All steps until ``stop``; the edge must have run those since it began."""
        here = executed_from_proto(message.executed)
        if [step.step for step in here] != list(range(self._first_step, stop)):
            raise CorruptEnvelope("the edge's steps are not those of its latent")
        return [*self._executed_before, *here]

    def _picture(self, image: edge_pb2.Image) -> npt.NDArray[np.uint8]:
        size = self._request.task.size
        if (image.width, image.height, len(image.rgb)) != (size, size, 3 * size * size):
            raise CorruptEnvelope("the edge's picture is incomplete or of another size")
        return np.frombuffer(image.rgb, np.uint8).reshape(size, size, 3)

    async def _cancel(self, stub: edge_pb2_grpc.EdgeStub) -> None:
        """Free the place at the edge; it may be gone, which is as good."""
        with suppress(grpc.aio.AioRpcError):
            request = edge_pb2.CancelRequest(request_id=self._request.request_id)
            await stub.Cancel(request, timeout=_CANCEL_TIMEOUT)
