"""The answers that stand, so that a question asked twice is decided once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from baton.common.explanation import DecisionRecord
from baton.common.query import DecideQuery

Answering = asyncio.Task[DecisionRecord]


class Answers:
    """Gives the same question the same answer until that is forgotten, and knows who heard it."""

    def __init__(self, begin: Callable[[DecideQuery], Answering]) -> None:
        """begin: starts to answer a question."""
        self._begin = begin
        self._given: dict[DecideQuery, Answering] = {}
        self._unheard: set[DecideQuery] = set()

    async def to(self, query: DecideQuery) -> DecisionRecord:
        """The answer; who hangs up before it ends nothing."""
        task = self._given.get(query)
        if task is None:
            task = self._given[query] = self._begin(query)
        try:
            record = await asyncio.shield(task)
        except asyncio.CancelledError:
            if query in self._given:
                self._unheard.add(query)  # until it asks again
            raise
        self._unheard.discard(query)
        return record

    def is_unheard(self, query: DecideQuery | None) -> bool:
        """Whether its device had hung up before the answer, and has not asked again."""
        return query in self._unheard

    def forget(self, query: DecideQuery) -> None:
        self._given.pop(query, None)
        self._unheard.discard(query)
