"""The edge's part of one picture, over the ranked edges."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from baton.common.decision import EdgeChoice
from baton.common.errors import BatonError, DeadlineExceeded, Draining
from baton.common.foreign import one_line
from baton.common.outcome import EdgeAttempt
from baton.device_client.budget import Budget
from baton.device_client.edge_request import EdgeRequest
from baton.device_client.edge_session import EdgeSession
from baton.device_client.events import EdgeLost, Event, HandedOver, Queued, Reattached, Stepped
from baton.device_client.so_far import SoFar


class EdgeRelay:
    """Tries the edges in order, each from where the last one got."""

    def __init__(self, request: EdgeRequest, so_far: SoFar, emit: Callable[[Event], None]) -> None:
        self._request = request
        self._so_far = so_far
        self._emit = emit

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
            self._emit(Queued(address, position))

        return EdgeSession(address, self._request, self._so_far, self, on_queued)

    async def _attempt(
        self, choice: EdgeChoice, session: EdgeSession, seconds: float
    ) -> BatonError | None:
        first, error = self._so_far.resume_step, None
        try:
            await session.run(self._so_far.newest, seconds)
        except BatonError as lost:
            error = lost
        self._record(choice, session, first, error)
        if error is not None:
            self._lose(choice.address, error)
        elif self._so_far.handed_over:
            self._emit(HandedOver(self._so_far.resume_step, self._so_far.handoff_bytes))
        return error

    def _record(
        self, choice: EdgeChoice, session: EdgeSession, first: int, error: BatonError | None
    ) -> None:
        drained, stop = isinstance(error, Draining), len(self._so_far.executed)
        attempt = EdgeAttempt(
            session.node_id or choice.node_id,
            choice.address,
            first,
            stop,
            "" if error is None or drained else error.status,
            "" if error is None else one_line(str(error)),
            drained,
        )
        self._so_far.attempts.append(attempt)

    def _lose(self, address: str, error: BatonError) -> None:
        step, reason = self._so_far.resume_step, str(error)
        how = "left" if isinstance(error, Draining) else "lost"
        self._so_far.notes.append(f"edge {address} {how} at step {step}: {reason}")
        self._emit(EdgeLost(address, reason, step))

    def on_step(self, done: int) -> None:
        plan = self._request.task.plan
        member = plan.segment_at(done - 1).member
        self._emit(Stepped(done, plan.steps, "edge", member))

    def on_notes(self, address: str, notes: Sequence[str]) -> None:
        for note in notes:
            if (line := f"edge {address}: {note}") not in self._so_far.notes:
                self._so_far.notes.append(line)

    def on_reattached(self, address: str, reason: str) -> None:
        step = self._so_far.resume_step
        self._so_far.notes.append(f"edge {address} reached again after step {step}: {reason}")
        self._emit(Reattached(address, reason, step))
