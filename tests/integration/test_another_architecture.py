"""A family of another architecture: on an edge among others, relayed, and drawn again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from baton.common.arm import Arm
from baton.common.errors import Incompatible
from baton.common.expansion import Terms, expand
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here, warm_up
from baton.common.latents import Codec, decode_state
from baton.common.limits import SAMPLERS, Accel, SamplerName
from baton.common.plan import Guidance, OpenPlan
from baton.common.request import Task
from baton.common.size import Size
from baton.device_client import Result, replay_provenance
from baton.device_client.provenance import read_chunk
from baton.device_client.sdk import AsyncClient
from baton.edge_server.engine.job import Drawn, HandedOff
from tests.support.awkward import (
    CHANNELS,
    FACTOR,
    NAME,
    SIZE,
    awkward_family,
    models_of,
    write_awkward,
)
from tests.support.engines import Gate, Listener, run_together
from tests.support.nodes import check_executed, device, drawn_here, edge, until
from tests.support.replays import Undecoded, record
from tests.support.tasks import accelerated, run_alone, work

STEPS = 6
#: Of several lengths, two of them alike.
PROMPTS = ("a red cat", "two blue houses on a hill", "one green dog", "a tree")
EDGE_ONLY = "edge/large@0.5>edge/small"
RELAY = "edge/large@0.5>device/small"
DED = "device/small*2>edge/large*2>device/small*2"
#: Over two grids of levels.
LEVELS = "edge/large*3@s2.0>device/small*3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_awkward(tmp_path_factory.mktemp("awkward") / "family")


@pytest.fixture
def family(folder: Path) -> LoadedFamily:
    return awkward_family(folder)


def plan(
    family: LoadedFamily, arm: str, sampler: SamplerName = "dpmpp_2m", accel: Accel = "none"
) -> OpenPlan:
    guidance = Guidance(3.0)
    own = family.spec.own_guidance
    return expand(Arm.parse(arm), Terms(NAME, sampler, STEPS, guidance, accel, own))


def task(of: OpenPlan, number: int = 0) -> Task:
    return Task(PROMPTS[number % len(PROMPTS)], "", of, seed=number, size=SIZE)


def tasks(family: LoadedFamily) -> list[Task]:
    """Whatever an edge can be asked of it, with every prompt."""
    asked: list[tuple[str, SamplerName, Accel]] = [
        ("edge/large", "ddim", "none"),
        (EDGE_ONLY, "dpmpp_2m", "propagate"),
        ("edge/small@0.3>edge/large", "euler", "propagate"),
        (RELAY, "dpmpp_2m", "none"),
        ("edge/large", "euler", "propagate"),
        (EDGE_ONLY, "ddim", "none"),
        ("edge/small", "dpmpp_2m", "none"),
        ("edge/large@0.5>device/large", "dpmpp_2m", "propagate"),
    ]
    return [task(plan(family, *of), number) for number, of in enumerate(asked)]


def drawn(family: LoadedFamily, of: Sequence[Task]) -> list[Listener]:
    return run_together(family, [work(f"r{number}", one) for number, one in enumerate(of)])


def test_requests_of_all_lengths_on_an_edge_each_end_as_if_alone(family: LoadedFamily) -> None:
    seen, of = Undecoded(family), tasks(family)
    shared = set()
    for one, listener in zip(of, drawn(seen, of), strict=True):
        outcome, stop = listener.outcome(), one.plan.stretch_end(0)
        assert isinstance(outcome, Drawn | HandedOff), outcome
        found = latent(outcome)
        alone = run_alone(family, one, stop).x.numpy()
        assert found.shape == (CHANNELS, SIZE.height // FACTOR, SIZE.width // FACTOR)
        assert np.linalg.norm(found - alone) <= 1e-5 * np.linalg.norm(alone)
        assert [step.step for step in outcome.executed] == list(range(stop))
        places = [one.plan.segment_at(step.step) for step in outcome.executed]
        assert [step.member for step in outcome.executed] == [place.member for place in places]
        assert {step.branches for step in outcome.executed} == {"positive"}
        shared |= {step.rows for step in outcome.executed}
    assert max(shared) > 2


def latent(outcome: Drawn | HandedOff) -> npt.NDArray[np.float32]:
    if isinstance(outcome, HandedOff):
        return decode_state(outcome.envelope).state.x
    shape = CHANNELS, SIZE.height // FACTOR, SIZE.width // FACTOR
    return outcome.picture.view(np.float32).reshape(shape)


def test_prompts_are_encoded_for_the_next_member_when_its_segment_begins(
    family: LoadedFamily,
) -> None:
    asked = [task(plan(family, arm), i) for i, arm in enumerate([EDGE_ONLY, "edge/large"])]
    family.profile("large")  # what a row takes is measured with a prompt, too
    models_of(family).encoded.clear()
    drawn(family, asked)
    assert models_of(family).encoded == [("large", 2), ("small", 1)]


def test_a_call_takes_requests_of_one_length_alone(family: LoadedFamily) -> None:
    of = plan(family, "edge/large", "ddim")
    listeners = drawn(family, [task(of, number) for number in range(4)])
    rows = [listener.outcome().executed[0].rows for listener in listeners]  # type: ignore[union-attr]
    assert rows == [2, 1, 2, 1]


def test_what_an_edge_drew_is_replayed_bit_for_bit(family: LoadedFamily) -> None:
    seen, of = Undecoded(family), tasks(family)
    for one, listener in zip(of, drawn(seen, of), strict=True):
        outcome = listener.outcome()
        if isinstance(outcome, Drawn):
            made = read_chunk(record(seen, one, outcome.executed).chunk())
            np.testing.assert_array_equal(replay_provenance(seen, made), outcome.picture)


def test_a_picture_is_as_wide_and_high_as_the_family_says(family: LoadedFamily) -> None:
    assert family.spec.default_size == SIZE
    (listener,) = drawn(family, [task(plan(family, "edge/small"))])
    outcome = listener.outcome()
    assert isinstance(outcome, Drawn)
    assert outcome.picture.shape == (SIZE.height, SIZE.width, 3)


@contextmanager
def holding(folder: Path, family: LoadedFamily, codec: str) -> Iterator[AsyncClient]:
    """A device that holds the family."""
    with device(folder, members="", codec=codec) as client:
        settings = client.settings.model_copy(update={"members": "small,large"})
        of = replace(client._device, spec=family.spec, loaded=family, settings=settings)
        client._device = of
        yield client


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("arm", [RELAY, DED, EDGE_ONLY, LEVELS])
async def test_a_relay_over_a_real_edge_is_replayed_bit_for_bit(
    family: LoadedFamily, folder: Path, codec: Codec, arm: str
) -> None:
    """Pictures of several lengths, drawn at once."""
    gate, asked = Gate(), dict(zip(SAMPLERS, PROMPTS, strict=False))
    options = {"arm": arm} | ({} if "*" in arm else {"steps": STEPS})
    async with edge(awkward_family(folder), gate) as node:
        with holding(folder, family, codec) as client:
            drawing = [
                client.generate(prompt, edge=node.address, sampler=sampler, seed=2, **options)
                for sampler, prompt in asked.items()
            ]
            together = asyncio.gather(*drawing)
            await until(lambda: gate.arrived)
            gate.lift()
            results = await together
    for result in results:
        check_relayed(family, result, arm, codec)


def check_relayed(family: LoadedFamily, result: Result, arm: str, codec: Codec) -> None:
    assert (result.arm_executed, result.notes) == (arm, ())
    assert result.task.size == SIZE
    check_executed(result.executed, result.task.plan)
    assert {step.branches for step in result.executed} == {"positive"}
    made = read_chunk(result.provenance.chunk())
    np.testing.assert_array_equal(replay_provenance(family, made), result.picture)
    alone = drawn_here(family, result.task)
    limit = {Codec.FP32: 1, Codec.FP16: 2, Codec.INT8: 16}[codec]
    assert np.abs(alone.astype(int) - result.picture).max() <= limit


def test_members_are_told_their_own_time_on_every_grid(family: LoadedFamily) -> None:
    course = family.course(plan(family, LEVELS))
    assert len(course.schedules) == 2
    assert all(0.0 <= time < 1.0 for time in course.timesteps)


def test_a_node_warms_up_with_every_member(family: LoadedFamily) -> None:
    warm_up(family)
    assert models_of(family).encoded == [("large", 1), ("small", 1)]


def test_one_member_alone_encodes_and_draws(folder: Path, family: LoadedFamily) -> None:
    alone = type(models_of(family))(family.spec.scheduler_config, ["small"])
    run = begin(LoadedFamily(family.spec, alone), task(plan(family, "device/small")))
    run_here(LoadedFamily(family.spec, alone), run, STEPS)
    assert LoadedFamily(family.spec, alone).encode_text("a cat").branches.keys() == {"positive"}
    assert alone.encoded == [("small", 1), ("small", 1)]


def test_two_branches_that_a_member_does_not_take_are_refused(family: LoadedFamily) -> None:
    of = expand(Arm.parse("edge/large"), Terms(NAME, "ddim", STEPS, Guidance(3.0)))
    fine = plan(family, "edge/large", "ddim")
    refused, beside = drawn(family, [task(of), task(fine, 2)])
    assert isinstance(refused.outcome(), Incompatible)
    assert isinstance(beside.outcome(), Drawn)


def test_a_profile_knows_the_pooled_vector_and_is_there_for_known_blocks(
    family: LoadedFamily,
) -> None:
    size = Size(48, 32)
    wide, usual = family.profile("large", size), family.profile("large")
    assert wide.nbytes[1] == 4 * usual.nbytes[1]
    assert wide.macs[0] == usual.macs[0] > 0
    assert family.row_bytes("small", size) == 0
    with pytest.raises(Incompatible, match="small"):
        family.profile("small")


def test_masked_steps_of_another_architecture_are_its_blocks(family: LoadedFamily) -> None:
    of = accelerated(plan(family, "device/large", "ddim"), "propagate")
    run = begin(family, task(of))
    executed = run_here(family, run, STEPS)
    whole = family.blocks("large").all
    assert executed[0].blocks == whole
    assert any(step.blocks == whole & ~family.blocks("large").encoder for step in executed)
    assert torch.isfinite(run.x).all()
