"""Measures the latent space of an autoencoder: what its encoder makes of a fixed picture."""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from baton.common.errors import WeightsError
from baton.common.latents.space import VECTOR_LENGTH, LatentSpace

_SIDE = 64  # pixels


@torch.inference_mode()
def latent_space_of(vae: AutoencoderKL) -> LatentSpace:
    """Of the scaled latent as members see it, values evenly spread over channels and places.

    The id has a bit for each value, set where it is above the one before: fine changes leave it as
    it is, unless two values are nearly equal. Raises WeightsError if the encoder yields NaN or
    infinite values.
    """
    config = vae.config
    mean = vae.encode(_probe()).latent_dist.mean
    latent = ((mean - (config.shift_factor or 0.0)) * config.scaling_factor).flatten()
    if not torch.isfinite(latent).all():
        raise WeightsError("the encoder yields NaN or infinite values; its weights may be damaged")
    places = torch.linspace(0, len(latent) - 1, VECTOR_LENGTH).round().long()
    values = latent[places]
    bits = "".join("1" if above else "0" for above in (values > values.roll(1)).tolist())
    vector = tuple(float(f"{value:.5g}") for value in values.tolist())
    return LatentSpace(f"{int(bits, 2):0{VECTOR_LENGTH // 4}x}", vector)


def _probe() -> Tensor:
    """[1, 3, H, W] in -1 to 1: waves of several lengths, as no generator's version changes them."""
    places = torch.arange(_SIDE) * (2 * math.pi / _SIDE)
    y, x = places[:, None], places[None, :]
    waves = [torch.sin(k * x + 2 * y) * torch.cos((5 - k) * y + k * k) for k in (1, 2, 3)]
    return torch.stack(waves)[None]
