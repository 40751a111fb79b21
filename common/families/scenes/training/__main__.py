"""``make train-scenes``: the whole family, resumable, each stage from its newest checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from common.families.loader import load_family
from common.families.manifest import BUILT_IN
from common.families.scenes.members import MEMBERS, build_text_encoder
from common.families.scenes.text import build_tokenizer
from common.families.scenes.training.card import write_card
from common.families.scenes.training.curves import draw_curves
from common.families.scenes.training.dataset import load_dataset
from common.families.scenes.training.denoiser import (
    DenoiserRecipe,
    denoiser_state,
    train_denoiser,
)
from common.families.scenes.training.export import export_member, export_shared, write_manifest
from common.families.scenes.training.vae import VaeRecipe, train_vae
from common.quiet import quiet_libraries

DEFAULT_STEPS = {"large": 7200, "medium": 4000, "small": 7000}
_GUIDANCE = 3.0

app = typer.Typer(add_completion=False)


@app.command()
def train(
    run_dir: Annotated[Path, typer.Option(help="Checkpoints and logs.")] = Path("runs/scenes"),
    member: Annotated[list[str] | None, typer.Option(help="Only these members.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per member.")] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = DenoiserRecipe.lr,
    scenes: Annotated[int, typer.Option(help="Scenes in the data set.")] = 110_000,
    vae_steps: Annotated[int, typer.Option(help="Steps of the autoencoder.")] = 3500,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser: minutes first, then faster.")
    ] = False,
) -> None:
    """Train what is not trained yet: autoencoder, data set, large with the text encoder, others."""
    run_dir.mkdir(parents=True, exist_ok=True)
    vae = _trained_vae(run_dir, vae_steps)
    tokenizer = _tokenizer(run_dir)
    data = load_dataset(run_dir / "data.pt", vae, tokenizer, scenes)
    torch.manual_seed(0)
    text_encoder = build_text_encoder(tokenizer)
    for name in member or MEMBERS:
        if name != "large":
            _load_text_encoder(run_dir, text_encoder)
        recipe = DenoiserRecipe(steps=steps or DEFAULT_STEPS[name], lr=lr, compile=compile_)
        train_denoiser(run_dir, name, text_encoder, data, recipe)


@app.command()
def restore(
    run_dir: Annotated[Path, typer.Option(help="Empty folder to fill.")] = Path("runs/scenes"),
    folder: Annotated[Path, typer.Option(help="Family to start from.")] = BUILT_IN["scenes"],
) -> None:
    """Lay a written family out as checkpoints at step 0, to train on from it."""
    if any((run_dir / f"{name}.pt").exists() for name in MEMBERS):
        raise typer.BadParameter(f"{run_dir} holds checkpoints already")
    family = load_family(str(folder))
    family.vae.save_pretrained(run_dir / "vae")
    family.tokenizer.save_pretrained(run_dir / "tokenizer")
    for name in family.members:
        unet = family.unets[name].requires_grad_(True)
        recipe = DenoiserRecipe(steps=1)
        denoiser_state(run_dir, name, unet, family.text_encoder, recipe).save(0)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Option(help="Checkpoints to read.")] = Path("runs/scenes"),
    out: Annotated[Path, typer.Option(help="Folder to write.")] = BUILT_IN["scenes"],
    guidance: Annotated[float, typer.Option(help="Default guidance scale.")] = _GUIDANCE,
) -> None:
    """Write the newest checkpoints' averaged weights as a family."""
    vae = AutoencoderKL.from_pretrained(run_dir / "vae", low_cpu_mem_usage=False)
    tokenizer = _tokenizer(run_dir)
    text_encoder = build_text_encoder(tokenizer)
    _load_text_encoder(run_dir, text_encoder)
    export_shared(out, vae, text_encoder, tokenizer)
    for name in MEMBERS:
        checkpoint = run_dir / f"{name}.pt"
        if checkpoint.exists():
            ema = torch.load(checkpoint, weights_only=True)["ema"]
            export_member(out, name, ema["unet"])
    write_manifest(out, guidance)
    typer.echo(f"wrote {out}")


@app.command()
def card(
    folder: Annotated[Path, typer.Option(help="Folder of the family.")] = BUILT_IN["scenes"],
    bench: Annotated[Path, typer.Option(help="Folder for scenes.json.")] = Path("bench"),
    count: Annotated[int, typer.Option(help="Prompts.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    run_dir: Annotated[Path, typer.Option(help="Logs for the learning curves.")] = Path(
        "runs/scenes"
    ),
) -> None:
    """Measure the family and write its card."""
    draw_curves(run_dir, MEMBERS, folder / "learning.png")
    write_card(folder, bench, count, seed)


def _trained_vae(run_dir: Path, steps: int) -> AutoencoderKL:
    folder = run_dir / "vae"
    if not folder.exists():
        train_vae(run_dir, VaeRecipe(steps=steps)).save_pretrained(folder)
    vae = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    return vae.eval().requires_grad_(False)


def _tokenizer(run_dir: Path) -> CLIPTokenizer:
    folder = run_dir / "tokenizer"
    if not folder.exists():
        build_tokenizer().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def _load_text_encoder(run_dir: Path, text_encoder: CLIPTextModel) -> None:
    """The text encoder that was trained with ``large``."""
    saved = torch.load(run_dir / "large.pt", weights_only=True)
    text_encoder.load_state_dict(saved["ema"]["text_encoder"])


if __name__ == "__main__":
    quiet_libraries()
    app()
