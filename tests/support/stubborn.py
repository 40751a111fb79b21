"""A raw HTTP/2 client that acknowledges whatever it must and reads nothing: its window is zero."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

from google.protobuf.message import Message

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE = 4


@dataclass(frozen=True)
class Call:
    """One call on a connection of its own. ``ended``: the server has closed it."""

    ended: asyncio.Task[None]


@contextlib.asynccontextmanager
async def unread(address: str, method: str, request: Message) -> AsyncIterator[Call]:
    """Call ``/SERVICE/METHOD``; the block begins once the server's answer waits to be let in.

    Its headers, which go along with its first message, need no window.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_PREFACE + _frame(_SETTINGS, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0)))
    body = request.SerializeToString()
    writer.write(_frame(_HEADERS, _END_HEADERS, _headers(method, address), stream=1))
    message = b"\0" + struct.pack(">I", len(body)) + body
    writer.write(_frame(_DATA, _END_STREAM, message, stream=1))
    answered = asyncio.Event()
    ended = asyncio.create_task(_acknowledge(reader, writer, answered))
    try:
        async with asyncio.timeout(60):
            await answered.wait()
        yield Call(ended)
    finally:
        writer.transport.abort()
        await ended


async def _acknowledge(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: asyncio.Event
) -> None:
    """Until the connection ends."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readexactly(9)
            kind, flags = head[3], head[4]
            content = await reader.readexactly(int.from_bytes(head[:3]))
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                writer.write(_frame(kind, _ACK, content if kind == _PING else b""))
            elif kind == _HEADERS:
                answered.set()


def _frame(kind: int, flags: int, content: bytes, stream: int = 0) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def _headers(method: str, address: str) -> bytes:
    """HPACK (RFC 7541, 6.2.2): each field literal, without indexing."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)


def _text(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text
