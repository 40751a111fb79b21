"""Draws plans over a real gRPC loopback: an edge node and a device in one process.

Every plan is drawn alone, at batch 1, also those that no arm says.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc.aio
import numpy as np
import numpy.typing as npt

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here, warm_up
from baton.common.latents import Codec, LatentState, decode_state, encode_state
from baton.common.request import Task
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.convert import plan_to_proto
from baton.edge_server.daemon import running
from baton.edge_server.settings import EdgeSettings
from baton.v1 import edge_pb2, edge_pb2_grpc

_TIMEOUT = 300.0
_CHECKPOINT_EVERY = 5  # steps, as in the device's settings


@dataclass(frozen=True)
class Timing:
    """One picture. edge: seconds at the edge as the device sees them; bytes: both ways."""

    total: float
    edge: float
    device: float
    sent: int
    received: int


@dataclass
class _Progress:
    """One picture on its way: the newest latent, then the picture; seconds and bytes so far."""

    state: LatentState | None = None
    picture: npt.NDArray[np.uint8] | None = None
    edge: float = 0.0
    device: float = 0.0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Loopback:
    """A device with an edge at the far end of a stub; its model runs on a thread of its own.

    It speaks the wire's protocol directly, so that it is the plan alone that is timed.
    """

    family: LoadedFamily
    edge: edge_pb2_grpc.EdgeStub
    model_thread: ThreadPoolExecutor

    async def draw(self, task: Task, request_id: str) -> Timing:
        """Draw a task as its plan says; the latent travels in fp16, the default."""
        loop, plan, so_far = asyncio.get_running_loop(), task.plan, _Progress()
        begun = time.perf_counter()
        while so_far.picture is None:
            stretch = time.perf_counter()
            if plan.segment_at(so_far.state.step if so_far.state else 0).location == "edge":
                await self._edge_part(task, request_id, so_far)
                so_far.edge += time.perf_counter() - stretch
            else:
                await loop.run_in_executor(self.model_thread, self._device_part, task, so_far)
                so_far.device += time.perf_counter() - stretch
        total = time.perf_counter() - begun
        return Timing(total, so_far.edge, so_far.device, so_far.sent, so_far.received)

    async def _edge_part(self, task: Task, request_id: str, so_far: _Progress) -> None:
        resume = b""
        if so_far.state is not None:
            resume = encode_state(so_far.state, request_id, self.family.fingerprint, Codec.FP16)
        request = edge_pb2.DenoiseRequest(
            protocol_version=PROTOCOL_VERSION,
            request_id=request_id,
            prompt=task.prompt,
            plan=plan_to_proto(task.plan),
            seed=task.seed,
            width=task.size.width,
            height=task.size.height,
            fingerprint=self.family.fingerprint,
            codec=str(Codec.FP16),
            checkpoint_every=_CHECKPOINT_EVERY,
            resume=resume,
        )
        so_far.sent += request.ByteSize()
        async for event in self.edge.Denoise(request, timeout=_TIMEOUT):
            so_far.received += event.ByteSize()
            if event.HasField("handoff"):
                envelope = event.handoff.envelope
                so_far.state = decode_state(envelope, self.family.fingerprint).state
            elif event.HasField("image"):
                pixels = np.frombuffer(event.image.rgb, np.uint8)
                so_far.picture = pixels.reshape(task.size.height, task.size.width, 3)

    def _device_part(self, task: Task, so_far: _Progress) -> None:
        run = begin(self.family, task, so_far.state)
        run_here(self.family, run, task.plan.stretch_end(run.step))
        so_far.state = run.state()
        if run.step == task.plan.steps:
            so_far.picture = self.family.decode(run.x)


@contextlib.asynccontextmanager
async def loopback(family: LoadedFamily) -> AsyncIterator[Loopback]:
    """An edge on a free port of this process, and a device beside it; both warm."""
    warm_up(family)
    settings = EdgeSettings(port=0, node_id="edge-bench")
    with ThreadPoolExecutor(1, thread_name_prefix="baton-model") as thread:
        await asyncio.get_running_loop().run_in_executor(thread, warm_up, family)
        async with (
            running(settings, family) as node,
            grpc.aio.insecure_channel(node.address) as channel,
        ):
            yield Loopback(family, edge_pb2_grpc.EdgeStub(channel), thread)
