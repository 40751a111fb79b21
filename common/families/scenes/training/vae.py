"""Training of the family's autoencoder.

Trained on *dense* scenes (icons anywhere, overlapping), so that it learns every edge in every
colour; noise is added to the latents, so that the decoder forgives a denoiser's small errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from common.families.scenes import render
from common.families.scenes.grammar import sample_spec
from common.families.scenes.icons import BACKGROUNDS, COLORS, ICONS, SIZES
from common.families.scenes.training.loop import TrainState, cosine_lr

_DENSE_SHARE = 0.7


@dataclass(frozen=True)
class VaeRecipe:
    steps: int = 4000
    batch: int = 32
    lr: float = 2e-3
    l1: float = 0.2
    kl: float = 1e-5
    latent_noise: float = 0.25
    seed: int = 0


def build_vae() -> AutoencoderKL:
    """f4, 4 channels, no attention: a latent cell depends on its neighbourhood alone."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=render.IMAGE_SIZE,
        mid_block_add_attention=False,
    )


def dense_scene(rng: np.random.Generator) -> render.Scene:
    """One to four icons anywhere on the cell grid."""
    icons = []
    for _ in range(rng.integers(1, 5)):
        size = list(SIZES)[rng.integers(2)]
        span = (render.IMAGE_SIZE - SIZES[size]) // render.CELL + 1
        x, y = (int(v) * render.CELL for v in rng.integers(span, size=2))
        color = list(COLORS)[rng.integers(len(COLORS))]
        icons.append(render.PlacedIcon(ICONS[rng.integers(len(ICONS))], color, size, x, y))
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    return render.Scene(background, tuple(icons))


def batch_of_pictures(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Pictures to learn from, float32 [count, 3, 32, 32] in [-1, 1]."""
    pictures = [
        render.render(
            dense_scene(rng)
            if rng.random() < _DENSE_SHARE
            else render.compose(sample_spec(rng), rng)
        )
        for _ in range(count)
    ]
    return to_model_range(np.stack(pictures))


def to_model_range(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(run_dir: Path, recipe: VaeRecipe) -> AutoencoderKL:
    """Train (or go on training) from the newest checkpoint in ``run_dir``."""
    torch.manual_seed(recipe.seed)
    vae = build_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.lr, weight_decay=1e-4)
    state = TrainState(run_dir / "vae.pt", {"vae": vae}, optimizer, ema_decay=0.998)
    start = state.resume()
    for step in state.progress(start, recipe.steps, "vae"):
        rng = np.random.default_rng([recipe.seed, step])
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(recipe.lr, step, recipe.steps, warmup=100)
        pictures = batch_of_pictures(rng, recipe.batch)
        posterior = vae.encode(pictures).latent_dist
        latents = posterior.sample()
        strength = recipe.latent_noise * torch.rand(len(latents), 1, 1, 1)
        noisy = latents + strength * latents.detach().std() * torch.randn_like(latents)
        error = vae.decode(noisy).sample - pictures
        loss = error.square().mean() + recipe.l1 * error.abs().mean()
        loss = loss + recipe.kl * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        state.after_step(step, {"loss": loss.item(), "mse": error.square().mean().item()})
    state.save(recipe.steps)
    state.load_ema()
    _set_scaling(vae)
    return vae


@torch.inference_mode()
def _set_scaling(vae: AutoencoderKL) -> None:
    """Scale latents of ordinary scenes to unit variance."""
    rng = np.random.default_rng(1)
    pictures = [render.render(render.compose(sample_spec(rng), rng)) for _ in range(1000)]
    latents = vae.encode(to_model_range(np.stack(pictures))).latent_dist.mode()
    vae.register_to_config(scaling_factor=float(1 / latents.std()))


@torch.inference_mode()
def psnr(vae: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Reconstruction quality over a batch, dB."""
    decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    error = functional.mse_loss(decoded, pictures).item() / 4
    return float(-10 * np.log10(error))
