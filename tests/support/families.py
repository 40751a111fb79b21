"""A tiny family with random weights, written in the layout of the built-in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from baton.common.families.manifest import (
    MANIFEST_NAME,
    Manifest,
    MemberPart,
    Part,
    Sizes,
    file_digest,
)
from baton.common.families.scenes.text import build_tokenizer
from baton.common.families.scenes.training.members import (
    LATENT_CHANNELS,
    TEXT_WIDTH,
    build_scheduler,
    build_text_encoder,
)
from baton.common.families.scenes.worlds import FLAT

NAME = "tiny"
MEMBERS = ("large", "small")
#: Side of a picture, pixels: the least that diffusers' pipeline accepts twice over.
SIZE = 16

_UNETS: dict[str, dict[str, Any]] = {
    "large": {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
    },
    "small": {
        "block_out_channels": (16, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": None,
    },
}


def write_family(folder: Path, seed: int = 0, digests: bool = True) -> Path:
    """Write the family to a new folder and return it; without digests, files can be altered."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(FLAT)
    tokenizer.save_pretrained(folder / "shared/tokenizer")
    build_text_encoder(tokenizer).save_pretrained(folder / "shared/text_encoder")
    _vae().save_pretrained(folder / "shared/vae")
    build_scheduler().save_pretrained(folder / "shared/scheduler")
    for member in MEMBERS:
        _unet(member).save_pretrained(folder / member / "unet")
    _write_manifest(folder, digests)
    return folder


def _unet(member: str) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        **_UNETS[member],
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=0.5,
        mid_block_add_attention=False,
    )


def _write_manifest(folder: Path, digests: bool) -> None:
    files = sorted(folder.rglob("*.safetensors")) if digests else []
    manifest = Manifest(
        name=NAME,
        vae=Part(path="shared/vae"),
        text_encoder=Part(path="shared/text_encoder"),
        tokenizer=Part(path="shared/tokenizer"),
        scheduler=Part(path="shared/scheduler"),
        members={member: MemberPart(path=f"{member}/unet") for member in MEMBERS},
        sizes=Sizes(default=SIZE, minimum=16, maximum=64, multiple=16),
        default_guidance=3.0,
        digests={str(path.relative_to(folder)): file_digest(path) for path in files},
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(exclude_defaults=True))


def copy_family(folder: Path, to: Path, digests: bool = True) -> Path:
    """A copy that a test may damage; without digests only the loaders can notice."""
    shutil.copytree(folder, to)
    if not digests:
        edit_json(to / MANIFEST_NAME, lambda manifest: manifest.pop("digests"))
    return to


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def flip_bit(path: Path, byte: int = -1) -> None:
    """Alter one bit of a file; the last byte of a safetensors file is a weight."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)
