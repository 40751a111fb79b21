"""Edges that follow a script, and a good handoff with its falsifications."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import grpc.aio
import msgpack
import numpy as np

from baton.common.build import this_build
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, LatentState, encode_state
from baton.common.rpc import PROTOCOL_VERSION
from baton.v1 import edge_pb2, edge_pb2_grpc, plan_pb2
from tests.support.envelopes import fields_of, seal
from tests.support.families import SIZE
from tests.support.tasks import PROMPTS, plan, run_alone, task

PROMPT = PROMPTS[2]
STEPS, CUT = 4, 2


class Scripted(edge_pb2_grpc.EdgeServicer):
    """Answers every Denoise with what ``script`` makes of it, then does what ``end`` does."""

    def __init__(
        self,
        script: Callable[[edge_pb2.DenoiseRequest], Sequence[edge_pb2.DenoiseEvent]],
        end: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._script = script
        self._end = end
        self.asked: list[edge_pb2.DenoiseRequest] = []
        self.cancelled = 0

    async def Denoise(
        self, request: edge_pb2.DenoiseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[edge_pb2.DenoiseEvent, None]:
        self.asked.append(request)
        for event in self._script(request):
            yield event
        if self._end is not None:
            await self._end()

    async def Cancel(
        self, request: edge_pb2.CancelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> edge_pb2.CancelResponse:
        self.cancelled += 1
        return edge_pb2.CancelResponse()


#: What a good edge says of itself.
TRUTH: dict[str, Any] = {
    "protocol_version": PROTOCOL_VERSION,
    "node_id": "liar",
    "build": edge_pb2.Build(**asdict(this_build())),
    "members": {"large": "a" * 32},
}
#: What it says of its steps, each alone in its batch.
RAN: dict[str, Any] = {
    "member": "large",
    "location": plan_pb2.LOCATION_EDGE,
    "node_id": "liar",
    "branches": plan_pb2.BRANCHES_BOTH,
    "rows": 2,
    "threads": 1,
    "runtime": plan_pb2.Runtime(device="cpu", dtype="float32", attention="sdpa"),
}


def accepted(**told: Any) -> edge_pb2.DenoiseEvent:
    return edge_pb2.DenoiseEvent(accepted=edge_pb2.Accepted(**(TRUTH | told)))


def built(**told: str) -> edge_pb2.DenoiseEvent:
    return accepted(build=edge_pb2.Build(**(asdict(this_build()) | told)))


def progress(step: int) -> edge_pb2.DenoiseEvent:
    return edge_pb2.DenoiseEvent(progress=edge_pb2.Progress(step=step, steps=STEPS))


def stretch(start: int = 0, stop: int = CUT, **fields: Any) -> plan_pb2.ExecutedStretch:
    return plan_pb2.ExecutedStretch(start=start, stop=stop, **(RAN | fields))


def checkpoint(
    envelope: bytes, executed: Sequence[plan_pb2.ExecutedStretch]
) -> edge_pb2.DenoiseEvent:
    told = edge_pb2.Checkpoint(envelope=envelope, executed=executed)
    return edge_pb2.DenoiseEvent(checkpoint=told)


def handoff(
    envelope: bytes,
    executed: Sequence[plan_pb2.ExecutedStretch] = (),
    times: edge_pb2.EdgeTimes | None = None,
) -> edge_pb2.DenoiseEvent:
    told = edge_pb2.Handoff(envelope=envelope, executed=executed or [stretch()], times=times)
    return edge_pb2.DenoiseEvent(handoff=told)


def image(width: int = SIZE, height: int = SIZE, size: int | None = None) -> edge_pb2.DenoiseEvent:
    rgb = b"\x80" * (3 * width * height if size is None else size)
    told = edge_pb2.Image(rgb=rgb, width=width, height=height, executed=[stretch(stop=STEPS)])
    return edge_pb2.DenoiseEvent(image=told)


def with_nan(envelope: bytes) -> bytes:
    fields = fields_of(envelope)
    payload = np.frombuffer(fields["payload"], "<f4").copy()
    payload[0] = np.nan
    return seal(msgpack.packb(fields | {"payload": payload.tobytes()}))


class Liar:
    """A good handoff of the request, and its falsifications."""

    def __init__(self, family: LoadedFamily) -> None:
        self._family = family
        self._states: dict[int, LatentState] = {}

    def state(self, step: int = CUT) -> LatentState:
        if step not in self._states:
            of = task(plan("edge/large", STEPS), PROMPT)
            self._states[step] = run_alone(self._family, of, step).state()
        return self._states[step]

    def envelope(
        self,
        request: edge_pb2.DenoiseRequest,
        state: LatentState | None = None,
        request_id: str = "",
        fingerprint: str = "",
    ) -> bytes:
        return encode_state(
            state or self.state(),
            request_id or request.request_id,
            fingerprint or self._family.fingerprint,
            Codec.FP32,
        )
