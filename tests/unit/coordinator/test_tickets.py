"""What a coordinator's tickets bind their holder to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from baton.common.arm import Arm
from baton.common.decision import EdgeChoice
from baton.common.explanation import DecisionRecord
from baton.common.query import DecideQuery
from baton.common.rpc.tickets import Signer, peek
from baton.coordinator.tickets import Issuer

QUERY = DecideQuery("r", "scenes", 7, fingerprint="f" * 32, members=("small",))
RECORD = DecisionRecord(
    decision_id="d",
    request_id="r",
    created_unix=0.0,
    family="scenes",
    preference="balanced",
    arm=Arm.edge("large"),
    propensity=1.0,
    explored=False,
    context=(),
    edges=(EdgeChoice("e1", "h:1", "idle"),),
)
ISSUER = Issuer(Signer(Ed25519PrivateKey.generate()), 60.0, lambda: 1000.0)


@pytest.mark.parametrize("latent_space", ["", "s" * 16], ids=["no space", "a space"])
def test_a_ticket_is_for_the_files_of_whoever_asked_whether_or_not_it_names_its_space(
    latent_space: str,
) -> None:
    asked = replace(QUERY, latent_space=latent_space)
    tickets = ISSUER.ticket(asked, RECORD), ISSUER.offline(asked, RECORD)
    assert {peek(ticket).fingerprint for ticket in tickets} == {QUERY.fingerprint}
