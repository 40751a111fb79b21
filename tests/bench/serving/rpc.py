"""The product as its users have it: ``baton-edge serve`` in a process of its own, through gRPC.

Its registry refuses what finds no room, which counts as a miss.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from baton.common.families.spec import FamilySpec, read_spec
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import channel_to
from baton.common.rpc.convert import executed_from_proto, plan_to_proto
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.bench.serving.direct import answer_of
from tests.bench.serving.plans import task_of
from tests.bench.serving.systems import Answer, pixel_steps
from tests.bench.serving.trace import Request
from tests.support.commands import clean_environment

_LISTENING = "baton-edge listening on "


class Served:
    """settings: of the edge, as its environment has them; else as shipped."""

    def __init__(self, family: str, member: str, budget: str = "", **settings: Any) -> None:
        self._spec: FamilySpec = read_spec(family)
        self._member, self._budget = member, budget
        self._folder = tempfile.TemporaryDirectory()
        own = {"family": family, "members": member, "threads": 1, **settings}
        self._edge = _started(own, Path(self._folder.name))
        self._open: dict[int, Future[Answer]] = {}
        self._rows = self._steps = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._channel = AsyncExitStack()
        try:
            self._stub = self._run(self._connect()).result()
        except BaseException:
            self._edge.kill()
            raise

    def submit(self, request: Request) -> Future[Answer]:
        found = self._run(self._draw(request))
        self._open[request.index] = found
        found.add_done_callback(lambda _: self._open.pop(request.index, None))
        return found

    def gauges(self) -> Mapping[str, float]:
        return {"waiting": len(self._open), "rows": self._rows, "pixel_steps": self._steps}

    def calls(self) -> Mapping[str, Any]:
        return {}

    def clear(self) -> None:
        for index in list(self._open):
            self._run(self._cancel(index))

    def close(self) -> None:
        self._run(self._channel.aclose()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._edge.terminate()
        self._edge.wait()
        self._folder.cleanup()

    async def _connect(self) -> Any:
        assert self._edge.stdout is not None
        while not (line := self._edge.stdout.readline()).startswith(_LISTENING):
            if not line:
                raise RuntimeError("baton-edge does not start")
        address = line.removeprefix(_LISTENING).split()[0]
        return EdgeStub(await self._channel.enter_async_context(channel_to(address)))

    async def _draw(self, request: Request) -> Answer:
        task = task_of(self._spec, self._member, request, budget=self._budget)
        asked = edge_pb2.DenoiseRequest(
            protocol_version=PROTOCOL_VERSION,
            request_id=str(request.index),
            prompt=request.prompt,
            plan=plan_to_proto(task.plan),
            seed=request.seed,
            width=request.side,
            height=request.side,
            codec="fp16",
        )
        async for event in self._stub.Denoise(asked):
            if event.HasField("image"):
                shape = event.image.height, event.image.width, 3
                picture = np.frombuffer(event.image.rgb, np.uint8).reshape(shape)
                answer = answer_of(picture, executed_from_proto(event.image.executed))
                self._rows += answer.rows
                self._steps += pixel_steps(request, request.steps)
                return answer
        raise RuntimeError("the edge drew no picture")

    async def _cancel(self, index: int) -> None:
        asked = edge_pb2.CancelRequest(protocol_version=PROTOCOL_VERSION, request_id=str(index))
        try:
            await self._stub.Cancel(asked)
        except grpc.aio.AioRpcError:  # it has ended meanwhile
            return

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _started(settings: Mapping[str, Any], folder: Path) -> subprocess.Popen[str]:
    told = {f"BATON_EDGE_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "baton.edge_server.cli", "serve", "--port", "0"],
        env=clean_environment(folder, **told),
        stdout=subprocess.PIPE,
        text=True,
    )
