"""The edge's part of one picture, over the ranked edges."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

from baton.common.decision import EdgeChoice
from baton.common.errors import BatonError, DeadlineExceeded, Incompatible, InvalidRequest
from baton.common.foreign import one_line
from baton.common.outcome import EdgeAttempt
from baton.device_client.budget import Budget
from baton.device_client.edge_session import EdgePart, EdgeRequest, EdgeSession
from baton.device_client.events import EdgeLost, Event, HandedOver, Queued, Reattached, Stepped


@dataclass(frozen=True)
class Telling:
    """Where progress goes: events, lines for people, and the edges that were tried."""

    emit: Callable[[Event], None]
    notes: list[str]
    attempts: list[EdgeAttempt]


def without_edge(lost: BatonError, part: EdgePart, text: str) -> BatonError:
    """What ends a request whose edges have not done their part; ``text``: its message.

    What an edge says of the request is not the caller's wrong input, and one that did not accept
    it has refused, whatever it says.
    """
    failed = part.begun and not isinstance(lost, InvalidRequest)
    if not (failed or lost.exit_code in (3, 4) or isinstance(lost, DeadlineExceeded)):
        return Incompatible(text)
    error = copy(lost)
    error.args = (text,)
    return error


class EdgeRelay:
    """Tries the edges in order, each from where the last one got."""

    def __init__(self, request: EdgeRequest, part: EdgePart, telling: Telling) -> None:
        self._request = request
        self._part = part
        self._telling = telling

    async def run(
        self, edges: Sequence[EdgeChoice], budget: Budget, reserve: float
    ) -> BatonError | None:
        """Why no edge has done the part, or None if one has or there is none.

        reserve: seconds of the budget that are not the edges'. Whatever an edge answers ends
        nothing but its own part. One that came back without its memory is tried once more.
        """
        waiting, again = deque(edges), set[EdgeChoice]()
        lost: BatonError | None = None
        while waiting:
            seconds = min(self._request.timeout, budget.left - reserve)
            if seconds <= 0:
                return lost or DeadlineExceeded("no time was left for an edge")
            choice = waiting.popleft()
            session = self._session(choice.address)
            lost = await self._attempt(choice, session, seconds)
            if lost is None:
                return None
            if session.forgotten and choice not in again:
                again.add(choice)
                waiting.appendleft(choice)
        return lost

    def _session(self, address: str) -> EdgeSession:
        def on_queued(position: int) -> None:
            self._telling.emit(Queued(address, position))

        return EdgeSession(address, self._request, self._part, self, on_queued)

    async def _attempt(
        self, choice: EdgeChoice, session: EdgeSession, seconds: float
    ) -> BatonError | None:
        first, error = self._part.resume_step, None
        try:
            await session.run(self._part.newest, seconds)
        except BatonError as lost:
            error = lost
        self._record(choice, session, first, error)
        if error is not None:
            self._lose(choice.address, error)
        elif self._part.handed_over:
            self._telling.emit(HandedOver(self._part.resume_step, self._part.handoff_bytes))
        return error

    def _record(
        self, choice: EdgeChoice, session: EdgeSession, first: int, error: BatonError | None
    ) -> None:
        status, reason = (error.status, one_line(str(error))) if error else ("", "")
        stop = len(self._part.executed)
        node_id = session.node_id or choice.node_id
        attempt = EdgeAttempt(node_id, choice.address, first, stop, status, reason)
        self._telling.attempts.append(attempt)

    def _lose(self, address: str, error: BatonError) -> None:
        step, reason = self._part.resume_step, str(error)
        self._telling.notes.append(f"edge {address} lost at step {step}: {reason}")
        self._telling.emit(EdgeLost(address, reason, step))

    def on_step(self, done: int) -> None:
        plan = self._request.task.plan
        member = plan.segment_at(done - 1).member
        self._telling.emit(Stepped(done, plan.steps, "edge", member))

    def on_notes(self, address: str, notes: Sequence[str]) -> None:
        for note in notes:
            if (line := f"edge {address}: {note}") not in self._telling.notes:
                self._telling.notes.append(line)

    def on_reattached(self, address: str, reason: str) -> None:
        step = self._part.resume_step
        self._telling.notes.append(f"edge {address} reached again after step {step}: {reason}")
        self._telling.emit(Reattached(address, reason, step))
