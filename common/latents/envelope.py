"""The envelope in which a latent travels: magic, blake2b digest, msgpack body.

The digest covers the whole body, so every altered bit is refused before anything is parsed; sizes
are checked against limits before anything is allocated.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgpack
import numpy as np

from baton.common.errors import CorruptEnvelope, Incompatible, InvalidRequest
from baton.common.latents.state import Array, HistoryEntry, LatentState, NoiseLevel

ENVELOPE_VERSION = 1
MAX_ENVELOPE_BYTES = 16 * 1024 * 1024
MAX_LATENT_VALUES = 2 * 1024 * 1024
MAX_HISTORY = 4
MAX_TEXT = 256

_MAGIC = b"BTN1"
_DIGEST_BYTES = 32
_INT8_BLOCK = 64
_REST_BYTES = 8 * 1024  # texts, a generator's state, msgpack's own
_MAX_LISTS = 3 + MAX_HISTORY  # shape, level, history and its entries
_FIELDS = {
    "version", "codec", "shape", "payload", "request_id", "step", "steps", "sampler", "level",
    "history", "rng", "fingerprint",
}  # fmt: skip


def largest_envelope(shape: tuple[int, int, int]) -> int:
    """Bytes of the largest envelope of a latent [C, H, W]: exact, with a full history."""
    return (1 + MAX_HISTORY) * 4 * math.prod(shape) + _REST_BYTES


class Codec(StrEnum):
    """fp32 is exact; fp16 halves the bytes (about 74 dB); int8 in blocks of 64 quarters them."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded envelope: the state, whose it is, and the latent space it lives in."""

    state: LatentState
    request_id: str
    fingerprint: str
    codec: Codec


def encode_state(state: LatentState, request_id: str, fingerprint: str, codec: Codec) -> bytes:
    """Pack a state. Raises InvalidRequest if fp16 cannot hold its values."""
    body: bytes = msgpack.packb(
        {
            "version": ENVELOPE_VERSION,
            "codec": str(codec),
            "shape": list(state.x.shape),
            "payload": _pack(state.x, codec),
            "request_id": request_id,
            "step": state.step,
            "steps": state.steps,
            "sampler": state.sampler,
            "level": [state.level.a, state.level.b],
            "history": [
                [entry.level.a, entry.level.b, _pack(entry.x0, codec)] for entry in state.history
            ],
            "rng": state.rng,
            "fingerprint": fingerprint,
        }
    )
    envelope: bytes = _MAGIC + _digest(body) + body
    return envelope


def decode_state(data: bytes, fingerprint: str | None = None) -> Envelope:
    """Unpack and check an envelope.

    Raises CorruptEnvelope for anything that is not a whole, unaltered envelope within the limits,
    and Incompatible if it comes from another version or another latent space than ``fingerprint``.
    """
    fields = _open(data)
    try:
        envelope = _read(fields)
    except (CorruptEnvelope, Incompatible):
        raise
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise CorruptEnvelope(f"malformed envelope: {error}") from error
    if fingerprint is not None and envelope.fingerprint != fingerprint:
        raise Incompatible(
            f"the latent comes from latent space {envelope.fingerprint[:12]}, this node has"
            f" {fingerprint[:12]}; both sides need the same family and weights"
        )
    return envelope


def _open(data: bytes) -> dict[str, Any]:
    start = len(_MAGIC) + _DIGEST_BYTES
    if len(data) > MAX_ENVELOPE_BYTES:
        raise CorruptEnvelope(f"envelope of {len(data)} bytes; at most {MAX_ENVELOPE_BYTES}")
    if len(data) < start or data[: len(_MAGIC)] != _MAGIC:
        raise CorruptEnvelope("not a latent envelope, or cut short")
    body = data[start:]
    if not hmac.compare_digest(_digest(body), data[len(_MAGIC) : start]):
        raise CorruptEnvelope("the envelope was altered or cut short: its digest does not match")
    try:
        fields = msgpack.unpackb(
            body,
            max_array_len=16,
            max_map_len=16,
            max_ext_len=0,
            strict_map_key=True,
            list_hook=_list_counter(),
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise CorruptEnvelope(f"the envelope's body is no msgpack: {error}") from error
    if not isinstance(fields, dict) or fields.get("version") != ENVELOPE_VERSION:
        raise Incompatible(f"envelope version is not {ENVELOPE_VERSION}; update the older side")
    if set(fields) != _FIELDS:
        raise CorruptEnvelope("the envelope's fields are not those of version 1")
    return fields


def _read(fields: dict[str, Any]) -> Envelope:
    codec = Codec(fields["codec"])
    shape = _shape(fields["shape"])
    history = fields["history"]
    if len(history) > MAX_HISTORY:
        raise CorruptEnvelope(f"{len(history)} history entries; at most {MAX_HISTORY}")
    state = LatentState(
        x=_unpack(fields["payload"], shape, codec),
        level=_level(*fields["level"]),
        step=_integer(fields["step"]),
        steps=_integer(fields["steps"]),
        sampler=_text(fields["sampler"]),
        history=tuple(
            HistoryEntry(_level(a, b), _unpack(payload, shape, codec)) for a, b, payload in history
        ),
        rng=_bytes(fields["rng"]),
    )
    return Envelope(state, _text(fields["request_id"]), _text(fields["fingerprint"]), codec)


def _list_counter() -> Callable[[list[object]], list[object]]:
    """Refuses more lists than an envelope has: each costs far more memory than bytes."""
    count = itertools.count(1)

    def hook(items: list[object]) -> list[object]:
        if next(count) > _MAX_LISTS:
            raise ValueError("too many lists")
        return items

    return hook


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise CorruptEnvelope(f"expected a short text, got {type(value).__name__}")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise CorruptEnvelope(f"expected bytes, got {type(value).__name__}")
    return value


def _level(a: object, b: object) -> NoiseLevel:
    if not (isinstance(a, float) and isinstance(b, float)):
        raise CorruptEnvelope("a noise level is a pair of floats")
    return NoiseLevel(a, b)


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CorruptEnvelope(f"expected a whole number, got {type(value).__name__}")
    return value


def _shape(dims: object) -> tuple[int, int, int]:
    if not isinstance(dims, list) or len(dims) != 3:
        raise CorruptEnvelope("a latent has three dimensions")
    channels, height, width = (_integer(dim) for dim in dims)
    if min(channels, height, width) < 1 or channels * height * width > MAX_LATENT_VALUES:
        raise CorruptEnvelope(f"latent shape {dims} is outside the limits")
    return channels, height, width


def _pack(array: Array, codec: Codec) -> bytes:
    if codec is Codec.FP32:
        return array.astype("<f4").tobytes()
    if codec is Codec.FP16:
        if np.abs(array).max() > np.finfo(np.float16).max:
            raise InvalidRequest("the latent's values exceed fp16; use the fp32 codec")
        return array.astype("<f2").tobytes()
    flat = array.ravel()
    blocks = np.pad(flat, (0, -len(flat) % _INT8_BLOCK)).reshape(-1, _INT8_BLOCK)
    scales = (np.abs(blocks).max(axis=1) / 127).astype("<f4")
    divisors = np.where(scales > 0, scales, 1)[:, None]
    quantised = np.rint(blocks / divisors).clip(-127, 127).astype(np.int8)
    packed: bytes = scales.tobytes() + quantised.ravel()[: len(flat)].tobytes()
    return packed


def _unpack(payload: object, shape: tuple[int, int, int], codec: Codec) -> Array:
    payload = _bytes(payload)
    count = math.prod(shape)
    blocks = -(-count // _INT8_BLOCK)
    expected = {Codec.FP32: 4 * count, Codec.FP16: 2 * count, Codec.INT8: 4 * blocks + count}[codec]
    if len(payload) != expected:
        raise CorruptEnvelope(
            f"{len(payload)} payload bytes do not make a {codec} latent of shape {shape}"
        )
    if codec is Codec.INT8:
        scales = np.frombuffer(payload, "<f4", blocks)
        values = np.frombuffer(payload, np.int8, offset=4 * blocks).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # LatentState refuses what is not finite
            values = values * np.repeat(scales, _INT8_BLOCK)[:count]
    else:
        values = np.frombuffer(payload, "<f4" if codec is Codec.FP32 else "<f2")
    return values.astype(np.float32).reshape(shape)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
