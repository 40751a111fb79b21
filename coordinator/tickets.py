"""Issues the tickets that admit a decision's request to its ranked edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from baton.common.arm import Arm
from baton.common.explanation import DecisionRecord
from baton.common.limits import MAX_STEPS
from baton.common.query import DecideQuery
from baton.common.rpc.tickets import MAX_TICKET_SIDE, Signer, Ticket
from baton.common.size import Size

#: Seconds for which an offline ticket is good: as long as a coordinator may well be away.
OFFLINE_SECONDS = 3600.0
_ANY_SIZE = Size(MAX_TICKET_SIDE, MAX_TICKET_SIDE)


@dataclass(frozen=True)
class _Scope:
    """What a ticket is for, and for how many seconds it is good."""

    id: str
    request_id: str
    arm: Arm | None
    steps: int
    size: Size
    seconds: float


@dataclass(frozen=True)
class Issuer:
    """Signs. seconds: for which a ticket is good; clock: unix time."""

    signer: Signer
    seconds: float
    clock: Callable[[], float]

    @property
    def keys(self) -> list[bytes]:
        """Public keys that edges need."""
        return [self.signer.public]

    def ticket(self, query: DecideQuery, record: DecisionRecord) -> str:
        """For this request alone, no larger than was said; empty if no edge takes part.

        Asked for again, it is the same leave, which is not to be used twice.
        """
        steps = record.arm.steps or query.steps
        size = query.size or _ANY_SIZE
        name = record.decision_id
        scope = _Scope(name, query.request_id, record.arm, steps, size, self.seconds)
        return self._issue(query, record, scope)

    def offline(self, query: DecideQuery, record: DecisionRecord) -> str:
        """For one later request of any id on the same edges, while no coordinator answers."""
        name = f"{record.decision_id}-offline"
        scope = _Scope(name, "", None, MAX_STEPS, _ANY_SIZE, OFFLINE_SECONDS)
        return self._issue(query, record, scope)

    def _issue(self, query: DecideQuery, record: DecisionRecord, scope: _Scope) -> str:
        if not record.edges:
            return ""
        now = self.clock()
        ticket = Ticket(
            id=scope.id,
            audience=tuple(edge.node_id for edge in record.edges),
            subject=query.owner,
            request_id=scope.request_id,
            family=query.family,
            fingerprint=query.fingerprint,
            arm=scope.arm,
            max_steps=scope.steps,
            max_width=scope.size.width,
            max_height=scope.size.height,
            count=1,
            not_before=int(now),
            expires=int(now + scope.seconds),
        )
        return self.signer.sign(ticket)
