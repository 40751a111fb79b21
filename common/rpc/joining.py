"""Between the messages by which edges join a coordinator and their values, both ways.

What comes from the wire is checked by the values' own limits: InvalidRequest, naming the field.
"""

from __future__ import annotations

from collections.abc import Sequence

from baton.common.checks import MAX_FAMILY_MEMBERS, check_members
from baton.common.node import NodeLoad, Registration
from baton.common.request import PREFERENCES
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.deciding import arm_from_proto
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import plan_pb2


def load_to_proto(load: NodeLoad) -> pb.NodeLoad:
    return pb.NodeLoad(
        cpu=load.cpu,
        memory=load.memory,
        active=load.active,
        queued=load.queued,
        capacity=load.capacity,
    )


def load_from_proto(message: pb.NodeLoad) -> NodeLoad:
    return NodeLoad(message.cpu, message.memory, message.active, message.queued, message.capacity)


def registration_to_proto(about: Registration) -> pb.RegisterRequest:
    return pb.RegisterRequest(
        protocol_version=PROTOCOL_VERSION,
        node_id=about.node_id,
        address=about.address,
        family=about.family,
        members=about.members,
        fingerprint=about.fingerprint,
        load=load_to_proto(about.load),
        family_members=about.family_members,
        incarnation=about.incarnation,
        secret=about.secret,
        latent_space=plan_pb2.LatentSpace(id=about.latent_space),
        arms={preference: str(arm) for preference, arm in about.arms.items()},
        partial_members=about.partial_members,
    )


def registration_from_proto(message: pb.RegisterRequest) -> Registration:
    return Registration(
        node_id=message.node_id,
        address=message.address,
        family=message.family,
        members=check_members(message.members, "members"),
        fingerprint=message.fingerprint,
        load=load_from_proto(message.load),
        family_members=check_members(message.family_members, "family_members", MAX_FAMILY_MEMBERS),
        incarnation=message.incarnation,
        secret=message.secret,
        latent_space=message.latent_space.id,
        arms={
            preference: arm_from_proto(message.arms[preference])
            for preference in PREFERENCES
            if preference in message.arms
        },
        partial_members=check_members(
            message.partial_members, "partial_members", MAX_FAMILY_MEMBERS
        ),
    )


def register_answer(lease_seconds: float, ticket_keys: Sequence[bytes]) -> pb.RegisterResponse:
    return pb.RegisterResponse(
        protocol_version=PROTOCOL_VERSION, lease_seconds=lease_seconds, ticket_keys=ticket_keys
    )


def heartbeat_request(about: Registration, load: NodeLoad) -> pb.HeartbeatRequest:
    """Of a node that registered as ``about``, and how busy it is now."""
    return pb.HeartbeatRequest(
        node_id=about.node_id, load=load_to_proto(load), incarnation=about.incarnation
    )


def heartbeat_answer(known: bool) -> pb.HeartbeatResponse:
    return pb.HeartbeatResponse(known=known)


def deregister_request(about: Registration) -> pb.DeregisterRequest:
    return pb.DeregisterRequest(node_id=about.node_id, incarnation=about.incarnation)


def deregister_answer() -> pb.DeregisterResponse:
    return pb.DeregisterResponse()
