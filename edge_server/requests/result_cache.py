"""Finished requests, kept for a while under their ids, within bounds of count and bytes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from baton.edge_server.requests.entry import Entry, Key


@dataclass(frozen=True)
class Retention:
    """seconds: for which an entry is kept; entries and bytes: of all of them together."""

    seconds: float = 120.0
    entries: int = 256
    bytes: int = 64 << 20


class ResultCache:
    """Keeps entries that have ended, each for a time.

    The oldest leave first when a bound is passed; an entry larger than the bound at once.
    """

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def add(self, entry: Entry) -> None:
        key = entry.key
        self._entries[key] = entry
        self.bytes += entry.size
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(self._retention.seconds, self._forget, key)
        while len(self) > self._retention.entries or self.bytes > self._retention.bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: Key) -> None:
        self._timers.pop(key).cancel()
        self.bytes -= self._entries.pop(key).size
