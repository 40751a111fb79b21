"""Tickets kept for a time without a coordinator: each admits one request, so each is used once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from baton.common.decision import Decision
from baton.common.errors import PermissionDenied
from baton.common.files import replacing
from baton.common.rpc.tickets import MAX_TICKET_CHARS, Ticket, peek

_log = logging.getLogger(__name__)

#: Newest tickets that are kept.
MAX_KEPT = 4
_FILE = "offline-tickets.json"


class OfflineTicket(BaseModel):
    """A ticket and the addresses of its edges, best first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticket: str
    addresses: tuple[str, ...]


_LIST = TypeAdapter(list[OfflineTicket])


class OfflineTickets:
    """In memory and, for the next process, in a file that only its owner reads.

    ``folder``: where the file lies; the memory alone serves without one that can be written.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._path = None if folder is None else folder / _FILE
        self._clock = clock
        self._kept = self._load()

    def keep(self, ticket: str, addresses: Sequence[str]) -> None:
        """Keep the newest ones; an empty ticket is none."""
        if ticket:
            self._kept = [*self._kept, OfflineTicket(ticket=ticket, addresses=tuple(addresses))]
            self._kept = self._kept[-MAX_KEPT:]
            self._save()

    def apply(
        self,
        decide: Callable[[Sequence[str]], Decision],
        edges: Sequence[str],
        family: str,
        fingerprint: str,
    ) -> Decision:
        """A decision without the coordinator, with a kept ticket if there is a fitting one.

        decide: gets the edges; they are the ticket's own if the device knows ``edges`` of none.
        fingerprint: of the latent space's files; a ticket without one fits any of its family. One
        that goes along is kept no longer.
        """
        found = next(
            (
                item
                for item in reversed(self._kept)
                if self._fits(item, edges) and _is_for(item.ticket, family, fingerprint)
            ),
            None,
        )
        decision = decide(edges or (found.addresses if found else ()))
        if found is None or not decision.edges:
            return decision
        self._kept.remove(found)
        self._save()
        return replace(decision, ticket=found.ticket)

    def _fits(self, item: OfflineTicket, edges: Sequence[str]) -> bool:
        ticket = _peeked(item.ticket)
        if ticket is None or ticket.expires <= self._clock():
            return False
        return not edges or not set(edges).isdisjoint(item.addresses)

    def _load(self) -> list[OfflineTicket]:
        if self._path is None:
            return []
        try:
            with self._path.open("rb") as file:
                text = file.read(2 * MAX_KEPT * MAX_TICKET_CHARS)
            return _LIST.validate_json(text)[-MAX_KEPT:]
        except FileNotFoundError:
            return []
        except (OSError, ValidationError):
            _log.warning("cannot read %s; going on without the tickets in it", self._path)
            return []

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path, mode=0o600) as file:
                file.write(json.dumps([item.model_dump() for item in self._kept]).encode())
        except OSError as error:
            _log.debug("cannot keep tickets in %s: %s", self._path, error.strerror)


def _is_for(text: str, family: str, fingerprint: str) -> bool:
    ticket = _peeked(text)
    return (
        ticket is not None and ticket.family == family and ticket.fingerprint in ("", fingerprint)
    )


def _peeked(ticket: str) -> Ticket | None:
    try:
        return peek(ticket)
    except PermissionDenied:
        return None
