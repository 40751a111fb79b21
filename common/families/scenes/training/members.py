"""Architectures of the family's text encoder and members.

``medium`` has half the layers of ``large``, and ``small`` is narrower and without a middle block,
as in BK-SDM (Kim et al. 2023). At the full 16 x 16 cells all of them are thin and without
attention, so that a step stays cheap. ``finisher`` is ``small`` trained for the quiet end, without
guidance. All predict v and take the pooled text through the UNet's own text-time embedding, which a
plain diffusers pipeline feeds by itself.
"""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from baton.common.families.scenes.text import MAX_TOKENS
from baton.common.families.scenes.worlds import DETAIL, World

TEXT_WIDTH = 128
LATENT_CHANNELS = 4

_DOWN, _CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
_UP, _CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"

_MEMBERS: dict[str, dict[str, Any]] = {
    "large": {
        "block_out_channels": (48, 96, 128),
        "layers_per_block": 2,
        "down_block_types": (_DOWN, _CROSS_DOWN, _CROSS_DOWN),
        "up_block_types": (_CROSS_UP, _CROSS_UP, _UP),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
    },
    "medium": {
        "block_out_channels": (32, 64, 96),
        "layers_per_block": 1,
        "down_block_types": (_DOWN, _CROSS_DOWN, _CROSS_DOWN),
        "up_block_types": (_CROSS_UP, _CROSS_UP, _UP),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
    },
    "small": {
        "block_out_channels": (16, 48, 64),
        "layers_per_block": 1,
        "down_block_types": (_DOWN, _DOWN, _CROSS_DOWN),
        "up_block_types": (_CROSS_UP, _UP, _UP),
        "mid_block_type": None,
    },
}

#: Draws no picture alone.
FINISHER = "finisher"
MEMBERS: tuple[str, ...] = tuple(_MEMBERS)


def build_unet(member: str, world: World = DETAIL) -> UNet2DConditionModel:
    """An untrained denoiser. Raises KeyError for an unknown member."""
    architecture = _MEMBERS["small" if member == FINISHER else member]
    return UNet2DConditionModel(
        sample_size=world.latent_size,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        **architecture,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder over the family's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """The family's noise schedule: from almost pure noise to a clean final level."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
