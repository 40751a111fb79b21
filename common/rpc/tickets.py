"""Tickets: short-lived Ed25519-signed leave to have one request drawn on certain edges.

A ticket is ``base64url(payload) "." base64url(signature)``, without padding. The payload is JSON in
one canonical form, and the signature covers it with a prefix of its own, so that nothing else which
the key may ever sign reads as a ticket. Whatever is not exactly what the issuer wrote is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from baton.common.arm import Arm
from baton.common.errors import PermissionDenied

MAX_TICKET_CHARS = 8_192
#: Largest side of a picture that a ticket admits where the asker named none, pixels.
MAX_TICKET_SIDE = 4_096
#: Seconds by which the clocks of coordinator and edge may differ.
LEEWAY = 10.0

_PREFIX = b"baton-ticket-2\0"
_VERSION = 2


class Refusal(StrEnum):
    """Why a ticket was refused, for programs; travels as the reason of PermissionDenied."""

    MISSING = "ticket_missing"
    MALFORMED = "ticket_malformed"
    UNKNOWN_KEY = "ticket_unknown_key"
    FORGED = "ticket_forged"
    NOT_YET_VALID = "ticket_not_yet_valid"
    EXPIRED = "ticket_expired"
    FOREIGN_AUDIENCE = "ticket_foreign_audience"
    FOREIGN_SUBJECT = "ticket_foreign_subject"
    FOREIGN_REQUEST = "ticket_foreign_request"
    WRONG_FAMILY = "ticket_wrong_family"
    WRONG_FINGERPRINT = "ticket_wrong_fingerprint"
    OTHER_ARM = "ticket_other_arm"
    TOO_MANY_STEPS = "ticket_too_many_steps"
    TOO_LARGE = "ticket_too_large"
    REPLAYED = "ticket_replayed"
    OTHER_PICTURE = "ticket_other_picture"
    STEPS_SPENT = "ticket_steps_spent"


_TEXTS: Mapping[Refusal, str] = {
    Refusal.MISSING: "this edge asks for one; ask its coordinator for a decision",
    Refusal.MALFORMED: "it is not a ticket, or was cut or altered",
    Refusal.UNKNOWN_KEY: "this edge does not trust the key that signed it",
    Refusal.FORGED: "its signature is not that of the key it names",
    Refusal.NOT_YET_VALID: "it is not valid yet; do the clocks of coordinator and edge agree?",
    Refusal.EXPIRED: "it has expired; ask the coordinator again",
    Refusal.FOREIGN_AUDIENCE: "it is for other edges than this one",
    Refusal.FOREIGN_SUBJECT: "it was issued to another device",
    Refusal.FOREIGN_REQUEST: "it is for another request",
    Refusal.WRONG_FAMILY: "it is for another family than this edge serves",
    Refusal.WRONG_FINGERPRINT: "it is for another latent space than this edge has",
    Refusal.OTHER_ARM: "the plan is not that of the arm which was decided",
    Refusal.TOO_MANY_STEPS: "the plan has more steps than it allows",
    Refusal.TOO_LARGE: "the picture is larger than it allows",
    Refusal.REPLAYED: "it was used up already; ask the coordinator again",
    Refusal.OTHER_PICTURE: "it was first used for another prompt, seed, size or plan",
    Refusal.STEPS_SPENT: "its request has been let in for as many steps as it may have in all",
}


@dataclass(frozen=True, slots=True)
class Ticket:
    """What one ticket admits.

    id: of the leave that it gives: two tickets of one id are one leave. audience: node ids.
    subject: name of the only device that may use it; empty where the issuer knows no names.
    request_id: the only request; empty lets the first use choose it. fingerprint: of the latent
    space; empty fits any. arm: whose plan may be drawn; None fits any. max_steps: of the plan.
    max_width, max_height: of the picture, pixels. count: requests that it may begin on each edge.
    not_before, expires: unix seconds.
    """

    id: str
    audience: tuple[str, ...]
    subject: str
    request_id: str
    family: str
    fingerprint: str
    arm: Arm | None
    max_steps: int
    max_width: int
    max_height: int
    count: int
    not_before: int
    expires: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants of an edge, as far as a ticket has a say in it.

    subject: the caller's name; empty where the edge does not ask who calls.
    """

    node_id: str
    subject: str
    request_id: str
    family: str
    fingerprint: str
    steps: int
    width: int
    height: int


def refused(why: Refusal) -> PermissionDenied:
    """The error, which tells why and what to do, and nothing of what the ticket holds."""
    return PermissionDenied(f"ticket refused: {_TEXTS[why]}", why)


def key_id(public: bytes) -> str:
    """The short name of a public key in a ticket."""
    return hashlib.sha256(public).hexdigest()[:16]


class Signer:
    """Holds the private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self._key_id = key_id(self.public)

    def sign(self, ticket: Ticket) -> str:
        """The ticket's text."""
        payload = _canonical({"v": _VERSION, "key": self._key_id, **_values(ticket)})
        return f"{_encode(payload)}.{_encode(self._key.sign(_PREFIX + payload))}"


@dataclass(frozen=True)
class KeyRing:
    """Public keys whose tickets are honoured, by key id."""

    keys: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> KeyRing:
        """From raw keys of 32 bytes each. Raises ValueError for anything else."""
        return cls({key_id(key): Ed25519PublicKey.from_public_bytes(key) for key in keys})

    def verify(self, text: str) -> Ticket:
        """The ticket, if a trusted key signed exactly this text. Raises PermissionDenied."""
        payload, signature = _split(text)
        ticket, signer = _parse(payload)
        key = self.keys.get(signer)
        if key is None:
            raise refused(Refusal.UNKNOWN_KEY)
        try:
            key.verify(signature, _PREFIX + payload)
        except InvalidSignature as error:
            raise refused(Refusal.FORGED) from error
        return ticket


def peek(text: str) -> Ticket:
    """What a ticket says, for its holder, who cannot verify it. Raises PermissionDenied."""
    return _parse(_split(text)[0])[0]


def check(ticket: Ticket, ask: Ask, now: float) -> None:
    """Raises PermissionDenied, with a `Refusal`, unless the ticket admits what is asked."""
    for why, holds in (
        (Refusal.NOT_YET_VALID, now >= ticket.not_before - LEEWAY),
        (Refusal.EXPIRED, now < ticket.expires + LEEWAY),
        (Refusal.FOREIGN_AUDIENCE, ask.node_id in ticket.audience),
        (Refusal.FOREIGN_SUBJECT, _fits(ticket.subject, ask.subject or ticket.subject)),
        (Refusal.FOREIGN_REQUEST, _fits(ticket.request_id, ask.request_id)),
        (Refusal.WRONG_FAMILY, ticket.family == ask.family),
        (Refusal.WRONG_FINGERPRINT, _fits(ticket.fingerprint, ask.fingerprint)),
        (Refusal.TOO_MANY_STEPS, ask.steps <= ticket.max_steps),
        (Refusal.TOO_LARGE, ask.width <= ticket.max_width and ask.height <= ticket.max_height),
    ):
        if not holds:
            raise refused(why)


def _fits(demanded: str, given: str) -> bool:
    return not demanded or demanded == given


def _values(ticket: Ticket) -> dict[str, Any]:
    """As JSON holds them: the arm as its text."""
    values = {item.name: getattr(ticket, item.name) for item in fields(ticket)}
    return values | {"arm": "" if ticket.arm is None else str(ticket.arm)}


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Raises ValueError; also for spare bits that are not zero, which would make a second text."""
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encode(data) != text:
        raise ValueError("not canonical")
    return data


def _split(text: str) -> tuple[bytes, bytes]:
    payload, separator, signature = text.partition(".")
    if not separator or not text.isascii() or len(text) > MAX_TICKET_CHARS:
        raise refused(Refusal.MALFORMED)
    try:
        return _decode(payload), _decode(signature)
    except (binascii.Error, ValueError) as error:
        raise refused(Refusal.MALFORMED) from error


def _parse(payload: bytes) -> tuple[Ticket, str]:
    """The ticket and its key id, neither of them to be trusted yet."""
    try:
        values = json.loads(payload)
        if not isinstance(values, dict) or _canonical(values) != payload:
            raise ValueError("not canonical")
        version, signer = values.pop("v"), values.pop("key")
        if not isinstance(values["audience"], list):
            raise TypeError("the audience is a list")
        arm = Arm.parse(values["arm"]) if values["arm"] else None
        if values["arm"] != ("" if arm is None else str(arm)):
            raise ValueError("not canonical")
        ticket = Ticket(**{**values, "audience": tuple(values["audience"]), "arm": arm})
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise refused(Refusal.MALFORMED) from error
    if version != _VERSION or not isinstance(signer, str) or not _well_typed(ticket):
        raise refused(Refusal.MALFORMED)
    return ticket, signer


def _well_typed(ticket: Ticket) -> bool:
    numbers = {"max_steps", "max_width", "max_height", "count", "not_before", "expires"}
    return all(isinstance(name, str) for name in ticket.audience) and all(
        type(getattr(ticket, item.name)) is (int if item.name in numbers else str)
        for item in fields(ticket)
        if item.name not in ("audience", "arm")
    )
