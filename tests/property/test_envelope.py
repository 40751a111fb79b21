"""Properties of the latent envelope."""

from __future__ import annotations

import msgpack
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from baton.common.errors import CorruptEnvelope, Incompatible
from baton.common.latents import Codec, LatentState, NoiseLevel, decode_state, encode_state
from tests.support.envelopes import fields_of, seal, small_envelope
from tests.support.strategies import ordinary_levels, states

FIELDS = sorted(fields_of(small_envelope()))

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8))
    | st.sampled_from([0, 1, 3, 10, 24, "fp32", "fp16", "int8", "ddim", "euler", b"\0" * 96])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=17) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


def decodes_or_is_refused(data: bytes) -> None:
    try:
        envelope = decode_state(data)
    except (CorruptEnvelope, Incompatible):
        return
    assert isinstance(envelope.request_id, str)
    assert isinstance(envelope.fingerprint, str)
    assert envelope.state.x.ndim == 3
    assert np.isfinite(envelope.state.x).all()


@given(states(), st.text(max_size=20), st.text(max_size=40))
def test_fp32_keeps_everything_exactly(
    state: LatentState, request_id: str, fingerprint: str
) -> None:
    envelope = decode_state(encode_state(state, request_id, fingerprint, Codec.FP32), fingerprint)
    kept = envelope.state
    assert (envelope.request_id, envelope.fingerprint) == (request_id, fingerprint)
    assert (kept.step, kept.steps, kept.sampler) == (state.step, state.steps, state.sampler)
    assert (kept.level, kept.rng, envelope.codec) == (state.level, state.rng, Codec.FP32)
    assert kept.x.tobytes() == state.x.tobytes()
    assert [e.level for e in kept.history] == [e.level for e in state.history]
    assert [e.x0.tobytes() for e in kept.history] == [e.x0.tobytes() for e in state.history]


@given(states())
def test_fp16_keeps_every_value_to_eleven_bits(state: LatentState) -> None:
    kept = decode_state(encode_state(state, "r", "f", Codec.FP16)).state
    for old, new in zip(
        [state.x, *(e.x0 for e in state.history)], [kept.x, *(e.x0 for e in kept.history)],
        strict=True,
    ):  # fmt: skip
        assert (np.abs(old - new) <= np.abs(old) * 2**-11 + 2**-25).all()


@given(states())
def test_int8_keeps_every_value_to_half_a_step_of_its_block(state: LatentState) -> None:
    kept = decode_state(encode_state(state, "r", "f", Codec.INT8)).state
    old, new = state.x.ravel(), kept.x.ravel()
    for start in range(0, len(old), 64):
        block = slice(start, start + 64)
        step = np.abs(old[block]).max() / 127
        assert (np.abs(old[block] - new[block]) <= step * 0.501 + 1e-30).all()


@given(states(), st.sampled_from(list(Codec)))
def test_encoding_what_was_decoded_changes_nothing_more(state: LatentState, codec: Codec) -> None:
    once = decode_state(encode_state(state, "r", "f", codec)).state
    twice = decode_state(encode_state(once, "r", "f", codec)).state
    np.testing.assert_allclose(twice.x, once.x, rtol=1e-6)


@given(states(), st.sampled_from(list(Codec)), st.integers(0), st.integers(0))
def test_no_altered_or_shortened_envelope_is_accepted(
    state: LatentState, codec: Codec, bit: int, length: int
) -> None:
    envelope = bytearray(encode_state(state, "r", "f", codec))
    cut = bytes(envelope[: length % len(envelope)])
    envelope[bit // 8 % len(envelope)] ^= 1 << bit % 8
    for data in (cut, bytes(envelope)):
        try:
            decode_state(data)
        except CorruptEnvelope:
            continue
        raise AssertionError("accepted")


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=3))
def test_fields_of_any_kind_under_a_valid_digest_are_read_or_refused(
    changes: dict[str, object],
) -> None:
    decodes_or_is_refused(seal(msgpack.packb(fields_of(small_envelope()) | changes)))


@settings(max_examples=300)
@given(st.sampled_from(list(Codec)), st.data())
def test_payloads_of_any_bits_under_a_valid_digest_are_read_or_refused(
    codec: Codec, data: st.DataObject
) -> None:
    fields = fields_of(small_envelope(codec))
    size = len(fields["payload"])
    payload = data.draw(st.binary(min_size=size, max_size=size))
    entry = [0.5, 0.5, data.draw(st.binary(min_size=size, max_size=size))]
    changes = data.draw(st.sampled_from([{"payload": payload}, {"history": [entry]}]))
    decodes_or_is_refused(seal(msgpack.packb(fields | changes)))


@settings(max_examples=300)
@given(values.map(msgpack.packb) | st.binary(max_size=200))
def test_any_body_under_a_valid_digest_is_read_or_refused(body: bytes) -> None:
    decodes_or_is_refused(seal(body))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    try:
        decode_state(data)
    except CorruptEnvelope:
        return
    raise AssertionError("accepted")


@given(ordinary_levels, st.floats(1e-6, 1e6))
def test_the_same_noise_in_another_parametrisation_is_recognised(
    level: NoiseLevel, factor: float
) -> None:
    assert level.same_noise(NoiseLevel(level.a * factor, level.b * factor))


@given(ordinary_levels, ordinary_levels)
def test_different_noise_is_told_apart_however_small_the_numbers(
    one: NoiseLevel, two: NoiseLevel
) -> None:
    assume(not 0.99 < (one.b * two.a) / (two.b * one.a) < 1.01)
    assert not one.same_noise(two)
    assert not one.same_noise(NoiseLevel(two.a * 1e-9, two.b * 1e-9))
