"""Whatever is not exactly what was signed is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.common.errors import PermissionDenied
from baton.common.rpc.tickets import KeyRing, Refusal, Ticket
from tests.support.security import new_signer
from tests.support.strategies import arms

SIGNER = new_signer()
RING = KeyRing.of([SIGNER.public])

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
NUMBERS = st.integers(0, 2**53)
TICKETS = st.builds(
    Ticket,
    id=NAMES,
    audience=st.lists(NAMES, max_size=4).map(tuple),
    subject=NAMES,
    request_id=NAMES,
    family=NAMES,
    fingerprint=NAMES,
    max_steps=NUMBERS,
    arm=st.none() | arms(),
    max_width=NUMBERS,
    max_height=NUMBERS,
    count=NUMBERS,
    not_before=NUMBERS,
    expires=NUMBERS,
)


def check_refused(text: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        RING.verify(text)
    assert caught.value.reason in set(Refusal)


@given(TICKETS)
def test_a_ticket_survives_its_journey(ticket: Ticket) -> None:
    assert RING.verify(SIGNER.sign(ticket)) == ticket


@given(TICKETS, st.data())
def test_a_flipped_bit_is_refused(ticket: Ticket, data: st.DataObject) -> None:
    text = bytearray(SIGNER.sign(ticket).encode())
    position = data.draw(st.integers(0, 8 * len(text) - 1))
    text[position // 8] ^= 1 << position % 8
    check_refused(text.decode("latin-1"))


@given(TICKETS, st.data())
def test_a_cut_ticket_is_refused(ticket: Ticket, data: st.DataObject) -> None:
    text = SIGNER.sign(ticket)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    if (start, stop) != (0, len(text)):
        check_refused(text[start:stop])


@given(TICKETS, TICKETS)
def test_a_signature_fits_no_other_ticket(one: Ticket, other: Ticket) -> None:
    if one != other:
        payload, signature = SIGNER.sign(one).split(".")[0], SIGNER.sign(other).split(".")[1]
        check_refused(f"{payload}.{signature}")


@given(st.text(max_size=300))
def test_any_text_is_refused_with_a_reason(text: str) -> None:
    check_refused(text)
