"""Envelopes as a hostile peer would make them: any body at all, under a valid digest."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from baton.common.errors import BatonError
from baton.common.latents import (
    Codec,
    HistoryEntry,
    LatentState,
    NoiseLevel,
    decode_state,
    encode_state,
)

FINGERPRINT = "f" * 32
HEAD_BYTES = 36  # magic and digest


def small_state(seed: int = 0, shape: tuple[int, int, int] = (4, 2, 3)) -> LatentState:
    """A paused request with history and a generator's state."""
    rng = np.random.default_rng(seed)
    x, x0 = rng.standard_normal((2, *shape), dtype=np.float32)
    past = HistoryEntry(NoiseLevel(0.5, 0.75), x0)
    return LatentState(x, NoiseLevel(0.6, 0.8), 3, 10, "dpmpp_2m", (past,), b"rng state")


def small_envelope(codec: Codec = Codec.FP32) -> bytes:
    return encode_state(small_state(), "request-1", FINGERPRINT, codec)


def seal(body: bytes) -> bytes:
    """The envelope of a body, with the digest that belongs to it."""
    return b"BTN1" + hashlib.blake2b(body, digest_size=32).digest() + body


def fields_of(envelope: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(envelope[HEAD_BYTES:])
    return fields


def forged(**changes: object) -> bytes:
    """A good envelope with some fields replaced and the digest made anew."""
    return seal(msgpack.packb(fields_of(small_envelope()) | changes))


def peak_of_refusing(data: bytes, *errors: type[BatonError]) -> int:
    """Bytes allocated at most while decoding, which must fail with one of ``errors``."""
    return peak_memory(lambda: _refused(data, errors))


def peak_memory(action: Callable[[], object]) -> int:
    """Bytes allocated at most during ``action``."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _refused(data: bytes, errors: tuple[type[BatonError], ...]) -> None:
    try:
        decode_state(data)
    except errors:
        return
    raise AssertionError("the envelope was accepted")
