"""What an envelope keeps, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgpack
import numpy as np
import pytest

from baton.common.errors import CorruptEnvelope, Incompatible, InvalidRequest
from baton.common.latents import Codec, LatentState, NoiseLevel, decode_state, encode_state
from baton.common.latents.envelope import MAX_ENVELOPE_BYTES, MAX_LATENT_VALUES
from tests.support.envelopes import (
    FINGERPRINT,
    fields_of,
    forged,
    peak_of_refusing,
    seal,
    small_envelope,
    small_state,
)

CODECS = list(Codec)
LEVEL = NoiseLevel(0.6, 0.8)


def snr_db(original: np.ndarray, restored: np.ndarray) -> float:
    noise = np.square(original - restored, dtype=np.float64).mean()
    return 10 * math.log10(np.square(original, dtype=np.float64).mean() / noise)


@pytest.mark.parametrize(("codec", "least"), [(Codec.FP16, 72.0), (Codec.INT8, 42.0)])
def test_a_lossy_codec_keeps_latent_and_history_within_its_noise(
    codec: Codec, least: float
) -> None:
    state = small_state(shape=(4, 64, 64))
    restored = decode_state(encode_state(state, "r", FINGERPRINT, codec)).state
    assert snr_db(state.x, restored.x) > least
    assert snr_db(state.history[0].x0, restored.history[0].x0) > least


def test_fp32_is_exact_and_the_others_halve_and_quarter_it() -> None:
    state = small_state(shape=(4, 64, 64))
    sizes = [len(encode_state(state, "r", FINGERPRINT, codec)) for codec in CODECS]
    assert sizes[0] == pytest.approx(2 * 4 * state.x.size, rel=0.01)
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.01)
    assert sizes[0] / sizes[2] == pytest.approx(4 / (1 + 4 / 64), rel=0.01)
    restored = decode_state(encode_state(state, "r", FINGERPRINT, Codec.FP32)).state
    assert restored.x.tobytes() == state.x.tobytes()


@pytest.mark.parametrize("codec", CODECS)
def test_a_decoded_latent_owns_its_memory(codec: Codec) -> None:
    restored = decode_state(small_envelope(codec)).state
    np.negative(restored.x, out=restored.x)
    assert restored.x.dtype == np.float32


def test_a_latent_too_large_for_fp16_is_refused_and_fits_the_other_codecs() -> None:
    state = LatentState(np.full((1, 1, 3), 7e4, np.float32), LEVEL, 0, 4, "euler")
    with pytest.raises(InvalidRequest, match="fp32"):
        encode_state(state, "r", FINGERPRINT, Codec.FP16)
    for codec in (Codec.FP32, Codec.INT8):
        restored = decode_state(encode_state(state, "r", FINGERPRINT, codec)).state
        np.testing.assert_allclose(restored.x, state.x, rtol=1e-5)


def test_a_latent_of_zeros_survives_every_codec() -> None:
    state = LatentState(np.zeros((1, 9, 9), np.float32), LEVEL, 0, 4, "euler")
    for codec in CODECS:
        restored = decode_state(encode_state(state, "r", FINGERPRINT, codec)).state
        assert not restored.x.any()


@pytest.mark.parametrize("codec", CODECS)
def test_an_envelope_cut_short_at_any_length_is_refused(codec: Codec) -> None:
    envelope = small_envelope(codec)
    for length in range(len(envelope)):
        with pytest.raises(CorruptEnvelope):
            decode_state(envelope[:length])


@pytest.mark.parametrize("codec", CODECS)
def test_an_envelope_with_any_single_bit_flipped_is_refused(codec: Codec) -> None:
    envelope = bytearray(small_envelope(codec))
    for bit in range(8 * len(envelope)):
        envelope[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptEnvelope):
            decode_state(bytes(envelope))
        envelope[bit // 8] ^= 1 << bit % 8
    decode_state(bytes(envelope))


def test_a_flipped_bit_in_a_large_envelope_is_refused_wherever_it_is() -> None:
    state = small_state(shape=(4, 64, 64))
    envelope = bytearray(encode_state(state, "r", FINGERPRINT, Codec.FP16))
    for bit in np.random.default_rng(0).integers(8 * len(envelope), size=10_000):
        envelope[bit // 8] ^= 1 << int(bit) % 8
        with pytest.raises(CorruptEnvelope):
            decode_state(bytes(envelope))
        envelope[bit // 8] ^= 1 << int(bit) % 8


@pytest.mark.parametrize("tail", [b"\0", b"\xc0", small_envelope()])
def test_bytes_after_the_envelope_are_refused(tail: bytes) -> None:
    with pytest.raises(CorruptEnvelope):
        decode_state(small_envelope() + tail)
    with pytest.raises(CorruptEnvelope):
        decode_state(seal(small_envelope()[36:] + tail))


@pytest.mark.parametrize("version", [0, 2, "1", None, 2**63, [1], 1.5])
def test_another_version_is_incompatible(version: object) -> None:
    with pytest.raises(Incompatible, match="version"):
        decode_state(forged(version=version))


def test_a_latent_of_another_latent_space_is_incompatible() -> None:
    assert decode_state(small_envelope(), FINGERPRINT).fingerprint == FINGERPRINT
    assert decode_state(small_envelope()).fingerprint == FINGERPRINT
    with pytest.raises(Incompatible, match=r"ffffffffffff.*eeeeeeeeeeee"):
        decode_state(small_envelope(), "e" * 32)


@pytest.mark.parametrize("name", sorted(set(fields_of(small_envelope())) - {"version"}))
def test_a_missing_field_is_refused(name: str) -> None:
    fields = fields_of(small_envelope())
    del fields[name]
    with pytest.raises(CorruptEnvelope, match="fields"):
        decode_state(seal(msgpack.packb(fields)))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(CorruptEnvelope, match="fields"):
        decode_state(forged(extra=1))


@pytest.mark.parametrize(
    "shape",
    [
        [],
        [24],
        [4, 6],
        [4, 2, 3, 1],
        [0, 2, 3],
        [-4, -2, 3],
        [4.0, 2, 3],
        [True, 8, 3],
        [4, 2, 4],
        [1, 1, MAX_LATENT_VALUES + 1],
        [2**62, 2**62, 2**62],
        [1, 1, 2**64 - 1],
        "423",
        None,
        {"4": 2},
    ],
)
def test_a_shape_that_the_payload_does_not_have_is_refused_unallocated(shape: object) -> None:
    assert peak_of_refusing(forged(shape=shape), CorruptEnvelope) < 100_000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("codec", [Codec.FP32, Codec.FP16])
def test_values_that_are_not_finite_are_refused_in_latent_and_history(
    value: float, codec: Codec
) -> None:
    fields = fields_of(small_envelope(codec))
    dtype = {Codec.FP32: "<f4", Codec.FP16: "<f2"}[codec]
    payload = np.frombuffer(fields["payload"], dtype).copy()
    payload[7] = value
    bad = payload.tobytes()
    a, b, _ = fields["history"][0]
    for change in ({"payload": bad}, {"history": [[a, b, bad]]}):
        with pytest.raises(CorruptEnvelope, match="NaN"):
            decode_state(seal(msgpack.packb(fields | change)))


@pytest.mark.parametrize("scale", [math.nan, math.inf, 3e38])
def test_an_int8_scale_that_makes_values_infinite_is_refused(scale: float) -> None:
    fields = fields_of(small_envelope(Codec.INT8))
    payload = np.float32(scale).tobytes() + fields["payload"][4:]
    with pytest.raises(CorruptEnvelope, match="NaN"):
        decode_state(seal(msgpack.packb(fields | {"payload": payload})))


@pytest.mark.parametrize(
    "level",
    [
        [0.0, 0.0],
        [-1.0, 0.5],
        [math.nan, 0.5],
        [0.5, math.inf],
        [1, 1],
        [0.5],
        [0.5, 0.5, 0.5],
        "ab",
        7,
        None,
    ],
)
def test_what_is_no_noise_level_is_refused(level: object) -> None:
    with pytest.raises(CorruptEnvelope):
        decode_state(forged(level=level))
    with pytest.raises(CorruptEnvelope):
        decode_state(forged(history=[level]))


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": 11},
        {"step": 3.0},
        {"step": True},
        {"steps": 0},
        {"steps": 2},
        {"steps": 201},
        {"steps": 2**63},
        {"sampler": "plms"},
        {"sampler": ["ddim"]},
        {"sampler": None},
        {"codec": "fp64"},
        {"codec": ["fp32"]},
        {"codec": None},
        {"history": 4},
        {"history": {"a": 1}},
        {"history": "abc"},
        {"history": ["abc"]},
        {"history": [[0.5, 0.5]]},
        {"history": [[0.5, 0.5, b""]]},
        {"payload": "text"},
        {"payload": [0] * 16},
        {"rng": "text"},
        {"rng": [1, 2]},
        {"rng": None},
        {"rng": 1000},
        {"rng": 2**62},
        {"request_id": 7},
        {"request_id": None},
        {"request_id": ["request-1"]},
        {"fingerprint": 7},
        {"fingerprint": None},
    ],
)
def test_a_field_of_the_wrong_kind_or_out_of_range_is_refused(changes: dict[str, object]) -> None:
    assert peak_of_refusing(forged(**changes), CorruptEnvelope) < 100_000


def test_more_history_than_any_sampler_keeps_is_refused() -> None:
    entry = fields_of(small_envelope())["history"][0]
    decode_state(forged(history=[entry] * 4))
    with pytest.raises(CorruptEnvelope):
        decode_state(forged(history=[entry] * 5))


def test_a_number_where_bytes_belong_allocates_nothing() -> None:
    assert peak_of_refusing(forged(rng=200_000_000), CorruptEnvelope) < 1_000_000


def nested_lists(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def bushy_lists(leaves: int) -> bytes:
    """Empty lists in lists of 16 in lists of 16: one byte each, some 60 in memory."""
    level = [b"\x90"] * leaves
    while len(level) > 1:
        level = [b"\xdc\x00\x10" + b"".join(level[i : i + 16]) for i in range(0, len(level), 16)]
    return level[0]


def map_of_everything() -> bytes:
    return msgpack.packb({str(i): i for i in range(10_000)})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xff" * 100,
        nested_lists(500),
        nested_lists(100_000),
        b"\xdd\xff\xff\xff\xff",  # a list of 2^32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map of 2^32 - 1
        b"\xdb\xff\xff\xff\xff",  # a text of 2^32 - 1
        b"\xc6\xff\xff\xff\xff",  # bytes, 2^32 - 1 of them
        b"\xc9\xff\xff\xff\xff\x01",  # an extension of 2^32 - 1
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\x01\x01",  # a key that is a number
        b"\xa2\xff\xfe",  # a text that is no UTF-8
        map_of_everything(),
    ],
    ids=lambda body: body[:6].hex() or "empty",
)
def test_a_body_that_is_no_envelope_is_refused_within_little_memory(body: bytes) -> None:
    with pytest.raises((CorruptEnvelope, Incompatible)):
        decode_state(seal(body))


def test_a_body_of_small_parts_does_not_swell_in_memory() -> None:
    body = bushy_lists(16**4)
    field = b"\x81\xa7version" + body
    for data in (seal(body), seal(field)):
        peak = peak_of_refusing(data, CorruptEnvelope, Incompatible)
        assert peak < 4 * len(data) + 100_000


def test_an_envelope_over_the_limit_is_refused_before_it_is_read() -> None:
    data = b"BTN1" + bytes(MAX_ENVELOPE_BYTES)
    assert peak_of_refusing(data, CorruptEnvelope) < 100_000


@pytest.mark.parametrize("change", [lambda x: x[0], lambda x: x.astype(np.float64)])
def test_a_latent_of_another_rank_or_dtype_is_refused(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    with pytest.raises(CorruptEnvelope, match="float32"):
        LatentState(change(small_state().x), LEVEL, 0, 4, "ddim")


def test_intensity_is_the_latents_norm() -> None:
    state = LatentState(np.full((1, 2, 2), 3.0, np.float32), LEVEL, 0, 4, "ddim")
    assert state.intensity == pytest.approx(6.0)
