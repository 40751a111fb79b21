"""A way to a node that counts what gRPC exchanges over it, as long and as narrow as a real one.

It reads HTTP/2's frames: pings, windows and settings are nobody's calls, and do not count.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

_PREFACE_BYTES = 24
_FRAME_HEADER = 9
_DATA, _HEADERS = 0, 1


class Lane:
    """One direction of a way, which all of its connections share.

    delay: seconds until what has left arrives; rate: bytes that leave in a second, one after the
    other, None for all at once.
    """

    def __init__(self, delay: float, rate: float | None = None) -> None:
        self._delay = delay
        self._rate = rate
        self._free = 0.0

    def due(self, now: float, size: int) -> float:
        """When so many bytes arrive that are sent now, behind those that were sent before."""
        leaving = size / self._rate if self._rate else 0.0
        self._free = max(self._free, now) + leaving
        return self._free + self._delay


class Meter:
    """Carries every connection to ``target``, set before the first one.

    delay: seconds one way; rate: bytes per second each way, None without limit. connections: made;
    trips: from requests to their answers, of all calls that were answered.
    """

    def __init__(self, delay: float = 0.0, rate: float | None = None) -> None:
        self._delay = delay
        self._there, self._back = Lane(delay, rate), Lane(delay, rate)
        self.target = ""
        self.address = ""
        self.connections = 0
        self.trips = 0
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Meter:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()
        if self._carrying:
            await asyncio.wait(self._carrying)

    def drop(self) -> None:
        """Break the connections there are; new ones are carried."""
        for end in self._ends:
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)
        self.connections += 1
        self._ends.add(writer)
        host, _, port = self.target.rpartition(":")
        asked: set[int] = set()

        def answered(call: int) -> None:
            self._answered(call, asked)

        with contextlib.suppress(ConnectionError):
            await asyncio.sleep(2 * self._delay)  # as long as TCP's own handshake takes
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            self._ends.add(far_writer)
            await asyncio.gather(
                _pump(reader, far_writer, self._there, _Frames(_PREFACE_BYTES, asked.add)),
                _pump(far_reader, writer, self._back, _Frames(0, answered)),
            )
        writer.transport.abort()

    def _answered(self, call: int, asked: set[int]) -> None:
        if call in asked:
            asked.discard(call)
            self.trips += 1


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: Lane, frames: _Frames
) -> None:
    """Forward until either side ends, each piece when its lane has carried it."""
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - loop.time())
            writer.write(data)
            await writer.drain()

    delivering = asyncio.ensure_future(deliver())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            frames.see(data)
            on_the_way.put_nowait((lane.due(loop.time(), len(data)), data))
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)
    writer.transport.abort()


class _Frames:
    """Tells the stream of each frame of a call in the bytes of one direction."""

    def __init__(self, skip: int, on_call: Callable[[int], None]) -> None:
        self._skip = skip
        self._on_call = on_call
        self._seen = bytearray()

    def see(self, data: bytes) -> None:
        self._seen += data
        for kind, stream in self._whole():
            if kind in (_DATA, _HEADERS):
                self._on_call(stream)

    def _whole(self) -> Iterator[tuple[int, int]]:
        if len(self._seen) < self._skip:
            return
        del self._seen[: self._skip]
        self._skip = 0
        while len(self._seen) >= _FRAME_HEADER:
            size = _FRAME_HEADER + int.from_bytes(self._seen[:3])
            if len(self._seen) < size:
                return
            kind, stream = self._seen[3], int.from_bytes(self._seen[5:9])
            del self._seen[:size]
            yield kind, stream
