"""A device of another latent space: refused by the edge, and it refuses the edge's latent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.diffusion.denoiser import Denoiser
from baton.common.errors import Incompatible
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.latents import Codec, decode_state, encode_state
from tests.support.engines import Counter
from tests.support.foreign import PERMUTATION, SCALE, ForeignFamily, write_foreign
from tests.support.nodes import device, drawn_here, edge
from tests.support.tasks import PROMPTS, plan, run_alone, task


@pytest.fixture(scope="module")
def foreign_folder(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(family_folder, tmp_path_factory.mktemp("foreign") / "family")


async def test_the_platform_refuses_a_foreign_relay_before_any_model_work(
    family: LoadedFamily, foreign_folder: Path
) -> None:
    counter = Counter()
    async with edge(family, counter) as node:
        with device(foreign_folder, edges=node.address) as client:
            result = await client.generate(
                PROMPTS[0], arm="edge/large@0.5>device/small", steps=4, fallback=True
            )
    assert counter.calls == 0
    assert node.registry.counts.completed == 0
    assert any("latent space" in note for note in result.notes)
    assert result.steps_at("device") == 4  # alone, in its own space, and it says so


async def test_a_device_that_cannot_draw_alone_hears_why_it_was_refused(
    family: LoadedFamily, foreign_folder: Path
) -> None:
    async with edge(family) as node:
        with (
            device(foreign_folder, members="", edges=node.address) as client,
            pytest.raises(Incompatible, match="latent space"),
        ):
            await client.generate(PROMPTS[0], arm="edge/large", steps=4)


def test_a_latent_of_another_space_is_not_taken_over(
    family: LoadedFamily, foreign_folder: Path
) -> None:
    foreign = load_family(str(foreign_folder))
    assert foreign.fingerprint != family.fingerprint
    state = run_alone(family, task(plan(steps=4)), 2).state()
    envelope = encode_state(state, "r", family.fingerprint, Codec.FP32)
    with pytest.raises(Incompatible):
        decode_state(envelope, foreign.fingerprint)


def test_a_foreign_latent_decodes_to_the_same_picture_as_the_familys(
    family: LoadedFamily, foreign_folder: Path
) -> None:
    foreign = ForeignFamily(foreign_folder)
    x = torch.randn(family.latent_shape(16))
    picture = family.decode(x)
    same = foreign.decode(SCALE * x[list(PERMUTATION)])
    assert np.abs(picture.astype(int) - same.astype(int)).max() <= 1
    assert np.abs(picture.astype(int) - foreign.decode(x).astype(int)).max() > 20


@pytest.mark.parametrize("timestep", [1, 300, 800])
def test_a_foreign_member_predicts_what_the_member_does(
    family: LoadedFamily, foreign_folder: Path, timestep: int
) -> None:
    """Its x0, in its own space, is the member's for the same picture in the same share of noise."""
    foreign = ForeignFamily(foreign_folder)
    alpha_bars = DDIMScheduler.from_config(family.spec.scheduler_config).alphas_cumprod.double()
    snr = alpha_bars / (1 - alpha_bars)
    own = int((snr.log() - (SCALE**2 * snr[timestep]).log()).abs().argmin())
    x0, eps = torch.randn(2, 1, *family.latent_shape(16)).double()
    conditioning = stacked([family.encode_text(PROMPTS[0]).row("positive")])
    order = list(PERMUTATION)

    def predicted(member: Denoiser, clean: Tensor, noise: Tensor, t: int) -> Tensor:
        a, b = alpha_bars[t].sqrt(), (1 - alpha_bars[t]).sqrt()
        x = (a * clean + b * noise).float()
        return a * x - b * member(ModelInputs(x, torch.tensor([t]), conditioning))

    with torch.inference_mode():
        expected = predicted(family.denoiser("small"), x0, eps, own)
        clean, noise = SCALE * x0[:, order], eps[:, order]
        found = predicted(foreign.denoiser("small"), clean, noise, timestep)
    error = (found / SCALE - expected[:, order]).norm() / expected.norm()
    assert error < 0.02


def test_without_the_check_a_foreign_relay_draws_something_else(
    family: LoadedFamily, foreign_folder: Path
) -> None:
    foreign = ForeignFamily(foreign_folder)
    relayed = task(plan("edge/large@0.5>device/small", steps=6))
    state = run_alone(family, relayed, 3).state()
    ended = run_alone(foreign, relayed, 6, state)
    wrecked, whole = foreign.decode(ended.x), drawn_here(family, relayed)
    assert np.abs(wrecked.astype(int) - whole.astype(int)).mean() > 5
