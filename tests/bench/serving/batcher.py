"""A third party's dynamic batcher, LitServe, around diffusers' pipeline.

Its server and its worker are processes of their own. It collects requests as they come, up to
``gather`` of them within ``timeout`` seconds; what it has collected is drawn by (steps, size), as
many at a time as every system may.
"""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import socket
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any

import httpx2
import litserve
import numpy as np
import psutil

from tests.bench.serving.pipelines import MAX_BATCH, guided_answer
from tests.bench.serving.systems import Answer, CallLog, merged, pixel_steps
from tests.bench.serving.trace import Request

_START_SECONDS = 90.0
_REQUEST_SECONDS = 600.0
_FIELDS = Request.__slots__


class _Api(litserve.LitAPI):  # type: ignore[misc]
    """In the worker: requests as lists of their fields, to pictures."""

    def __init__(self, family: str, member: str, gather: int, timeout: float) -> None:
        super().__init__(max_batch_size=gather, batch_timeout=timeout)
        self._family, self._member, self._gather = family, member, gather

    def setup(self, device: str) -> None:
        from baton.common.families.loaded import load_family
        from tests.bench.serving.pipelines import Pipeline
        from tests.bench.timing import one_thread

        one_thread()
        self._pipeline = Pipeline(load_family(self._family, [self._member]), self._member)
        self._log = CallLog()

    def decode_request(self, request) -> Request:  # type: ignore[no-untyped-def]
        """LitServe would take an annotation, which is text here, for a parameter of the query."""
        return Request(*(request[name] for name in _FIELDS))

    def predict(self, requests: Request | Sequence[Request]) -> Any:
        """LitServe passes one request as it is where it may collect one alone."""
        if isinstance(requests, Request):
            return self._draw([requests])[0]
        return self._draw(requests)

    def _draw(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        order = sorted(range(len(requests)), key=lambda place: requests[place].shape)
        for shape, alike in groupby(order, key=lambda place: requests[place].shape):
            places = list(alike)
            for first in range(0, len(places), MAX_BATCH):
                some = places[first : first + MAX_BATCH]
                with self._log.timed((*shape, len(some))):
                    pictures = self._pipeline([requests[place] for place in some])
                for place, picture in zip(some, pictures, strict=True):
                    text = base64.b64encode(picture.tobytes()).decode()
                    found[place] = {"picture": text, "batch": len(some)}
        found[0]["calls"] = self._log.told()
        return [found[place] for place in range(len(requests))]

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def _serve(family: str, member: str, gather: int, timeout: float, port: int) -> None:
    api = _Api(family, member, gather, timeout)
    server = litserve.LitServer(api, accelerator="cpu", timeout=False, track_requests=False)
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
    )


class Batcher:
    """outstanding: requests that are sent and not answered; the others wait here.

    What LitServe has taken it draws, even for nobody.
    """

    def __init__(self, family: str, member: str, gather: int = 16, timeout: float = 0.05) -> None:
        self._port = _free_port()
        arguments = family, member, gather, timeout, self._port
        # no daemon: it has children of its own
        self._server = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments)
        self._server.start()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=4 * gather)
        self._client = httpx2.AsyncClient(timeout=_REQUEST_SECONDS, limits=limits, trust_env=False)
        self._free = asyncio.Semaphore(2 * gather)
        self._calls: list[Mapping[str, Sequence[float]]] = []
        self._waiting: dict[int, Future[Answer]] = {}
        self._rows = self._steps = 0
        self._wait_for_start()

    def submit(self, request: Request) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._waiting[request.index] = future
        self._run(self._draw(request, future))
        return future

    def gauges(self) -> Mapping[str, float]:
        counted = {"rows": self._rows, "pixel_steps": self._steps}
        return {"waiting": len(self._waiting), **counted}

    def calls(self) -> Mapping[str, Any]:
        told, self._calls = self._calls, []
        return merged(told)

    def clear(self) -> None:
        for future in list(self._waiting.values()):
            future.cancel()

    def close(self) -> None:
        self._run(self._client.aclose()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        root = psutil.Process(self._server.pid)
        for process in [*root.children(recursive=True), root]:
            process.kill()  # asked to end, LitServe leaves its worker behind
        self._server.join()

    async def _draw(self, request: Request, future: Future[Answer]) -> None:
        async with self._free:
            del self._waiting[request.index]
            if not future.set_running_or_notify_cancel():
                return
            try:
                answer = await self._post(request)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(answer)

    async def _post(self, request: Request) -> Answer:
        body = {name: getattr(request, name) for name in _FIELDS}
        response = await self._client.post(f"http://127.0.0.1:{self._port}/predict", json=body)
        response.raise_for_status()
        told = response.json()
        if "calls" in told:
            self._calls.append(told["calls"])
        picture = np.frombuffer(base64.b64decode(told["picture"]), np.uint8)
        answer = guided_answer(
            request, picture.reshape(request.side, request.side, 3), told["batch"]
        )
        self._rows += answer.rows
        self._steps += pixel_steps(request, request.steps)
        return answer

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait_for_start(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while not self._run(self._healthy()).result():
            if time.monotonic() > until or not self._server.is_alive():
                raise RuntimeError("LitServe does not start")
            time.sleep(0.1)

    async def _healthy(self) -> bool:
        try:
            answer = await self._client.get(f"http://127.0.0.1:{self._port}/health")
        except httpx2.TransportError:
            return False
        return bool(answer.status_code == 200)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
