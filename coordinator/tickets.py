"""Issues the tickets that admit a decision's request to its ranked edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from baton.common.plan import MAX_STEPS
from baton.common.rpc.tickets import MAX_SIZE, Signer, Ticket
from baton.coordinator.values import DecideQuery, DecisionRecord

#: Seconds for which a offline ticket is good: as long as a coordinator may well be away.
STANDBY_SECONDS = 3600.0


@dataclass(frozen=True)
class _Scope:
    """What a ticket is for, and for how many seconds it is good."""

    id: str
    request_id: str
    steps: int
    size: int
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
        scope = _Scope(
            record.decision_id, query.request_id, query.steps, query.size or MAX_SIZE, self.seconds
        )
        return self._issue(query, record, scope)

    def offline(self, query: DecideQuery, record: DecisionRecord) -> str:
        """For one later request of any id on the same edges, while no coordinator answers."""
        name = f"{record.decision_id}-offline"
        return self._issue(query, record, _Scope(name, "", MAX_STEPS, MAX_SIZE, STANDBY_SECONDS))

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
            max_steps=scope.steps,
            max_size=scope.size,
            count=1,
            not_before=int(now),
            expires=int(now + scope.seconds),
        )
        return self.signer.sign(ticket)
