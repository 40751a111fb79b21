"""Asking an edge how it is: the first exchange, for command lines and checks."""

from __future__ import annotations

import time

from google.protobuf.json_format import MessageToDict

from baton.common.foreign import one_line
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.access import OPEN, Access
from baton.common.rpc.convert import check_protocol
from baton.common.rpc.peer import Peer
from baton.common.rpc.status import parsed
from baton.v1 import edge_pb2, edge_pb2_grpc


async def edge_status(
    address: str, access: Access = OPEN, timeout: float = 3.0
) -> dict[str, object]:
    """The fields of GetStatusResponse and ``rtt_seconds`` of a call on the open connection.

    Of the latent space its id alone; None for what the edge does not tell. Raises Unreachable, also
    for a node that is no edge, or Incompatible for an edge of another protocol version.
    """
    request = edge_pb2.GetStatusRequest(protocol_version=PROTOCOL_VERSION)
    peer = Peer("an edge", address, access)
    async with peer.channel(timeout) as channel:
        stub = edge_pb2_grpc.EdgeStub(channel)
        await stub.GetStatus(request, timeout=timeout)
        begun = time.monotonic()
        answer = await stub.GetStatus(request, timeout=timeout)
        measured = time.monotonic() - begun
    response = parsed(answer, str(peer))
    check_protocol(response.protocol_version, f"the edge at {address}")
    fields = MessageToDict(
        response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    told = {field.name: _cleaned(fields.get(field.name)) for field in response.DESCRIPTOR.fields}
    space = one_line(response.latent_space.id)
    return {**told, "latent_space": space, "rtt_seconds": measured}


def _cleaned(value: object) -> object:
    """Texts, also within a list, as lines that can be printed."""
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return one_line(value) if isinstance(value, str) else value
