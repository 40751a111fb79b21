"""What a hostile peer sends to cost a node time or memory: small, or as large as gets through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgpack
import numpy as np

from baton.common.errors import BatonError
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, LatentState, NoiseLevel, decode_state, encode_state
from baton.common.latents.envelope import MAX_ENVELOPE_BYTES, MAX_LATENT_VALUES
from baton.common.rpc import PROTOCOL_VERSION, joining
from baton.common.rpc.channel import CONTROL_BYTES
from baton.common.rpc.convert import executed_from_proto
from baton.common.rpc.deciding import outcome_from_proto, query_from_proto
from baton.edge_server.wire import largest_request, work_from_proto
from baton.v1 import coordinator_pb2 as pb
from baton.v1 import edge_pb2, plan_pb2
from tests.support.envelopes import fields_of, forged, seal

MOST_BYTES = 64 * 1024 * 1024

Read = Callable[[], object]


def cases(family: LoadedFamily) -> Mapping[str, Read]:
    """By name, what reads each of them; all must raise a BatonError."""
    envelopes = {name: _reads_envelope(data) for name, data in _envelopes().items()}
    return envelopes | _requests(family) | _control()


def is_refused(read: Read) -> bool:
    try:
        read()
    except BatonError:
        return True
    return False


def _reads_envelope(data: bytes) -> Read:
    return lambda: decode_state(data)


def _envelopes() -> dict[str, bytes]:
    room = MAX_ENVELOPE_BYTES - 64
    return {
        "a latent of 2^186 values": forged(shape=[2**62, 2**62, 2**62]),
        "a latent of one value too many": forged(shape=[1, 1, MAX_LATENT_VALUES + 1]),
        "16 MiB of zeros": seal(bytes(room)),
        "16 MiB of lists in a list": seal(b"\xdd\x00\xff\xff\x00" + b"\x90" * (room - 5)),
        "lists within lists, 100,000 deep": seal(b"\x91" * 100_000 + b"\xc0"),
        "lists of 16 lists of 16 lists": seal(_bushy(16**5)),
        "a map of 100,000 names": seal(msgpack.packb({str(i): i for i in range(100_000)})),
        "a list of 2^32 - 1": seal(b"\xdd\xff\xff\xff\xff"),
        "a text of 2^32 - 1 bytes": seal(b"\xdb\xff\xff\xff\xff"),
        "a number in place of bytes": forged(rng=2**62),
        "a thousand history entries": forged(history=[[0.5, 0.5, b""]] * 1000),
        "more than 16 MiB": b"BTN1" + bytes(MAX_ENVELOPE_BYTES),
        "the largest latent, its last value NaN": _spoilt(),
    }


def _bushy(leaves: int) -> bytes:
    level = [b"\x90"] * leaves
    while len(level) > 1:
        level = [b"\xdc\x00\x10" + b"".join(level[i : i + 16]) for i in range(0, len(level), 16)]
    return level[0]


def _spoilt() -> bytes:
    x = np.zeros((1, 1, MAX_LATENT_VALUES), np.float32)
    state = LatentState(x, NoiseLevel(0.6, 0.8), 1, 4, "ddim")
    fields = fields_of(encode_state(state, "r", "f", Codec.FP32))
    fields["payload"] = fields["payload"][:-4] + np.float32(np.nan).tobytes()
    return seal(msgpack.packb(fields))


def _requests(family: LoadedFamily) -> dict[str, Read]:
    """To an edge, of the most bytes that it takes."""
    room = largest_request(family) - 1024
    start = edge_pb2.DenoiseRequest(
        protocol_version=PROTOCOL_VERSION, request_id="r", prompt="x", width=16, height=16
    ).SerializeToString()
    segments = _number(plan_pb2.Plan, "segments")
    directives = _many(_number(plan_pb2.Segment, "directives"), room)
    bodies = {
        "a plan of empty segments": _many(segments, room),
        "a segment of empty directives": _field(segments, directives),
    }
    plan = _number(edge_pb2.DenoiseRequest, "plan")
    found: dict[str, Read] = {
        name: _reads_request(start + _field(plan, body), family) for name, body in bodies.items()
    }
    prompt = _field(_number(edge_pb2.DenoiseRequest, "prompt"), b"x" * room)
    return found | {"a prompt as long as the message": _reads_request(start + prompt, family)}


def _reads_request(data: bytes, family: LoadedFamily) -> Read:
    return lambda: work_from_proto(edge_pb2.DenoiseRequest.FromString(data), family)


def _control() -> dict[str, Read]:
    """To a coordinator or, as the steps that an edge says it ran, to a device."""
    decide, report, register = pb.DecideRequest, pb.ReportRequest, pb.RegisterRequest
    members = _many(_number(decide, "members"), CONTROL_BYTES)
    probes = _many(_number(decide, "probes"), CONTROL_BYTES)
    attempts = _many(_number(report, "attempts"), CONTROL_BYTES)
    joined = _many(_number(register, "members"), CONTROL_BYTES)
    stretch = plan_pb2.ExecutedStretch(stop=200, location=plan_pb2.LOCATION_EDGE)
    ran = _field(_number(edge_pb2.Handoff, "executed"), stretch.SerializeToString())
    handoff = ran * (CONTROL_BYTES // len(ran))
    return {
        "a question of empty members": lambda: query_from_proto(decide.FromString(members)),
        "a question of empty probes": lambda: query_from_proto(decide.FromString(probes)),
        "a report of empty attempts": lambda: outcome_from_proto(report.FromString(attempts)),
        "an edge of empty members": lambda: joining.registration_from_proto(
            register.FromString(joined)
        ),
        "millions of executed steps": lambda: executed_from_proto(
            edge_pb2.Handoff.FromString(handoff).executed
        ),
    }


def _number(kind: type, name: str) -> int:
    number: int = kind.DESCRIPTOR.fields_by_name[name].number  # type: ignore[attr-defined]
    return number


def _many(number: int, room: int) -> bytes:
    """Empty fields: the fewest bytes for the most memory."""
    one = _field(number, b"")
    return one * (room // len(one))


def _field(number: int, content: bytes) -> bytes:
    """A field with a length, as protobuf writes it."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
