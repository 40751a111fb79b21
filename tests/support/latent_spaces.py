"""Changes to a family's folder without digests, which do or do not make another latent space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.families import edit_json

_VAE = "shared/vae/diffusion_pytorch_model.safetensors"
_SCHEDULER = "shared/scheduler/scheduler_config.json"


def stored_in_fp16(folder: Path) -> None:
    """The same autoencoder in a file of half the size."""
    _change(folder, lambda name, weight: weight.half())


def another_decoder(folder: Path) -> None:
    """As if the decoder had been trained on."""
    _change(folder, lambda name, weight: 1.01 * weight if name.startswith("decoder") else weight)


def another_spacing(folder: Path) -> None:
    """Of timesteps, so that the grids of equally many steps differ."""
    edit_json(folder / _SCHEDULER, lambda config: config.update(timestep_spacing="leading"))


def another_vae(folder: Path) -> None:
    """Of the same shape."""
    generator = torch.Generator().manual_seed(1)

    def drawn(name: str, weight: Tensor) -> Tensor:
        same = weight.dim() < 2  # norms and biases
        return weight if same else weight.std() * torch.randn(weight.shape, generator=generator)

    _change(folder, drawn)


def _change(folder: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    weights = {name: change(name, weight) for name, weight in load_file(folder / _VAE).items()}
    save_file(weights, folder / _VAE, metadata={"format": "pt"})
