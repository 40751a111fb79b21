"""Channels that are kept: one to each address, until it fails."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio

from baton.common.errors import Unreachable
from baton.common.rpc.access import OPEN, Access
from baton.common.rpc.channel import MAX_MESSAGE_BYTES, Keepalive, open_channel

_NEWEST = 8  # exchanges, of which the shortest tells the round trip
_HANDSHAKE_TRIPS = 2  # before a new connection is of use: TCP's, then the greeting of HTTP/2
_ENDED = {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}


@dataclass(eq=False)
class Line:
    """A channel to an address, and how many use it. kept: whether another call may take it."""

    channel: grpc.aio.Channel
    most_bytes: int
    trips: deque[float] = field(repr=False)
    users: int = 0
    kept: bool = True

    @property
    def stands(self) -> bool:
        """Whether a call needs no handshake before it."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    async def connect(self) -> None:
        """Until the connection stands, or cannot be made, of which the next call tells."""
        begun, state = time.monotonic(), self.channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return
        while state is not grpc.ChannelConnectivity.READY:
            if state in _ENDED:
                return
            await self.channel.wait_for_state_change(state)
            state = self.channel.get_state(try_to_connect=True)
        self.took((time.monotonic() - begun) / _HANDSHAKE_TRIPS)

    def took(self, seconds: float) -> None:
        """A short exchange took so long."""
        self.trips.append(seconds)

    @property
    def round_trip(self) -> float:
        """Seconds, as far as they are known from what was exchanged; 0 before anything was."""
        return min(self.trips, default=0.0)


class Channels:
    """Every channel that one client keeps, for calls on one event loop.

    A call that finds its peer unreachable leaves the channel behind, so that the next one connects
    anew instead of waiting for gRPC to try again.
    """

    def __init__(self, keepalive: Keepalive | None = None) -> None:
        self._keepalive = keepalive
        self._lines: dict[str, Line] = {}
        self._trips: dict[str, deque[float]] = {}

    @asynccontextmanager
    async def to(
        self, address: str, access: Access = OPEN, most_bytes: int = MAX_MESSAGE_BYTES
    ) -> AsyncIterator[Line]:
        """The channel to ``host:port``, for a block of code that may take answers so large.

        Raises as `open_channel` does.
        """
        line = self._lines.get(address)
        if line is None or line.most_bytes < most_bytes:
            line = await self._replaced(address, access, most_bytes)
        line.users += 1
        try:
            yield line
        except Unreachable:
            await self._leave(address, line)
            raise
        finally:
            line.users -= 1
            await _close_unused(line)

    async def close(self) -> None:
        """Every one of them; calls on them end."""
        while self._lines:
            _, line = self._lines.popitem()
            await line.channel.close()

    async def _replaced(self, address: str, access: Access, most_bytes: int) -> Line:
        """A new one, in place of what there is. Limits are powers of two, so that few replace."""
        limit = min(1 << (most_bytes - 1).bit_length(), MAX_MESSAGE_BYTES)
        trips = self._trips.setdefault(address, deque(maxlen=_NEWEST))
        line = Line(open_channel(address, access, self._keepalive, limit), limit, trips)
        if (before := self._lines.get(address)) is not None:
            await self._leave(address, before)
        self._lines[address] = line
        return line

    async def _leave(self, address: str, line: Line) -> None:
        line.kept = False
        if self._lines.get(address) is line:
            del self._lines[address]
        await _close_unused(line)


async def _close_unused(line: Line) -> None:
    if not (line.kept or line.users):
        await line.channel.close()
