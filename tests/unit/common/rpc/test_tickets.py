"""Tickets: what they admit, and the reason of every refusal."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from baton.common.arm import MAX_ARM_CHARS, Arm, Stretch
from baton.common.errors import InvalidRequest, PermissionDenied
from baton.common.limits import MAX_NAME_CHARS
from baton.common.rpc.ticket_keys import kept_private_key, read_private_key, read_public_key
from baton.common.rpc.tickets import (
    LEEWAY,
    MAX_TICKET_CHARS,
    Ask,
    KeyRing,
    Refusal,
    Signer,
    Ticket,
    check,
    peek,
    refused,
)
from tests.support.security import Credentials, a_ticket, new_signer

NOW = 1_000_000
TICKET = a_ticket(subject="anna", fingerprint="f", not_before=NOW, expires=NOW + 60)
ASK = Ask("edge-test", "anna", "good", "tiny", "f", 4, 16, 16)


@pytest.fixture(scope="module")
def signer() -> Signer:
    return new_signer()


@pytest.fixture(scope="module")
def ring(signer: Signer) -> KeyRing:
    return KeyRing.of([signer.public])


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def altered(text: str, change: Callable[[dict[str, object]], object]) -> str:
    """The ticket with other contents under its old signature."""
    payload, signature = text.split(".")
    values = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    change(values)
    compact = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return f"{encoded(compact.encode())}.{signature}"


def reason(caught: pytest.ExceptionInfo[PermissionDenied]) -> str:
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_a_ticket_comes_back_as_it_was_signed(signer: Signer, ring: KeyRing) -> None:
    text = signer.sign(TICKET)
    assert ring.verify(text) == peek(text) == TICKET
    assert text == signer.sign(TICKET)


def test_the_longest_ticket_that_a_coordinator_issues_is_short_enough(signer: Signer) -> None:
    longest = replace(TICKET, audience=("n" * 128,) * 16, request_id="r" * 128, subject="s" * 128)
    assert len(signer.sign(longest)) < MAX_TICKET_CHARS / 2
    stretch = Stretch("device", "m" * MAX_NAME_CHARS, 1)
    arm = Arm((stretch,) * (MAX_ARM_CHARS // (len(str(stretch)) + 1)))
    assert len(signer.sign(replace(longest, arm=arm))) < MAX_TICKET_CHARS


def test_a_ticket_admits_what_it_is_for() -> None:
    check(TICKET, ASK, NOW)
    check(TICKET, ASK, NOW - LEEWAY)
    check(TICKET, ASK, NOW + 60 + LEEWAY - 1)


def test_what_a_ticket_leaves_open_fits_everybody() -> None:
    ticket = replace(TICKET, subject="", request_id="", fingerprint="")
    check(ticket, replace(ASK, subject="bert", request_id="other", fingerprint="g"), NOW)


def test_an_edge_that_asks_nobody_for_a_name_cannot_check_it() -> None:
    check(TICKET, replace(ASK, subject=""), NOW)


REFUSED: dict[str, tuple[Refusal, Ask, float]] = {
    "too early": (Refusal.NOT_YET_VALID, ASK, NOW - LEEWAY - 1),
    "too late": (Refusal.EXPIRED, ASK, NOW + 60 + LEEWAY),
    "another edge": (Refusal.FOREIGN_AUDIENCE, replace(ASK, node_id="edge"), NOW),
    "another device": (Refusal.FOREIGN_SUBJECT, replace(ASK, subject="bert"), NOW),
    "another request": (Refusal.FOREIGN_REQUEST, replace(ASK, request_id="goo"), NOW),
    "another family": (Refusal.WRONG_FAMILY, replace(ASK, family="scenes"), NOW),
    "another latent space": (Refusal.WRONG_FINGERPRINT, replace(ASK, fingerprint="g"), NOW),
    "more steps": (Refusal.TOO_MANY_STEPS, replace(ASK, steps=5), NOW),
    "a larger picture": (Refusal.TOO_LARGE, replace(ASK, width=32), NOW),
    "a higher picture": (Refusal.TOO_LARGE, replace(ASK, height=32), NOW),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_ticket_for_something_else_is_refused_with_its_reason(what: str) -> None:
    why, ask, now = REFUSED[what]
    with pytest.raises(PermissionDenied) as caught:
        check(TICKET, ask, now)
    assert reason(caught) == why


def test_every_refusal_has_its_own_text() -> None:
    assert len({str(refused(why)) for why in Refusal}) == len(Refusal)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(max_steps=200),
        lambda values: values.update(subject=""),
        lambda values: values.update(arm="edge/large"),
        lambda values: values.update(expires=NOW * 2),
        lambda values: values["audience"].append("edge-9"),
    ],
)
def test_other_contents_under_the_old_signature_are_forged(
    signer: Signer, ring: KeyRing, change: Callable[[dict[str, object]], object]
) -> None:
    with pytest.raises(PermissionDenied) as caught:
        ring.verify(altered(signer.sign(TICKET), change))
    assert reason(caught) == Refusal.FORGED


def test_a_signature_of_somebody_else_is_forged(signer: Signer, ring: KeyRing) -> None:
    payload, other = signer.sign(TICKET).split(".")[0], new_signer().sign(TICKET).split(".")[1]
    with pytest.raises(PermissionDenied) as caught:
        ring.verify(f"{payload}.{other}")
    assert reason(caught) == Refusal.FORGED


def test_a_key_that_nobody_vouched_for_is_unknown(ring: KeyRing) -> None:
    for keys in (ring, KeyRing()):
        with pytest.raises(PermissionDenied) as caught:
            keys.verify(new_signer().sign(TICKET))
        assert reason(caught) == Refusal.UNKNOWN_KEY


@pytest.mark.parametrize(
    "text",
    ["", ".", "x", "x.y", "e30.e30", "é.é", "!.!", "A" * MAX_TICKET_CHARS + ".AA",
     encoded(b"[" * 6000) + ".AA", encoded(b"NaN") + ".AA", encoded(b"\xff") + ".AA",
     encoded(b'{"v":1,"v":1}') + ".AA"],
)  # fmt: skip
def test_what_is_no_ticket_is_malformed(ring: KeyRing, text: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        ring.verify(text)
    assert reason(caught) == Refusal.MALFORMED


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(v=3),
        lambda values: values.update(v=1),
        lambda values: values.update(arm=None),
        lambda values: values.update(arm=1),
        lambda values: values.update(arm="teleport/large"),
        lambda values: values.update(arm="relay:large>small@0.4"),
        lambda values: values.update(more=1),
        lambda values: values.pop("count"),
        lambda values: values.update(count=True),
        lambda values: values.update(count="1"),
        lambda values: values.update(expires=1e9),
        lambda values: values.update(audience="edge-test"),
        lambda values: values.update(audience=[1]),
        lambda values: values.update(key=None),
    ],
)
def test_fields_of_another_kind_are_malformed_even_if_they_were_signed(
    signer: Signer, ring: KeyRing, change: Callable[[dict[str, object]], object]
) -> None:
    with pytest.raises(PermissionDenied) as caught:
        ring.verify(altered(signer.sign(TICKET), change))
    assert reason(caught) == Refusal.MALFORMED


def test_only_one_spelling_of_a_ticket_counts(signer: Signer, ring: KeyRing) -> None:
    text = signer.sign(TICKET)
    payload, signature = text.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 64 bytes end in two characters of which the last has four spare bits
    twin = signature[:-1] + last[last.index(signature[-1]) ^ 1]
    for other in (
        f"{text}=",
        f" {text}",
        f"{text}\n",
        f"{payload}=.{signature}",
        f"{payload}.{twin}",
    ):
        with pytest.raises(PermissionDenied) as caught:
            ring.verify(other)
        assert reason(caught) == Refusal.MALFORMED


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "c.ticket-key"
    first = kept_private_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_private_key(path).private_bytes_raw() == first.private_bytes_raw()
    with pytest.raises(InvalidRequest, match="ticket_key"):
        kept_private_key(tmp_path / "nowhere" / "key")


def test_the_scripts_ticket_keys_belong_together(credentials: Credentials) -> None:
    here = credentials.folder / "coordinator"
    signer = Signer(read_private_key(here / "ticket.key"))
    assert signer.public == read_public_key(here / "ticket.pub")
    assert KeyRing.of([read_public_key(here / "ticket.pub")]).verify(signer.sign(TICKET)) == TICKET


def test_files_that_are_no_ticket_keys_are_named(credentials: Credentials, tmp_path: Path) -> None:
    other = credentials.folder / "anna" / "key.pem"
    for path in (tmp_path / "absent", other, credentials.ca):
        with pytest.raises(InvalidRequest, match=path.name):
            read_private_key(path)
        with pytest.raises(InvalidRequest, match=path.name):
            read_public_key(path)


def test_a_ticket_holds_no_more_than_it_needs() -> None:
    assert set(Ticket.__slots__) == {
        "id", "audience", "subject", "request_id", "family", "fingerprint", "max_steps",
        "arm", "max_width", "max_height", "count", "not_before", "expires",
    }  # fmt: skip
