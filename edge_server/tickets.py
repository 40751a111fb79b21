"""The edge's gate: which requests their tickets let in, each ticket for one picture.

A request may come in again at a later step, from a checkpoint, if the connection to it was lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from baton.common.errors import BatonError, Overloaded
from baton.common.expansion import Ratios, Terms, expand
from baton.common.families.spec import FamilySpec
from baton.common.plan import OpenPlan
from baton.common.request import Task
from baton.common.rpc.tickets import LEEWAY, Ask, KeyRing, Refusal, Ticket, check, refused
from baton.edge_server.engine.job import Work
from baton.v1 import edge_pb2

_log = logging.getLogger(__name__)

Policy = Literal["optional", "required"]

#: Used tickets that are remembered until they expire; past that nobody new is let in.
MAX_USED = 100_000
#: A request is let in for so many times the steps of its plan, all its resume points together.
ROUNDS = 2


@dataclass
class _Request:
    """A request that a ticket let in.

    picture: digest of what it draws; begun: steps granted, by the step from which they are.
    """

    picture: bytes
    begun: dict[int, int] = field(default_factory=dict)


@dataclass
class _Use:
    """What one ticket was used for, by request id, and until when that matters, unix seconds."""

    expires: int
    requests: dict[str, _Request] = field(default_factory=dict)


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
        self,
        entrance: Entrance,
        family: FamilySpec,
        clock: Callable[[], float] = time.time,
        ratios: Ratios | None = None,
    ) -> None:
        """ratios: levels of noise, as in `Terms`."""
        self._entrance = entrance
        self._family = family
        self._ratios = ratios
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
        # whoever tells its latent space is held against that, and names it as the ticket does
        told = request.fingerprint if request.latent_space.id else ""
        ask = Ask(
            node_id=self._entrance.node_id,
            subject=subject,
            request_id=request.request_id,
            family=self._family.name,
            fingerprint=told or self._family.fingerprint,
            steps=max((segment.stop for segment in request.plan.segments), default=0),
            width=request.width,
            height=request.height,
        )
        check(ticket, ask, self._clock())
        return ticket

    @contextlib.contextmanager
    def entering(self, ticket: Ticket | None, work: Work, held: bool) -> Iterator[None]:
        """The block admits the work; if it does, the ticket is used for it.

        ``held``: the edge has this very work, so that the caller merely comes back to it. Raises
        PermissionDenied for a ticket that was used up, or for another picture, Overloaded if no
        more can be remembered.
        """
        if ticket is None:
            yield
            return
        self._check_arm(ticket, work.task.plan)
        picture = _digest(work.task)
        self._claim(ticket, work, picture, held)
        yield
        self._spend(ticket, work, picture, held)

    def _check_arm(self, ticket: Ticket, plan: OpenPlan) -> None:
        """The coordinator sees no plan: what the decided arm means in as many steps is the plan's.

        Raises PermissionDenied if it is not.
        """
        if ticket.arm is None:
            return
        sampler, ratios = plan.segments[0].grid.sampler, self._ratios
        terms = Terms(plan.family, sampler, plan.steps, plan.segments[0].guidance, ratios=ratios)
        try:
            decided = expand(ticket.arm, terms)
        except BatonError as error:
            raise refused(Refusal.OTHER_ARM) from error
        if _places(decided) != _places(plan):
            raise refused(Refusal.OTHER_ARM)

    def _claim(self, ticket: Ticket, work: Work, picture: bytes, held: bool) -> None:
        self._forget_expired()
        use = self._used.get(ticket.id)
        if use is None:
            if len(self._used) >= self._entrance.capacity:
                raise Overloaded("this edge remembers as many tickets as it can; try another", 60.0)
            return
        known = use.requests.get(work.request_id)
        if known is None:
            if len(use.requests) >= ticket.count:
                raise refused(Refusal.REPLAYED)
        elif known.picture != picture:
            raise refused(Refusal.OTHER_PICTURE)
        elif not held:
            _check_steps(known, work)

    def _spend(self, ticket: Ticket, work: Work, picture: bytes, held: bool) -> None:
        use = self._used.setdefault(ticket.id, _Use(0))
        if use.expires < ticket.expires:
            use.expires = ticket.expires
            heapq.heappush(self._expiries, (ticket.expires, ticket.id))
        known = use.requests.setdefault(work.request_id, _Request(picture))
        known.begun.setdefault(work.first_step, 0 if held else work.stop - work.first_step)

    def _forget_expired(self) -> None:
        oldest = self._clock() - LEEWAY
        while self._expiries and self._expiries[0][0] <= oldest:
            expires, ticket_id = heapq.heappop(self._expiries)
            if self._used[ticket_id].expires <= expires:
                del self._used[ticket_id]


def _places(plan: OpenPlan) -> list[tuple[str, str, int, int, float | None]]:
    return [(s.location, s.member, s.start, s.stop, s.grid.until) for s in plan.segments]


def _check_steps(known: _Request, work: Work) -> None:
    """Raises PermissionDenied if the request was let in there, or often enough."""
    if work.first_step in known.begun:
        raise refused(Refusal.REPLAYED)
    steps = sum(known.begun.values()) + work.stop - work.first_step
    if steps > ROUNDS * work.task.plan.steps:
        raise refused(Refusal.STEPS_SPENT)


def _digest(task: Task) -> bytes:
    """Of the picture that a task draws; the prompt itself is not remembered."""
    drawn = (task.prompt, task.negative_prompt, task.seed, task.size, task.plan)
    return hashlib.blake2b(repr(drawn).encode(), digest_size=16).digest()
