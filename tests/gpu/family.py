"""A family with random weights of Stable Diffusion 1.5's shapes, and a family moved to a GPU."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from baton.common.families.architectures.sd1 import models_of
from baton.common.families.loaded import LoadedFamily
from baton.common.families.manifest import (
    MANIFEST_NAME,
    Manifest,
    MemberPart,
    Part,
    Sizes,
    file_digest,
)
from baton.common.families.scenes.text import MAX_TOKENS, build_tokenizer
from baton.common.families.scenes.training.members import build_scheduler
from baton.common.families.scenes.worlds import FLAT

_WIDTH = 768
_CHANNELS = (320, 640, 1280, 1280)
_VAE_CHANNELS = (128, 256, 512, 512)


def write_sd15(folder: Path) -> Path:
    """860 million parameters of UNet, 84 of autoencoder, 85 and a small vocabulary of text."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(FLAT)
    tokenizer.save_pretrained(folder / "shared/tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        projection_dim=_WIDTH,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPTextModel(text).save_pretrained(folder / "shared/text_encoder")
    _vae().save_pretrained(folder / "shared/vae")
    build_scheduler().save_pretrained(folder / "shared/scheduler")
    _unet().save_pretrained(folder / "large/unet")
    _write_manifest(folder)
    return folder


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=_VAE_CHANNELS,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        scaling_factor=0.18215,
    )


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=_CHANNELS,
        layers_per_block=2,
        cross_attention_dim=_WIDTH,
        attention_head_dim=8,
    )


def _write_manifest(folder: Path) -> None:
    files = sorted(folder.rglob("*.safetensors"))
    manifest = Manifest(
        name="sd15-shapes",
        vae=Part(path="shared/vae"),
        text_encoder=Part(path="shared/text_encoder"),
        tokenizer=Part(path="shared/tokenizer"),
        scheduler=Part(path="shared/scheduler"),
        members={"large": MemberPart(path="large/unet")},
        sizes=Sizes(default=512, minimum=256, maximum=1024, multiple=64),
        default_guidance=7.5,
        digests={str(path.relative_to(folder)): file_digest(path) for path in files},
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(exclude_defaults=True))


def on_gpu(family: LoadedFamily) -> LoadedFamily:
    """The same, its models in half precision on the first GPU. Raises RuntimeError without one."""
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device is here; --toy tries the script on the CPU")
    models = models_of(family)
    for model in (models.vae, models.text_encoder, *models.unets.values()):
        model.to("cuda", torch.float16)
    return family
