"""Between an edge's messages and the device's values, both ways.

What comes from the wire is checked: InvalidRequest. Texts are made one line by a `Clean`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from baton.common.build import Build, NodeBuild
from baton.common.checks import check_seconds
from baton.common.foreign import Clean
from baton.common.latents import Codec
from baton.common.latents.space import UNKNOWN, LatentSpace
from baton.common.naming import check_node_id
from baton.common.request import Task
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.latent_spaces import space_from_proto, space_to_proto
from baton.v1 import edge_pb2

_MAX_NOTES = 16


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as every edge gets it. ticket: may be empty."""

    request_id: str
    task: Task
    fingerprint: str
    codec: Codec
    checkpoint_every: int
    ticket: str = field(default="", repr=False)
    latent_space: LatentSpace = UNKNOWN


@dataclass(frozen=True)
class Acceptance:
    """What an edge says of itself when it takes a request.

    build: what it draws with; notes: what it does otherwise than asked, a line each; attached: it
    had the request already.
    """

    node_id: str
    build: NodeBuild
    notes: tuple[str, ...]
    attached: bool
    latent_space: LatentSpace


@dataclass(frozen=True)
class EdgeTimes:
    """Seconds that a request took at an edge: waiting for a place, and computed for."""

    queued: float = 0.0
    computed: float = 0.0

    def __add__(self, other: EdgeTimes) -> EdgeTimes:
        return EdgeTimes(self.queued + other.queued, self.computed + other.computed)


def denoise_request(asked: Asked, resume: bytes) -> edge_pb2.DenoiseRequest:
    """resume: the envelope to go on from, or nothing."""
    return edge_pb2.DenoiseRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=asked.request_id,
        prompt=asked.task.prompt,
        negative_prompt=asked.task.negative_prompt,
        plan=plan_to_proto(asked.task.plan),
        seed=asked.task.seed,
        width=asked.task.size.width,
        height=asked.task.size.height,
        fingerprint=asked.fingerprint,
        codec=str(asked.codec),
        checkpoint_every=asked.checkpoint_every,
        resume=resume,
        ticket=asked.ticket,
        latent_space=space_to_proto(asked.latent_space),
    )


def cancel_request(request_id: str) -> edge_pb2.CancelRequest:
    return edge_pb2.CancelRequest(request_id=request_id)


def acceptance_from_proto(message: edge_pb2.Accepted, clean: Clean) -> Acceptance:
    told = {name.name: getattr(message.build, name.name) for name in fields(Build)}
    build = NodeBuild(Build(**told), dict(message.members))
    notes = tuple(map(clean, message.notes[:_MAX_NOTES]))
    space = space_from_proto(message.latent_space)
    return Acceptance(check_node_id(message.node_id), build, notes, message.attached, space)


def times_from_proto(message: edge_pb2.EdgeTimes) -> EdgeTimes:
    model = check_seconds(message.model_seconds, "model_seconds")
    decode = check_seconds(message.decode_seconds, "decode_seconds")
    return EdgeTimes(check_seconds(message.queued_seconds, "queued_seconds"), model + decode)
