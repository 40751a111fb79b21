from __future__ import annotations

from baton.common.node import NodeLoad, Registration
from baton.common.rpc import joining


def test_what_an_edge_says_of_itself_survives_the_wire() -> None:
    about = Registration(
        node_id="e",
        address="h:1",
        family="scenes",
        members=("large",),
        fingerprint="f",
        load=NodeLoad(0.5, 0.25, 1, 2, 3),
        family_members=("large", "small"),
        incarnation="i",
        secret="s",
        latent_space="a1b2",
    )
    assert joining.registration_from_proto(joining.registration_to_proto(about)) == about
