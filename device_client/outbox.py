"""What follows a picture: reports, sent one after the other while nobody waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

_log = logging.getLogger(__name__)

Sending = Callable[[], Coroutine[Any, Any, None]]


class Outbox:
    """Sends in the order of `post`, on the event loop on which it is used.

    What is posted bounds its own time and raises nothing.
    """

    def __init__(self) -> None:
        self._waiting: deque[Sending] = deque()
        self._sender: asyncio.Task[None] | None = None

    def post(self, sending: Sending) -> None:
        self._waiting.append(sending)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def flush(self, seconds: float) -> None:
        """Wait for what was posted, so long at most; the rest is let go, with a warning."""
        if self._sender is None:
            return
        _, pending = await asyncio.wait([self._sender], timeout=seconds)
        if pending:
            lost = 1 + len(self._waiting)
            self._waiting.clear()
            self._sender.cancel()
            _log.warning("the coordinator was not told of %d requests in time", lost)

    async def _send(self) -> None:
        while self._waiting:
            await self._waiting.popleft()()
