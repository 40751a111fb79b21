"""What an edge has refused lately: time for it is kept free of those who have more already."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

from baton.edge_server.requests.entry import Entry

_SECONDS = 5.0
_MOST = 16


class _Wish(NamedTuple):
    """allowed: seconds that the request had; until: when it is forgotten, monotonic."""

    entry: Entry
    allowed: float
    until: float


class Wishes:
    """Requests that were refused, the newest few, each kept in mind for five seconds.

    Also if its caller meanwhile got another one in: whoever was refused often wants as much more.
    """

    def __init__(self) -> None:
        self._wishes: deque[_Wish] = deque(maxlen=_MOST)

    def add(self, entry: Entry, allowed: float) -> None:
        """allowed: the seconds in which it was to end."""
        self._wishes.append(_Wish(entry, allowed, time.monotonic() + _SECONDS))

    def of_smaller(self, caller: str, held: Mapping[str, int]) -> list[Entry]:
        """Of those who with them would have no more here than ``caller``, as if they came now.

        held: requests here, by caller.
        """
        now = time.monotonic()
        while self._wishes and self._wishes[0].until < now:
            self._wishes.popleft()
        found: list[Entry] = []
        wished = Counter[str]()
        for entry, allowed, _ in self._wishes:
            other = entry.work.caller
            if other != caller and held[other] + wished[other] < held[caller]:
                wished[other] += 1
                entry.deadline = asyncio.get_running_loop().time() + allowed
                found.append(entry)
        return found
