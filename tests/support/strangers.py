"""What may listen at an address instead of a node: web servers, programs that never answer."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

_FRAME_HEADER = 9
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS = 1, 4
_ACK, _END_STREAM_AND_HEADERS = 0x1, 0x5
#: In HPACK's static table.
STATUSES = {200: b"\x88", 400: b"\x8c", 404: b"\x8d", 500: b"\x8e"}

_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: _Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve on a free port of the loopback interface; yields ``host:port``."""
    ends: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for end in ends:
            end.transport.abort()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything and says nothing, as a process that was stopped."""
    while await reader.read(1 << 16):
        pass


async def hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def saying(text: bytes) -> _Handler:
    """Answers whatever comes with these bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(text)
        await silent(reader, writer)

    return handle


def web_server(status: int) -> _Handler:
    """Speaks HTTP/2, and has this status for every request."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_frame(_SETTINGS, 0, 0))
        await reader.readexactly(len(_PREFACE))
        while True:
            header = await reader.readexactly(_FRAME_HEADER)
            await reader.readexactly(int.from_bytes(header[:3], "big"))
            kind, flags, stream = header[3], header[4], int.from_bytes(header[5:], "big")
            if kind == _SETTINGS and not flags & _ACK:
                writer.write(_frame(_SETTINGS, _ACK, 0))
            elif kind == _HEADERS:
                writer.write(_frame(_HEADERS, _END_STREAM_AND_HEADERS, stream, STATUSES[status]))

    return handle


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    length = len(payload).to_bytes(3, "big")
    return length + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
