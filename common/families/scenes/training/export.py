"""Writes the trained family in diffusers' layout: shared parts once, one folder per member."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from baton.common.families.latent_space import latent_space_of
from baton.common.families.manifest import (
    MANIFEST_NAME,
    Manifest,
    MemberPart,
    Part,
    Sizes,
    file_digest,
)
from baton.common.families.scenes.training.finisher import QUIET
from baton.common.families.scenes.training.loop import read_averages, read_position
from baton.common.families.scenes.training.members import (
    FINISHER,
    MEMBERS,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from baton.common.families.scenes.training.stages import STAGES, tokenizer_of, trained_vae
from baton.common.families.scenes.worlds import CELL, World
from baton.common.files import saving

#: What is told of the training beside the weights.
TRAINING_NAME = "training.json"


def export_family(run_dir: Path, out: Path, world: World, guidance: float) -> None:
    """Write the averages of whatever members a run has trained so far."""
    tokenizer = tokenizer_of(run_dir, world)
    text_encoder = build_text_encoder(tokenizer)
    text_encoder.load_state_dict(read_averages(run_dir / "large.safetensors", "text_encoder"))
    export_shared(out, trained_vae(run_dir, world), text_encoder, tokenizer)
    for member in (*MEMBERS, FINISHER):
        path = run_dir / f"{member}.safetensors"
        if path.exists():
            export_member(out, member, read_averages(path, "unet"), world)
    write_manifest(out, guidance, world)
    _write_training(run_dir, out)


def export_shared(
    out: Path, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Write what all members share; weights in fp16."""
    shared = out / "shared"
    save_half(vae, shared / "vae")
    save_half(text_encoder, shared / "text_encoder")
    tokenizer.save_pretrained(shared / "tokenizer")
    build_scheduler().save_pretrained(shared / "scheduler")


def export_member(out: Path, member: str, weights: dict[str, torch.Tensor], world: World) -> None:
    """Write one member's denoiser in fp16."""
    unet = build_unet(member, world)
    unet.load_state_dict(weights)
    save_half(unet, out / member / "unet")


def member_part(member: str) -> MemberPart:
    """How the manifest lists a member: the finisher takes one branch, at the levels it learned."""
    if member == FINISHER:
        return MemberPart(path=f"{member}/unet", guidance="none", levels=(0.0, QUIET[1]))
    return MemberPart(path=f"{member}/unet")


def write_manifest(out: Path, guidance: float, world: World) -> None:
    """Write ``family.json`` over the members that are there, with the digests of their weights."""
    files = sorted(out.rglob("*.safetensors"))
    multiple = CELL * 4  # two halvings of the latent
    manifest = Manifest(
        name="scenes",
        description="Icons in named colours, surfaces, sizes, counts and places on named"
        " backgrounds.",
        vae=Part(path="shared/vae"),
        text_encoder=Part(path="shared/text_encoder"),
        tokenizer=Part(path="shared/tokenizer"),
        scheduler=Part(path="shared/scheduler"),
        members={m: member_part(m) for m in (*MEMBERS, FINISHER) if (out / m).is_dir()},
        device_members=tuple(m for m in ("small", FINISHER) if (out / m).is_dir()),
        sizes=Sizes(
            default=world.image_size,
            minimum=2 * multiple,
            maximum=4 * world.image_size,
            multiple=multiple,
        ),
        default_steps=50,
        default_guidance=guidance,
        scorer="scenes",
        prompts="scenes",
        save_scale=4,
        latent_space=latent_space_of(AutoencoderKL.from_pretrained(out / "shared" / "vae").float()),
        digests={path.relative_to(out).as_posix(): file_digest(path) for path in files},
    )
    text = manifest.model_dump_json(indent=2, exclude_defaults=True)
    with saving(out / MANIFEST_NAME) as file:
        file.write(text.encode() + b"\n")


def _write_training(run_dir: Path, out: Path) -> None:
    positions = {stage: read_position(run_dir / f"{stage}.safetensors") for stage in STAGES}
    facts = {
        "stages": {stage: asdict(position) for stage, position in positions.items()},
    }
    with saving(out / TRAINING_NAME) as file:
        file.write(json.dumps(facts, indent=2).encode() + b"\n")


def save_half(module: Any, folder: Path) -> None:
    """Write a module in fp16."""
    dtype = next(module.parameters()).dtype
    module.half().save_pretrained(folder, safe_serialization=True)
    module.to(dtype)
