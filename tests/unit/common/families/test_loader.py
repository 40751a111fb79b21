"""Loading a family, whole or damaged, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest, UnknownName, WeightsError
from baton.common.expansion import Terms, expand
from baton.common.families.grids import LevelGrid
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.manifest import MANIFEST_NAME
from baton.common.families.scenes.text import MAX_TOKENS
from baton.common.plan import Guidance
from tests.support.conditionings import context
from tests.support.families import copy_family, edit_json, flip_bit
from tests.support.reference import plain_pipeline

UNET = "large/unet/diffusion_pytorch_model.safetensors"
VAE = "shared/vae/diffusion_pytorch_model.safetensors"
TEXT = "shared/text_encoder/model.safetensors"
SCHEDULER = "shared/scheduler/scheduler_config.json"


@pytest.fixture
def copy(family_folder: Path, tmp_path: Path) -> Path:
    return copy_family(family_folder, tmp_path / "family")


@pytest.fixture
def unchecked(family_folder: Path, tmp_path: Path) -> Path:
    """Without digests, as a family from elsewhere may be."""
    return copy_family(family_folder, tmp_path / "family", digests=False)


def refused(folder: Path, *named: str) -> str:
    with pytest.raises(WeightsError) as caught:
        load_family(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    for name in named:
        assert name in message
    return message


@pytest.mark.parametrize("name", [UNET, VAE, TEXT])
def test_a_flipped_bit_in_a_weight_is_refused_and_the_file_named(copy: Path, name: str) -> None:
    flip_bit(copy / name)
    assert "damaged" in refused(copy, name)


@pytest.mark.parametrize("name", [UNET, VAE, TEXT])
def test_a_missing_weight_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert "missing" in refused(copy, name)


@pytest.mark.parametrize("name", [UNET, TEXT])
def test_a_missing_weight_file_without_a_digest_is_named(unchecked: Path, name: str) -> None:
    (unchecked / name).unlink()
    assert "missing" in refused(unchecked, str(unchecked / name))


@pytest.mark.parametrize("part", ["large/unet", "shared/vae", "shared/tokenizer"])
def test_a_missing_folder_is_named(copy: Path, part: str) -> None:
    (copy / part).rename(copy / "elsewhere")
    assert "missing" in refused(copy, part)


@pytest.mark.parametrize(
    "damage", [lambda d: d[:100], lambda d: d[:-1], lambda d: b"", lambda d: b"\xff" * 64]
)
@pytest.mark.parametrize("name", [UNET, TEXT])
def test_a_weight_file_that_is_none_is_named(
    unchecked: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = unchecked / name
    path.write_bytes(damage(path.read_bytes()))
    refused(unchecked, str(path))


@pytest.mark.parametrize("name", [UNET, VAE, TEXT])
def test_weights_that_lack_a_tensor_are_refused_not_made_up(unchecked: Path, name: str) -> None:
    tensors = load_file(unchecked / name)
    del tensors[max(tensors)]
    save_file(tensors, unchecked / name, metadata={"format": "pt"})
    refused(unchecked, str((unchecked / name).parent))


@pytest.mark.parametrize("name", [UNET, VAE, TEXT])
def test_weights_of_another_shape_are_refused(unchecked: Path, name: str) -> None:
    tensors = load_file(unchecked / name)
    tensors[max(tensors)] = torch.zeros(3)
    save_file(tensors, unchecked / name, metadata={"format": "pt"})
    refused(unchecked, str((unchecked / name).parent))


@pytest.mark.parametrize("content", ["", "{", "[1]", "5", '{"_class_name": 3}'])
@pytest.mark.parametrize("part", ["large/unet/config.json", "shared/text_encoder/config.json"])
def test_a_damaged_configuration_names_its_folder(copy: Path, part: str, content: str) -> None:
    (copy / part).write_text(content)
    refused(copy, str((copy / part).parent))


@pytest.mark.parametrize("content", ["", "{", "[1]", "5"])
def test_a_damaged_scheduler_is_named(copy: Path, content: str) -> None:
    (copy / SCHEDULER).write_text(content)
    refused(copy, SCHEDULER)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("prediction_type", "flow_prediction"),
        ("thresholding", True),
        ("use_flow_sigmas", True),
        ("solver_order", 3),
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_an_option_that_no_sampler_honours_is_named_at_loading(
    copy: Path, option: str, value: object
) -> None:
    edit_json(copy / SCHEDULER, lambda config: config.update({option: value}))
    refused(copy, SCHEDULER, option)


@pytest.mark.parametrize(
    ("option", "value"), [("in_channels", 9), ("out_channels", 8), ("time_cond_proj_dim", 16)]
)
def test_a_member_that_does_not_map_latents_to_latents_is_refused(
    unchecked: Path, option: str, value: int
) -> None:
    folder = unchecked / "small/unet"
    edit_json(folder / "config.json", lambda config: config.update({option: value}))
    config = UNet2DConditionModel.load_config(folder)
    UNet2DConditionModel.from_config(config).save_pretrained(folder)
    refused(unchecked, "small", option)


def test_a_damaged_tokenizer_is_named(copy: Path) -> None:
    for path in (copy / "shared/tokenizer").iterdir():
        path.write_text("{")
    refused(copy, "shared/tokenizer")


def test_a_repository_that_cannot_be_is_refused_in_one_line(copy: Path) -> None:
    edit_json(copy / MANIFEST_NAME, lambda m: m.update(vae={"repo": "no/such/repo!"}))
    refused(copy, "no/such/repo!")


def test_only_the_members_asked_for_are_loaded(copy: Path) -> None:
    flip_bit(copy / UNET)
    family = load_family(str(copy), ["small"])
    assert family.members == ("small",)
    assert set(family.member_fingerprints) == {"small"}
    with pytest.raises(WeightsError, match="large"):
        family.denoiser("large")
    with pytest.raises(WeightsError, match="large"):
        family.pipeline("large")


def test_members_are_listed_from_the_largest(copy: Path) -> None:
    assert load_family(str(copy), ["small", "large"]).members == ("large", "small")


def test_a_named_grid_is_of_arms_that_say_their_steps_and_a_cut_at_a_level_of_the_others(
    copy: Path, family: LoadedFamily
) -> None:
    longer = family.schedule("ddim", 7)
    levels = [*longer.levels[:4], longer.levels[-1]]
    grid = LevelGrid("slow", "ddim", longer.timesteps[:4], tuple(levels))
    edit_json(copy / MANIFEST_NAME, lambda manifest: manifest.update(grids=[asdict(grid)]))
    slow = load_family(str(copy))
    terms = Terms(
        slow.name, "ddim", 4, Guidance(3.0), named=slow.spec.named_grids, ratios=slow.ratios
    )
    before, after = family.ratios("ddim", 4)[2:4]
    plan = expand(Arm.parse(f"edge/large@s{(before + after) / 2:.6f}>device/small"), terms)
    assert plan.grids[0].name == ""
    assert plan.segments[0].stop == 3
    assert slow.ratios("ddim", 4) == family.ratios("ddim", 4)
    named = expand(Arm.parse("edge/large*3>device/small*1"), terms)
    assert [grid.name for grid in named.grids] == ["slow"]
    assert slow.course(named).levels == tuple(levels)


def test_an_unknown_member_is_refused_at_loading_and_at_use(
    family_folder: Path, family: LoadedFamily
) -> None:
    with pytest.raises(UnknownName, match=r"'huge'.*large, small"):
        load_family(str(family_folder), ["huge"])
    with pytest.raises(UnknownName, match="huge"):
        family.denoiser("huge")


def test_fingerprints_agree_across_loads_and_tell_changed_weights(
    family: LoadedFamily, unchecked: Path
) -> None:
    same = load_family(str(unchecked))
    assert same.fingerprint == family.fingerprint
    assert same.member_fingerprints == family.member_fingerprints
    flip_bit(unchecked / UNET)
    other = load_family(str(unchecked))
    assert other.fingerprint == family.fingerprint
    assert other.member_fingerprints["large"] != family.member_fingerprints["large"]
    assert other.member_fingerprints["small"] == family.member_fingerprints["small"]
    flip_bit(unchecked / VAE)
    assert load_family(str(unchecked), []).fingerprint != family.fingerprint


@pytest.mark.parametrize("name", [TEXT, "shared/tokenizer/tokenizer_config.json"])
def test_a_members_fingerprint_covers_how_prompts_become_conditioning(
    family: LoadedFamily, unchecked: Path, name: str
) -> None:
    if name == TEXT:
        flip_bit(unchecked / name)
    else:
        edit_json(unchecked / name, lambda c: c.update(model_max_length=12))
    other = load_family(str(unchecked), ["small"])
    assert other.fingerprint == family.fingerprint
    assert other.member_fingerprints["small"] != family.member_fingerprints["small"]


@pytest.mark.parametrize("size", [0, 7, 24, 65536])
def test_a_latent_of_an_impossible_size_is_refused(family: LoadedFamily, size: int) -> None:
    with pytest.raises(InvalidRequest, match=str(size)):
        family.latent_shape(size)


def test_a_latent_is_a_quarter_of_the_picture(family: LoadedFamily) -> None:
    assert family.latent_shape(16) == (4, 4, 4)
    assert family.latent_shape(48) == (4, 12, 12)


@pytest.mark.parametrize(
    "prompt", ["", "a red cat", "zzz " * 500, "größer ≠ 猫 🐈", "\0\n\t", "<|endoftext|>"]
)
def test_any_prompt_becomes_one_context_of_fixed_length(family: LoadedFamily, prompt: str) -> None:
    conditioning = family.encode_text(prompt, "blurry")
    assert (
        context(conditioning).shape == context(conditioning, "negative").shape == (MAX_TOKENS, 128)
    )
    assert torch.isfinite(context(conditioning)).all()
    swapped = family.encode_text("blurry", prompt)
    torch.testing.assert_close(
        context(swapped, "negative"), context(conditioning), rtol=1e-4, atol=1e-5
    )


def test_a_prompt_is_encoded_as_the_plain_pipeline_does(family: LoadedFamily) -> None:
    positive, negative = plain_pipeline(family, "large").encode_prompt(
        "a red cat", "cpu", 1, True, negative_prompt="blurry"
    )
    ours = family.encode_text("a red cat", "blurry")
    torch.testing.assert_close(context(ours), positive[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(context(ours, "negative"), negative[0], rtol=1e-4, atol=1e-5)


def test_a_decoded_picture_is_that_of_the_plain_pipeline(family: LoadedFamily) -> None:
    x = torch.randn((4, 4, 8), generator=torch.Generator().manual_seed(0))
    picture = family.decode(x)
    assert (picture.shape, picture.dtype) == ((16, 32, 3), np.uint8)
    assert picture.flags.c_contiguous
    pipeline = plain_pipeline(family, "small")
    with torch.inference_mode():
        decoded = family.models.vae.decode(x[None] / family.models.vae.config.scaling_factor).sample
    (reference,) = pipeline.image_processor.postprocess(decoded, output_type="np")
    assert np.abs(picture / 255 - reference).max() <= 0.5001 / 255


def test_a_schedule_is_made_once(family: LoadedFamily) -> None:
    assert family.schedule("ddim", 10) is family.schedule("ddim", 10)
    for steps in (0, 10**9):
        with pytest.raises(InvalidRequest):
            family.schedule("ddim", steps)
