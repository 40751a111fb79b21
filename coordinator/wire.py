"""Between the messages about edges and arms and the coordinator's values, both ways, in one place.

What comes from the wire is checked by the values' own limits: InvalidRequest, naming the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from baton.common.explanation import DecisionRecord
from baton.common.foreign import one_line
from baton.common.node import Registration
from baton.common.rpc.deciding import arm_from_proto, known, record_to_proto
from baton.common.rpc.joining import load_from_proto, load_to_proto
from baton.coordinator.values import NODE_STATES, ArmStats, NodeView
from baton.v1 import coordinator_pb2 as pb


def nodes_request() -> pb.ListNodesRequest:
    return pb.ListNodesRequest()


def arms_request() -> pb.ListArmsRequest:
    return pb.ListArmsRequest()


def decisions_request(limit: int) -> pb.ListDecisionsRequest:
    return pb.ListDecisionsRequest(limit=limit)


def node_to_proto(node: NodeView) -> pb.Node:
    about = node.registration
    return pb.Node(
        node_id=about.node_id,
        address=about.address,
        family=about.family,
        members=about.members,
        fingerprint=about.fingerprint,
        load=load_to_proto(node.load),
        state=node.state,
        seconds_since_heartbeat=node.seconds_since_heartbeat,
        latent_space=about.latent_space,
    )


def node_from_proto(message: pb.Node) -> NodeView:
    about = Registration(
        message.node_id,
        message.address,
        message.family,
        tuple(message.members),
        message.fingerprint,
        latent_space=message.latent_space,
    )
    state = known("a state", message.state, NODE_STATES)
    return NodeView(about, load_from_proto(message.load), state, message.seconds_since_heartbeat)


def stats_to_proto(stats: ArmStats) -> pb.ArmStats:
    return pb.ArmStats(
        arm=str(stats.arm),
        pulls=stats.pulls,
        rewards=stats.rewards,
        mean_reward=stats.mean_reward,
        pending=stats.pending,
        family=stats.family,
        latent_space=stats.latent_space,
    )


def stats_from_proto(message: pb.ArmStats) -> ArmStats:
    return ArmStats(
        one_line(message.family),
        arm_from_proto(message.arm),
        message.pulls,
        message.rewards,
        message.mean_reward,
        message.pending,
        latent_space=one_line(message.latent_space),
    )


def nodes_to_proto(nodes: Iterable[NodeView]) -> pb.ListNodesResponse:
    return pb.ListNodesResponse(nodes=map(node_to_proto, nodes))


def arms_to_proto(arms: Iterable[ArmStats]) -> pb.ListArmsResponse:
    return pb.ListArmsResponse(arms=map(stats_to_proto, arms))


def decisions_to_proto(records: Iterable[DecisionRecord]) -> pb.ListDecisionsResponse:
    """Without scores and contexts, which would not fit into a message; an explanation has them."""
    brief = (replace(record, scores=(), context=()) for record in records)
    return pb.ListDecisionsResponse(decisions=map(record_to_proto, brief))
