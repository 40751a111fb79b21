"""What each stage of the training learns at toy size, and from what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from baton.common.families.scenes.grammar import parse_prompt
from baton.common.families.scenes.icons import ICONS, stamp
from baton.common.families.scenes.render import PlacedIcon, Scene
from baton.common.families.scenes.text import MAX_TOKENS, build_tokenizer
from baton.common.families.scenes.training.dataset import LatentDataset, load_dataset, tokenize
from baton.common.families.scenes.training.denoiser import Text, train_denoiser
from baton.common.families.scenes.training.grounding import Grounding
from baton.common.families.scenes.training.layout import LayoutHead, layout
from baton.common.families.scenes.training.loop import (
    Allowance,
    Optimisation,
)
from baton.common.families.scenes.training.meaning import (
    FACTS,
    MeaningHeads,
    meaning,
    train_meaning,
)
from baton.common.families.scenes.training.members import build_text_encoder, build_unet
from baton.common.families.scenes.training.vae import batch_of_pictures, build_vae, psnr, train_vae
from baton.common.families.scenes.worlds import DETAIL
from tests.support.training import CPU, checkpoint

BRIEF = Optimisation(lr=3e-3, batch=8, warmup=2, ema_decay=0.5)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(DETAIL)


@pytest.fixture(scope="module")
def data(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    torch.manual_seed(0)
    vae = build_vae(DETAIL).eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("data") / "data.pt"
    return load_dataset(path, DETAIL, (vae, tokenizer), CPU, 12)


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(1)
    return build_text_encoder(tokenizer)


@pytest.mark.parametrize("member", ["large", "small"])
def test_only_large_trains_the_text_encoder(
    tokenizer: CLIPTokenizer, data: LatentDataset, tmp_path: Path, member: str
) -> None:
    untouched = text_encoder(tokenizer).state_dict()
    encoder = text_encoder(tokenizer)
    heads = MeaningHeads(encoder.config.hidden_size, DETAIL) if member == "large" else None
    train_denoiser(tmp_path, member, Text(encoder, heads), data, CPU, Allowance(steps=1), DETAIL)
    moved = any(
        not torch.equal(value, untouched[key]) for key, value in encoder.state_dict().items()
    )
    assert moved is (member == "large")


def test_a_denoiser_that_is_interrupted_ends_bit_for_bit_alike(
    tokenizer: CLIPTokenizer, data: LatentDataset, tmp_path: Path
) -> None:
    text = Text(text_encoder(tokenizer))
    for folder, stops in (("one", [None]), ("two", [2, None])):
        for stop in stops:
            allowance = Allowance(steps=3, stop_after=stop)
            train_denoiser(tmp_path / folder, "small", text, data, CPU, allowance, DETAIL)
    one, two = checkpoint(tmp_path / "one", "small"), checkpoint(tmp_path / "two", "small")
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_data_set_holds_each_scene_with_its_prompt_and_can_drop_prompts(
    tokenizer: CLIPTokenizer, data: LatentDataset
) -> None:
    assert data.latents.shape == (12, 4, 16, 16)
    latents, tokens = data.batch(torch.tensor([0, 1]), torch.tensor([True, False]))
    assert latents.dtype == torch.float32
    assert torch.equal(tokens[0], tokenize(tokenizer, [""])[0])
    assert torch.equal(tokens[1], data.tokens[1].long())


def test_a_meaning_tells_objects_apart_and_where_they_stand() -> None:
    prompt = "a small red cat left of a dotted fish on a fog background"
    two = meaning(parse_prompt(prompt, DETAIL), DETAIL)
    assert len(two) == FACTS
    assert two[:4] == [
        1 + ICONS.index("cat"),
        1 + list(DETAIL.colors).index("red"),
        1 + list(DETAIL.sizes).index("small"),
        0,
    ]
    assert two[6:10] == [1 + ICONS.index("fish"), 0, 0, 1 + DETAIL.surfaces.index("dotted")]
    assert (two[5], two[11]) == (1, 2)  # left of, right of
    assert two[12] == 1 + list(DETAIL.backgrounds).index("fog")
    assert meaning(parse_prompt("three fish", DETAIL), DETAIL)[4:] == [3, *[0] * 8]


def test_a_layout_names_icon_colour_and_surface_of_the_cells_that_an_icon_covers() -> None:
    placed = PlacedIcon("square", "red", "large", x=5, y=2, surface="striped")
    icons, colors, surfaces = layout(Scene("fog", (placed,)), DETAIL)
    canvas = np.zeros((64, 64))
    canvas[2:28, 5:31] = stamp(DETAIL, "square", "large").body
    covered = canvas.reshape(16, 4, 16, 4).mean(axis=(1, 3)) >= 0.4
    assert np.array_equal(icons == 1 + ICONS.index("square"), covered)
    assert np.array_equal(surfaces == 1 + DETAIL.surfaces.index("striped"), covered)
    ground, red = (list(names) for names in (DETAIL.backgrounds, DETAIL.colors))
    assert set(colors[~covered]) == {ground.index("fog")}
    assert set(colors[covered]) == {len(ground) + red.index("red")}


def falls(
    loss: Callable[[], torch.Tensor], parameters: list[nn.Parameter], steps: int
) -> tuple[float, float]:
    """The first and the last loss of a few steps of training."""
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses[0], losses[-1]


def test_a_layout_is_learnt_from_the_features_of_the_newest_batch(data: LatentDataset) -> None:
    torch.manual_seed(0)
    unet = build_unet("small")
    head = LayoutHead(unet, DETAIL)

    def loss() -> torch.Tensor:
        unet(data.latents.float(), torch.zeros(12), torch.zeros(12, MAX_TOKENS, 128))
        value: torch.Tensor = head(data.layouts.long())
        return value

    first, last = falls(loss, [*unet.parameters(), *head.parameters()], 20)
    assert last < 0.6 * first


def test_cells_learn_which_of_two_objects_they_are_drawn_from() -> None:
    torch.manual_seed(0)
    unet = build_unet("small")
    grounding = Grounding(unet)
    cat, fish = (1 + ICONS.index(name) for name in ("cat", "fish"))
    layouts = torch.zeros(2, 3, 16, 16, dtype=torch.long)
    layouts[0, 0, :, :8], layouts[0, 0, :, 8:] = cat, fish
    layouts[1, 0, :, :8], layouts[1, 0, :, 8:] = fish, cat
    meanings = torch.zeros(2, FACTS, dtype=torch.long)
    meanings[:, 0], meanings[:, 6] = cat, fish
    context = torch.randn(2, MAX_TOKENS, 128)

    def loss() -> torch.Tensor:
        unet(torch.zeros(2, 4, 16, 16), torch.zeros(2), context)
        return grounding.loss(layouts, meanings, torch.tensor([True, True]))

    first, last = falls(loss, list(unet.parameters()), 40)
    assert last < 0.5 * first
    nobody = grounding.loss(layouts, meanings, torch.tensor([False, False]))
    assert nobody.item() == 0.0


def test_the_text_encoder_learns_what_prompts_mean(
    tokenizer: CLIPTokenizer, data: LatentDataset, tmp_path: Path
) -> None:
    encoder = text_encoder(tokenizer)
    heads = MeaningHeads(encoder.config.hidden_size, DETAIL)

    @torch.inference_mode()
    def loss() -> float:
        return float(heads(encoder(data.tokens.long())[0], data.meanings.long())[0])

    before = loss()
    columns = data.tokens, data.meanings
    train_meaning(tmp_path, (encoder, heads), columns, CPU, Allowance(steps=12), BRIEF)
    assert loss() < 0.8 * before


def test_every_prompt_leaves_the_positions_that_are_read_to_padding(
    tokenizer: CLIPTokenizer,
) -> None:
    longest = "a photo of a large striped orange square right of a small dotted yellow triangle"
    tokens = tokenize(tokenizer, [f"{longest} on a forest background"])[0]
    assert (tokens[-5:] == tokenizer.pad_token_id).all()


def test_the_autoencoder_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pictures = batch_of_pictures(DETAIL, np.random.default_rng(0), 8)
    before = psnr(build_vae(DETAIL), pictures)
    stored = ((pictures + 1) * 127.5).round().to(torch.uint8)
    vae = train_vae(tmp_path, DETAIL, CPU, stored, Allowance(steps=20), BRIEF)
    assert psnr(vae, pictures) > before + 2
