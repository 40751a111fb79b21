"""Writes the trained family in diffusers' layout: shared parts once, one folder per member."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from common.families.manifest import MANIFEST_NAME, Manifest, Part, Propagated, Sizes, file_digest
from common.families.scenes.members import MEMBERS, build_scheduler, build_unet
from common.families.scenes.render import IMAGE_SIZE

#: From ``baton analyze``: as few key steps as keep the score, which is decided between the tenth
#: and the fortieth of 50 steps. The smaller members have little that is not encoder.
PROPAGATION = {
    "large": Propagated(
        keys=(0, 4, 8, 11, 13, 15, 17, 19, 21, 23, 25, 27, 30, 33, 36, 40, 45), steps=50
    ),
    "medium": Propagated(keys=tuple(range(0, 50, 2)), steps=50),
    "small": Propagated(
        keys=(0, 4, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 40, 43, 45, 47),
        steps=50,
    ),
}


def export_shared(
    out: Path, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Write what all members share; weights in fp16."""
    shared = out / "shared"
    _save_half(vae, shared / "vae")
    _save_half(text_encoder, shared / "text_encoder")
    tokenizer.save_pretrained(shared / "tokenizer")
    build_scheduler().save_pretrained(shared / "scheduler")


def export_member(out: Path, member: str, weights: dict[str, torch.Tensor]) -> None:
    """Write one member's denoiser in fp16."""
    unet = build_unet(member)
    unet.load_state_dict(weights)
    _save_half(unet, out / member / "unet")


def write_manifest(out: Path, guidance: float) -> None:
    """Write ``family.json`` over the members that are there, with the digests of their weights."""
    files = sorted(out.rglob("*.safetensors"))
    manifest = Manifest(
        name="scenes",
        description="Flat icons in named colours, sizes, counts and places on named backgrounds.",
        vae=Part(path="shared/vae"),
        text_encoder=Part(path="shared/text_encoder"),
        tokenizer=Part(path="shared/tokenizer"),
        scheduler=Part(path="shared/scheduler"),
        members={m: Part(path=f"{m}/unet") for m in MEMBERS if (out / m).is_dir()},
        sizes=Sizes(default=IMAGE_SIZE, minimum=16, maximum=128, multiple=16),
        default_steps=50,
        default_guidance=guidance,
        default_accel="propagate",
        save_scale=8,
        propagation={member: PROPAGATION[member] for member in MEMBERS if (out / member).is_dir()},
        digests={str(path.relative_to(out)): file_digest(path) for path in files},
    )
    text = manifest.model_dump_json(indent=2, exclude_defaults=True)
    (out / MANIFEST_NAME).write_text(text + "\n")


def _save_half(module: Any, folder: Path) -> None:
    dtype = next(module.parameters()).dtype
    module.half().save_pretrained(folder, safe_serialization=True)
    module.to(dtype)
