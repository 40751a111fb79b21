"""Numbers that are none never pass for a picture or a latent, whoever computed them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from baton.common.accel.mask_settings import Settings
from baton.common.diffusion.run import resume_run
from baton.common.errors import ExecutionFailed, Incompatible
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import LatentState, NoiseLevel
from baton.common.request import GenerationRequest
from baton.common.tooling.analysis import AnalyzeRequest
from baton.common.tooling.mask_request import MaskRequest
from baton.device_client.cli import generating
from baton.device_client.cli.analyzing import analyze
from baton.device_client.cli.mask_training import train_masks
from baton.device_client.replaying import replay
from baton.device_client.settings import DeviceSettings
from baton.edge_server.daemon import running
from baton.edge_server.settings import EdgeSettings
from tests.support.families import copy_family
from tests.support.lying import (
    CUT,
    PROMPT,
    STEPS,
    Liar,
    Scripted,
    accepted,
    handoff,
)
from tests.support.nodes import check_executed, device, drawn_here, edge
from tests.support.replays import drawn, saved
from tests.support.servers import serving
from tests.support.spoilt import Spoilt, spoil_decoder, spoil_member
from tests.support.tasks import plan, run_alone, task

EVERY = 2
INFINITE = float("inf")


@pytest.mark.parametrize("value", [float("nan"), INFINITE, -INFINITE])
def test_what_the_decoder_makes_must_be_finite(family: LoadedFamily, value: float) -> None:
    x = torch.zeros(family.latent_shape(16))
    assert family.decode(x).shape == (16, 16, 3)
    with pytest.raises(ExecutionFailed, match="decoder") as caught:
        Spoilt(family, value=value).decode(x)
    assert caught.value.exit_code == 5


def test_a_prompt_that_is_encoded_as_no_numbers_draws_nothing(family: LoadedFamily) -> None:
    with pytest.raises(ExecutionFailed, match="finite"):
        run_alone(Spoilt(family, "text_encoder"), task(), 1)


def test_what_a_member_makes_of_no_numbers_is_neither_analyzed_nor_trained_on(
    family_folder: Path, tmp_path: Path
) -> None:
    folder = str(copy_family(family_folder, tmp_path / "family", digests=False))
    spoil_member(folder, "small")
    settings, out = DeviceSettings(family=folder), tmp_path / "out.json"
    asked = AnalyzeRequest("small", "ddim", 3, None, None, 1, 0, None, out)
    with pytest.raises(ExecutionFailed):
        analyze(settings, asked, as_json=True)
    wanted = MaskRequest(folder, "small", "ddim", 3, 1, None, "blocks", out)
    with pytest.raises(ExecutionFailed):
        train_masks(wanted, Settings(iterations=1), as_json=True, threads=1)
    assert not out.exists()


async def test_the_next_edge_decodes_what_one_cannot(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with edge(Spoilt(family), node_id="blind") as blind, edge(family) as good:
        edges = f"{blind.address},{good.address}"
        asked = {"arm": "edge/large", "steps": 5, "fallback": False}
        with device(family_folder, checkpoint_every=EVERY) as client:
            result = await client.generate(PROMPT, edge=edges, **asked)
            with pytest.raises(ExecutionFailed, match="decoder"):
                await client.generate(PROMPT, edge=blind.address, **asked)
            alone = await client.generate(PROMPT, edge=blind.address, arm="edge/small", steps=5)
        assert blind.registry.counts.failed == 3
    whole = task(plan("edge/large", 5), PROMPT)
    np.testing.assert_array_equal(result.picture, drawn_here(family, whole))
    assert [attempt.error for attempt in result.attempts] == ["INTERNAL", ""]
    kept = result.attempts[0].stop
    assert [step.node_id for step in result.executed] == ["blind"] * kept + ["edge-test"] * (
        5 - kept
    )
    assert alone.executed[-1].location == "device"
    small = task(plan("device/small", 5), PROMPT)
    np.testing.assert_array_equal(alone.picture, drawn_here(family, small))


@pytest.fixture
def blind_folder(family_folder: Path, tmp_path: Path) -> Path:
    folder = copy_family(family_folder, tmp_path / "blind", digests=False)
    spoil_decoder(str(folder))
    return folder


def test_a_device_that_cannot_decode_writes_no_file(blind_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures" / "a.png"
    first = GenerationRequest(PROMPT, steps=2, arm="device", seed=1)
    settings = DeviceSettings(family=str(blind_folder), members="small")
    request = generating.Request(first, count=1, out=out, metadata=True)
    with pytest.raises(ExecutionFailed, match="decoder"):
        generating.generate(settings, request, as_json=False)
    assert not out.exists()


def test_an_edge_that_cannot_decode_does_not_serve(blind_folder: Path) -> None:
    async def start() -> None:
        async with running(EdgeSettings(port=0, family=str(blind_folder))):
            raise AssertionError("it serves")

    with pytest.raises(ExecutionFailed, match="decoder"):
        asyncio.run(start())


def test_a_replay_that_cannot_decode_says_so(family: LoadedFamily, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", *drawn(family))
    with pytest.raises(ExecutionFailed, match="decoder"):
        replay(path, Spoilt(family))


async def test_a_latent_with_which_nothing_can_be_drawn_is_left_for_a_picture_of_its_own(
    family: LoadedFamily, family_folder: Path
) -> None:
    """Finite and of the right level, and still no number comes of it."""
    liar = Liar(family)
    vast = np.full(family.latent_shape(16), 3e38, np.float32)
    state = liar.state()
    poison = LatentState(vast, state.level, CUT, STEPS, state.sampler)
    script = Scripted(lambda ask: [accepted(), handoff(liar.envelope(ask, poison))])
    asked = {"arm": "edge/large@0.5>device/small", "steps": STEPS}
    async with serving(script) as address:
        with device(family_folder, edges=address) as client:
            result = await client.generate(PROMPT, **asked)
            with pytest.raises(ExecutionFailed, match="finite"):
                await client.generate(PROMPT, fallback=False, **asked)
    check_executed(result.executed, plan("device/small", STEPS))
    alone = task(plan("device/small", STEPS), PROMPT)
    np.testing.assert_array_equal(result.picture, drawn_here(family, alone))
    assert (result.arm_executed, result.provenance.transfers) == ("device/small", ())
    assert [(a.start, a.stop, a.error) for a in result.attempts] == [(0, 0, "INTERNAL")]
    assert "of no use" in result.notes[0]


def test_a_latent_that_is_infinite_at_its_own_level_is_not_resumed(family: LoadedFamily) -> None:
    of = task(plan("device/small", STEPS))
    state = run_alone(family, of, 1).state()
    tiny = NoiseLevel(state.level.a * 1e-44, state.level.b * 1e-44)
    poison = LatentState(state.x + 1e3, tiny, 1, STEPS, state.sampler)
    closed = of.plan.closed()
    with pytest.raises(Incompatible, match="finite"):
        resume_run(closed, family.course(closed), family.encode_text(PROMPT), poison, 0)
