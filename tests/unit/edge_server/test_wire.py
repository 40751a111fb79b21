"""What the edge accepts from the wire, and what it says."""

from __future__ import annotations

import numpy as np
import pytest

from baton.common.build import Build, this_build
from baton.common.errors import (
    BatonError,
    CorruptEnvelope,
    Draining,
    Incompatible,
    InvalidRequest,
    UnknownName,
    WeightsError,
)
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.latents import Codec, LatentState, decode_state, encode_state
from baton.common.record import ExecutedStep
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.convert import executed_from_proto, plan_to_proto
from baton.common.rpc.latent_spaces import space_to_proto
from baton.edge_server.engine.job import Checkpointed, Drawn, HandedOff, Progressed, Times
from baton.edge_server.wire import accepted, event_to_proto, work_from_proto
from baton.v1 import edge_pb2, plan_pb2
from tests.support.families import NAME
from tests.support.graphs import with_mask
from tests.support.tasks import accelerated, plan, plan_in, run_alone, task, work

RELAY = plan("edge/large@0.5>device/small", 6)


def request(**changes: object) -> edge_pb2.DenoiseRequest:
    fields: dict[str, object] = {
        "protocol_version": PROTOCOL_VERSION,
        "request_id": "r-1",
        "prompt": "a red cat",
        "plan": plan_to_proto(RELAY),
        "seed": 7,
        "width": 16,
        "height": 16,
    }
    return edge_pb2.DenoiseRequest(**(fields | changes))  # type: ignore[arg-type]


def resumed(
    family: LoadedFamily, state: LatentState, name: str = "r-1", **changes: object
) -> edge_pb2.DenoiseRequest:
    resume = encode_state(state, name, family.fingerprint, Codec.FP32)
    return request(resume=resume, **changes)


def test_a_good_request_becomes_work(family: LoadedFamily) -> None:
    item = work_from_proto(request(codec="int8", checkpoint_every=5, negative_prompt="x"), family)
    assert (item.request_id, item.codec, item.checkpoint_every) == ("r-1", Codec.INT8, 5)
    assert (item.task.plan, item.task.seed, item.task.negative_prompt) == (RELAY, 7, "x")
    assert (item.first_step, item.stop, item.resume) == (0, 3, None)
    assert work_from_proto(request(fingerprint=family.fingerprint), family).codec is Codec.FP16


def test_work_does_not_show_the_prompt(family: LoadedFamily) -> None:
    item = work_from_proto(request(prompt="my hope", negative_prompt="my fear"), family)
    assert "my" not in repr(item)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"fingerprint": "0" * 32}, Incompatible),
        ({"request_id": ""}, InvalidRequest),
        ({"request_id": "x" * 129}, InvalidRequest),
        ({"request_id": "a b"}, InvalidRequest),
        ({"request_id": "a\n"}, InvalidRequest),
        ({"request_id": "ä"}, InvalidRequest),
        ({"prompt": ""}, InvalidRequest),
        ({"prompt": "x" * 10_000_000}, InvalidRequest),
        ({"negative_prompt": "x" * 10_000}, InvalidRequest),
        ({"seed": 2**64 - 1}, InvalidRequest),
        ({"width": 0}, InvalidRequest),
        ({"height": 7}, InvalidRequest),
        ({"width": 65536}, InvalidRequest),
        ({"start": edge_pb2.Start(picture=b"png", strength=0.5)}, Incompatible),
        ({"embeds": {"large": b"tensor"}}, Incompatible),
        ({"adapters": [plan_pb2.Adapter(member="large")]}, Incompatible),
        ({"codec": "zip"}, InvalidRequest),
        ({"codec": "x" * 1_000_000}, InvalidRequest),
        ({"checkpoint_every": 2**32 - 1}, InvalidRequest),
        ({"plan": plan_pb2.Plan()}, InvalidRequest),
        ({"plan": plan_to_proto(plan("device/small"))}, InvalidRequest),
        ({"plan": plan_to_proto(plan("edge/huge"))}, UnknownName),
        ({"resume": b"nonsense"}, CorruptEnvelope),
        ({"resume": bytes(100_000)}, CorruptEnvelope),
    ],
)
def test_a_bad_request_is_refused_in_a_short_line_without_its_prompt(
    family: LoadedFamily, changes: dict[str, object], error: type[BatonError]
) -> None:
    with pytest.raises(error) as caught:
        work_from_proto(request(**changes), family)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    assert "red cat" not in str(caught.value)


def test_who_tells_the_same_latent_space_names_it_in_envelopes(family: LoadedFamily) -> None:
    """From other files, which another edge may have resumed from before."""
    space = space_to_proto(family.spec.latent_space)
    state = run_alone(family, task(RELAY), 2).state()
    resume = encode_state(state, "r-1", "f" * 32, Codec.FP32)
    told = request(fingerprint="f" * 32, latent_space=space, resume=resume)
    item = work_from_proto(told, family)
    assert (item.fingerprint, item.first_step) == ("f" * 32, 2)
    assert work_from_proto(request(), family).fingerprint == family.fingerprint


def test_another_latent_space_is_refused_in_a_line_that_names_both(family: LoadedFamily) -> None:
    own = family.spec.latent_space
    other = plan_pb2.LatentSpace(id="other", vector=[-value for value in own.vector])
    with pytest.raises(Incompatible, match=f"other.*{own.id}"):
        work_from_proto(request(fingerprint=family.fingerprint, latent_space=other), family)


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "f" * 65},
        {"latent_space": plan_pb2.LatentSpace(id="x")},
        {"latent_space": plan_pb2.LatentSpace(id="x", vector=[float("nan")])},
        {"latent_space": plan_pb2.LatentSpace(id="x", vector=[0.0] * 10_000)},
    ],
)
def test_what_is_no_latent_space_is_refused(
    family: LoadedFamily, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        work_from_proto(request(**changes), family)


def test_a_plan_for_another_family_is_refused(family: LoadedFamily) -> None:
    foreign = plan_in("other", "ddim", 1.0, ("large", "edge", 0, 2))
    with pytest.raises(InvalidRequest, match=rf"serves family {NAME}"):
        work_from_proto(request(plan=plan_to_proto(foreign)), family)


def test_only_the_members_of_the_edges_own_stretch_need_to_be_loaded(
    family_folder: object,
) -> None:
    half = load_family(str(family_folder), ["large"])
    assert work_from_proto(request(), half).stop == 3
    reverse = plan_to_proto(plan("edge/small@0.5>device/large"))
    with pytest.raises(WeightsError, match="small"):
        work_from_proto(request(plan=reverse), half)


def test_work_says_what_acceleration_means_here(family: LoadedFamily) -> None:
    plain = work_from_proto(request(), family).plan
    assert {d.blocks for segment in plain.segments for d in segment.directives} == {None}
    of = accelerated(RELAY, "propagate")
    item = work_from_proto(request(plan=plan_to_proto(of)), family)
    assert item.task.plan == of
    found = item.plan
    assert found == family.accelerator.expand(of)
    assert all(d.blocks is not None for segment in found.segments for d in segment.directives)


def test_acceptance_tells_what_is_done_otherwise(family: LoadedFamily) -> None:
    for accel, count in (("none", 0), ("propagate", 0), ("masks", 1), ("full", 1)):
        of = plan_to_proto(accelerated(RELAY, accel))  # type: ignore[arg-type]
        event = accepted(work_from_proto(request(plan=of), family), family, "e1", attached=False)
        assert len(event.accepted.notes) == count
        assert all(note.startswith("large has no block mask") for note in event.accepted.notes)


def test_blocks_that_a_member_lacks_are_refused(family: LoadedFamily) -> None:
    of = with_mask(RELAY, [1 << len(family.blocks("large"))] * 6)
    with pytest.raises(InvalidRequest, match="large"):
        work_from_proto(request(plan=plan_to_proto(of)), family)


def test_a_request_may_go_on_from_its_own_latent(family: LoadedFamily) -> None:
    state = run_alone(family, task(RELAY), 2).state()
    item = work_from_proto(resumed(family, state), family)
    assert (item.first_step, item.stop) == (2, 3)
    assert item.resume is not None
    np.testing.assert_array_equal(item.resume.x, state.x)


def test_a_latent_that_is_not_the_requests_is_refused(family: LoadedFamily) -> None:
    state = run_alone(family, task(RELAY), 2).state()
    with pytest.raises(InvalidRequest, match="another request"):
        work_from_proto(resumed(family, state, name="r-2"), family)
    with pytest.raises(InvalidRequest, match="another size"):
        work_from_proto(resumed(family, state, width=32), family)
    foreign = request(resume=encode_state(state, "r-1", "0" * 32, Codec.FP32))
    with pytest.raises(Incompatible, match="latent space"):
        work_from_proto(foreign, family)


@pytest.mark.parametrize(("step", "said"), [(3, "does not run on an edge"), (6, "nothing is left")])
def test_a_latent_past_the_edges_part_is_refused(
    family: LoadedFamily, step: int, said: str
) -> None:
    state = run_alone(family, task(RELAY), step).state()
    with pytest.raises(InvalidRequest, match=said):
        work_from_proto(resumed(family, state), family)


EXECUTED = tuple(
    ExecutedStep(i, "large", "edge", "edge-1", "both" if i < 2 else "positive", 4, 1)
    for i in range(3)
)
TIMES = Times(0.5, 1.5, 0.25)


def test_events_say_what_happened() -> None:
    progress = event_to_proto(Progressed(2, 6, 4)).progress
    assert (progress.step, progress.steps, progress.rows) == (2, 6, 4)
    checkpoint = event_to_proto(Checkpointed(b"envelope", EXECUTED)).checkpoint
    handoff = event_to_proto(HandedOff(b"envelope", EXECUTED, TIMES)).handoff
    for message in (checkpoint, handoff):
        assert message.envelope == b"envelope"
        assert tuple(executed_from_proto(message.executed)) == EXECUTED
    times = handoff.times
    assert (times.queued_seconds, times.model_seconds, times.decode_seconds) == (0.5, 1.5, 0.25)


def test_a_picture_travels_as_raw_rows() -> None:
    picture = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    image = event_to_proto(Drawn(picture, EXECUTED, TIMES)).image
    assert (image.width, image.height) == (5, 2)
    np.testing.assert_array_equal(np.frombuffer(image.rgb, np.uint8).reshape(2, 5, 3), picture)


def test_an_error_is_no_event() -> None:
    with pytest.raises(TypeError, match="Draining"):
        event_to_proto(Draining("no"))


def test_acceptance_names_node_latent_space_and_first_step(family: LoadedFamily) -> None:
    state = run_alone(family, task(RELAY), 2).state()
    told = accepted(work("r", resume=state), family, "edge-1", attached=True).accepted
    assert (told.node_id, told.fingerprint, told.first_step) == ("edge-1", family.fingerprint, 2)
    assert told.attached
    assert Build(**{name: getattr(told.build, name) for name in vars(this_build())}) == this_build()
    assert dict(told.members) == {"large": family.member_fingerprints["large"]}
    assert decode_state(encode_state(state, "r", told.fingerprint, Codec.FP32)).state.step == 2
