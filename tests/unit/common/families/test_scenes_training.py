"""The training command at toy size: it resumes exactly, and what it exports can be loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from common.families.loader import load_family
from common.families.scenes.grammar import parse_prompt
from common.families.scenes.icons import BACKGROUNDS, COLORS, ICONS, SIZES
from common.families.scenes.members import build_text_encoder, build_unet
from common.families.scenes.render import PlacedIcon, Scene
from common.families.scenes.text import build_tokenizer
from common.families.scenes.training.__main__ import restore
from common.families.scenes.training.dataset import LatentDataset, load_dataset, tokenize
from common.families.scenes.training.denoiser import DenoiserRecipe, train_denoiser
from common.families.scenes.training.export import export_member, export_shared, write_manifest
from common.families.scenes.training.grounding import Grounding
from common.families.scenes.training.layout import LayoutHead, layout
from common.families.scenes.training.meaning import MeaningHeads, meaning, train_meaning
from common.families.scenes.training.vae import VaeRecipe, build_vae, psnr, train_vae
from common.families.scenes.training.vae import batch_of_pictures as pictures_for


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


@pytest.fixture(scope="module")
def data(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    torch.manual_seed(0)
    vae = build_vae().eval().requires_grad_(False)
    return load_dataset(tmp_path_factory.mktemp("data") / "data.pt", vae, tokenizer, 12)


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(1)
    return build_text_encoder(tokenizer)


def weights_of(run_dir: Path, member: str) -> dict[str, torch.Tensor]:
    saved = torch.load(run_dir / f"{member}.pt", weights_only=True)
    return {
        f"{kind}/{part}/{key}": value
        for kind in ("modules", "ema")
        for part, state in saved[kind].items()
        for key, value in state.items()
    }


def test_training_in_two_goes_equals_training_in_one(
    tokenizer: CLIPTokenizer, data: LatentDataset, tmp_path: Path
) -> None:
    recipe = DenoiserRecipe(steps=4, batch=2)
    train_denoiser(tmp_path / "one", "small", text_encoder(tokenizer), data, recipe)
    train_denoiser(tmp_path / "two", "small", text_encoder(tokenizer), data, recipe, stop_after=2)
    train_denoiser(tmp_path / "two", "small", text_encoder(tokenizer), data, recipe)
    one, two = weights_of(tmp_path / "one", "small"), weights_of(tmp_path / "two", "small")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_large_trains_the_text_encoder_and_the_others_leave_it_alone(
    tokenizer: CLIPTokenizer, data: LatentDataset, tmp_path: Path
) -> None:
    recipe = DenoiserRecipe(steps=1, batch=2, meaning_steps=2)
    untouched = text_encoder(tokenizer).state_dict()
    for member, learns in (("large", True), ("small", False)):
        encoder = text_encoder(tokenizer)
        train_denoiser(tmp_path, member, encoder, data, recipe)
        moved = any(
            not torch.equal(value, untouched[key]) for key, value in encoder.state_dict().items()
        )
        assert moved is learns


def test_a_data_set_holds_each_scene_with_its_prompt_and_can_drop_prompts(
    tokenizer: CLIPTokenizer, data: LatentDataset
) -> None:
    assert data.latents.shape == (12, 4, 8, 8)
    latents, tokens = data.batch(torch.tensor([0, 1]), torch.tensor([True, False]))
    assert latents.dtype == torch.float32
    assert torch.equal(tokens[0], tokenize(tokenizer, [""])[0])
    assert torch.equal(tokens[1], data.tokens[1])


def test_a_meaning_tells_objects_apart_and_where_they_stand() -> None:
    two = meaning(parse_prompt("a small red cat left of a fish on a fog background"))
    icons, colors, sizes = list(ICONS), list(COLORS), list(SIZES)
    assert two[0] == 1 + icons.index("cat")
    assert two[1] == 1 + colors.index("red")
    assert two[2] == 1 + sizes.index("small")
    assert two[5:8] == [1 + icons.index("fish"), 0, 0]
    assert (two[4], two[9]) == (1, 2)  # left of, right of
    assert two[10] == 1 + list(BACKGROUNDS).index("fog")
    assert meaning(parse_prompt("three fish"))[3:] == [3, 0, 0, 0, 0, 0, 0, 0]


def test_a_layout_names_the_icon_and_the_colour_of_every_cell() -> None:
    scene = Scene("fog", (PlacedIcon("cat", "red", "small", x=4, y=0),))
    icons, colors = layout(scene)
    assert icons.sum() == 9 * (1 + list(ICONS).index("cat"))
    assert (icons[0:3, 1:4] > 0).all()
    ground = list(BACKGROUNDS).index("fog")
    red = len(BACKGROUNDS) + list(COLORS).index("red")
    assert set(colors[icons > 0]) == {red}
    assert set(colors[icons == 0]) == {ground}


def test_a_layout_is_learnt_from_the_features_of_the_newest_batch(data: LatentDataset) -> None:
    torch.manual_seed(0)
    unet = build_unet("small")
    head = LayoutHead(unet)
    optimizer = torch.optim.AdamW([*unet.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(40):
        unet(data.latents.float(), torch.zeros(12), torch.zeros(12, 24, 128))
        loss = head(data.layouts.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_cells_learn_which_of_two_objects_they_are_drawn_from() -> None:
    torch.manual_seed(0)
    unet = build_unet("small")
    grounding = Grounding(unet)
    cat, fish = (1 + list(ICONS).index(name) for name in ("cat", "fish"))
    layouts = torch.zeros(2, 2, 8, 8, dtype=torch.long)
    layouts[0, 0, :, :4], layouts[0, 0, :, 4:] = cat, fish
    layouts[1, 0, :, :4], layouts[1, 0, :, 4:] = fish, cat
    meanings = torch.zeros(2, 11, dtype=torch.long)
    meanings[:, 0], meanings[:, 5] = cat, fish
    context = torch.randn(2, 24, 128)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        unet(torch.zeros(2, 4, 8, 8), torch.zeros(2), context)
        loss = grounding.loss(layouts, meanings, torch.tensor([True, True]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    nobody = grounding.loss(layouts, meanings, torch.tensor([False, False]))
    assert nobody.item() == 0.0


def test_the_text_encoder_learns_what_prompts_mean(
    tokenizer: CLIPTokenizer, data: LatentDataset
) -> None:
    encoder = text_encoder(tokenizer)
    heads = MeaningHeads(encoder.config.hidden_size)

    @torch.inference_mode()
    def loss() -> float:
        return heads(encoder(data.tokens)[0], data.meanings)[0].item()

    before = loss()
    train_meaning(encoder, heads, data.tokens, data.meanings, steps=10, batch=8)
    assert loss() < 0.7 * before


def test_every_prompt_leaves_the_positions_that_are_read_to_padding(
    tokenizer: CLIPTokenizer,
) -> None:
    longest = "a photo of a large orange square right of a small yellow triangle on a forest"
    tokens = tokenize(tokenizer, [f"{longest} background"])[0]
    assert (tokens[-5:] == tokenizer.pad_token_id).all()


def test_an_exported_family_loads_and_gives_a_plain_pipeline(
    tokenizer: CLIPTokenizer, data: LatentDataset, tmp_path: Path
) -> None:
    encoder = text_encoder(tokenizer)
    unet = train_denoiser(tmp_path, "small", encoder, data, DenoiserRecipe(steps=1, batch=2))
    out = tmp_path / "family"
    export_shared(out, build_vae(), encoder, tokenizer)
    export_member(out, "small", unet.state_dict())
    write_manifest(out, guidance=3.0)
    family = load_family(str(out))
    assert family.members == ("small",)
    pipe = family.pipeline("small")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red cat", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (32, 32, 3)


def test_the_autoencoder_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pictures = pictures_for(np.random.default_rng(0), 8)
    before = psnr(build_vae(), pictures)
    vae = train_vae(tmp_path, VaeRecipe(steps=30, batch=8))
    assert psnr(vae, pictures) > before + 3
    assert vae.config.scaling_factor != build_vae().config.scaling_factor


def test_a_written_family_can_be_trained_on(
    tokenizer: CLIPTokenizer, data: LatentDataset, tmp_path: Path
) -> None:
    encoder = text_encoder(tokenizer)
    unet = train_denoiser(tmp_path, "small", encoder, data, DenoiserRecipe(steps=1, batch=2))
    family, runs = tmp_path / "family", tmp_path / "again"
    export_shared(family, build_vae(), encoder, tokenizer)
    export_member(family, "small", unet.state_dict())
    write_manifest(family, guidance=3.0)
    restore(runs, family)
    saved = torch.load(runs / "small.pt", weights_only=True)
    assert saved["step"] == 0
    for kind in ("modules", "ema"):
        for key, value in saved[kind]["unet"].items():
            assert torch.equal(value, unet.state_dict()[key].half().float())
    train_denoiser(runs, "small", encoder, data, DenoiserRecipe(steps=1, batch=2))
