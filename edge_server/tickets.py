"""The edge's gate: which requests their tickets let in, each ticket once."""

from __future__ import annotations

import contextlib
import heapq
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from baton.v1 import edge_pb2
from common.errors import Overloaded
from common.families.loader import Family
from common.rpc.tickets import LEEWAY, Ask, KeyRing, Refusal, Ticket, check, refused
from edge_server.engine.job import Work

_log = logging.getLogger(__name__)

Policy = Literal["optional", "required"]

#: Used tickets that are remembered until they expire; past that nobody new is let in.
MAX_USED = 100_000


@dataclass
class _Use:
    """What one ticket was used for: first steps by request id."""

    begun: dict[str, set[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Entrance:
    """What a gate guards. keys: public keys, 32 bytes each, that are trusted for good."""

    node_id: str
    policy: Policy
    keys: Sequence[bytes] = ()
    capacity: int = MAX_USED


class TicketGate:
    """Checks tickets and remembers what they were used for. Lives on the event loop."""

    def __init__(
        self, entrance: Entrance, family: Family, clock: Callable[[], float] = time.time
    ) -> None:
        self._entrance = entrance
        self._family = family
        self._clock = clock
        self._ring = KeyRing.of(entrance.keys)
        self._used: dict[str, _Use] = {}
        self._expiries: list[tuple[int, str]] = []

    def trust(self, keys: Sequence[bytes]) -> None:
        """The coordinator's keys from now on, beside those that are trusted for good."""
        try:
            self._ring = KeyRing.of([*self._entrance.keys, *keys])
        except ValueError:
            _log.warning("the coordinator named a ticket key that is none; its tickets are refused")

    def check(self, request: edge_pb2.DenoiseRequest, subject: str) -> Ticket | None:
        """The request's ticket, None if it may go without. Raises PermissionDenied.

        Looks at nothing but the ticket and a few numbers: neither prompt nor latent is touched.
        """
        if not request.ticket:
            if self._entrance.policy == "required":
                raise refused(Refusal.MISSING)
            return None
        ticket = self._ring.verify(request.ticket)
        ask = Ask(
            node_id=self._entrance.node_id,
            subject=subject,
            request_id=request.request_id,
            family=self._family.name,
            fingerprint=self._family.fingerprint,
            steps=request.plan.steps,
            size=request.size,
        )
        check(ticket, ask, self._clock())
        return ticket

    @contextlib.contextmanager
    def entering(self, ticket: Ticket | None, work: Work, held: bool) -> Iterator[None]:
        """The block admits the work; if it does, the ticket is used for it.

        ``held``: the edge has this very work, so that the caller merely comes back to it. Raises
        PermissionDenied for a ticket that was used up, Overloaded if no more can be remembered.
        """
        if ticket is not None:
            self._claim(ticket, work.request_id, work.first_step, held)
        yield
        if ticket is not None:
            self._spend(ticket, work.request_id, work.first_step)

    def _claim(self, ticket: Ticket, request_id: str, first_step: int, held: bool) -> None:
        self._forget_expired()
        use = self._used.get(ticket.id)
        if use is None:
            if len(self._used) >= self._entrance.capacity:
                raise Overloaded("this edge remembers as many tickets as it can; try another", 60.0)
            return
        if request_id in use.begun:
            spent = first_step in use.begun[request_id] and not held
        else:
            spent = len(use.begun) >= ticket.count
        if spent:
            raise refused(Refusal.REPLAYED)

    def _spend(self, ticket: Ticket, request_id: str, first_step: int) -> None:
        if ticket.id not in self._used:
            self._used[ticket.id] = _Use()
            heapq.heappush(self._expiries, (ticket.expires, ticket.id))
        self._used[ticket.id].begun.setdefault(request_id, set()).add(first_step)

    def _forget_expired(self) -> None:
        oldest = self._clock() - LEEWAY
        while self._expiries and self._expiries[0][0] <= oldest:
            del self._used[heapq.heappop(self._expiries)[1]]
