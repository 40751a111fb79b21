"""Issues the tickets that admit a decision's request to its ranked edges."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from common.plan import MAX_STEPS
from common.rpc.tickets import MAX_SIZE, Signer, Ticket
from coordinator.values import DecideQuery, DecisionRecord

#: Seconds for which a standby ticket is good: as long as a coordinator may well be away.
STANDBY_SECONDS = 3600.0


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
        """For this request alone, no larger than was said; empty if no edge takes part."""
        return self._issue(
            query, record, self.seconds, (query.request_id, query.steps, query.size or MAX_SIZE)
        )

    def standby(self, query: DecideQuery, record: DecisionRecord) -> str:
        """For one later request of any id on the same edges, while no coordinator answers."""
        return self._issue(query, record, STANDBY_SECONDS, ("", MAX_STEPS, MAX_SIZE))

    def _issue(
        self,
        query: DecideQuery,
        record: DecisionRecord,
        seconds: float,
        scope: tuple[str, int, int],
    ) -> str:
        if not record.edges:
            return ""
        request_id, steps, size = scope
        now = self.clock()
        ticket = Ticket(
            id=secrets.token_hex(16),
            audience=tuple(edge.node_id for edge in record.edges),
            subject=query.owner,
            request_id=request_id,
            family=query.family,
            fingerprint=query.fingerprint,
            max_steps=steps,
            max_size=size,
            count=1,
            not_before=int(now),
            expires=int(now + seconds),
        )
        return self.signer.sign(ticket)
