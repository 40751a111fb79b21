"""Training of the family's autoencoder.

Trained mostly on *dense* scenes (icons anywhere, overlapping), so that it learns every edge in
every colour; noise is added to the latents, so that the decoder forgives a denoiser's small errors.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from baton.common.families.scenes.grammar import pick, sample_spec
from baton.common.families.scenes.icons import ICONS
from baton.common.families.scenes.render import Pixels, PlacedIcon, Scene, compose, render
from baton.common.families.scenes.training.device import Machine
from baton.common.families.scenes.training.loop import Allowance, Optimisation, TrainState
from baton.common.families.scenes.verify import detect
from baton.common.families.scenes.worlds import CELL, World

_DENSE_SHARE = 0.7
_MAX_DENSE = 6  # icons
_L1, _KL = 0.3, 1e-5  # weights beside the squared error
_LATENT_NOISE = 0.2  # of the latents' deviation, at most
_SCALING_SCENES = 500
_ENCODE_BATCH = 128

OPTIMISATION = Optimisation(lr=2e-3, batch=32, warmup=100, weight_decay=1e-4, ema_decay=0.998)
#: A GPU takes a larger batch in the same time.
OPTIMISATION_CUDA = replace(OPTIMISATION, batch=256, lr=3e-3, ema_decay=0.995)


def build_vae(world: World) -> AutoencoderKL:
    """f4, 4 channels, no attention: a latent cell depends on its neighbourhood alone."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=world.image_size,
        mid_block_add_attention=False,
    )


def dense_scene(world: World, rng: np.random.Generator) -> Scene:
    """Icons anywhere, in every size and surface, one over the other."""
    icons = []
    step = 1 if world.free else CELL
    for _ in range(rng.integers(1, _MAX_DENSE + 1)):
        size = pick(rng, world.sizes)
        span = (world.image_size - world.sizes[size]) // step + 1
        x, y = (int(v) * step for v in rng.integers(span, size=2))
        icon, color, surface = (pick(rng, names) for names in (ICONS, world.colors, world.surfaces))
        icons.append(PlacedIcon(icon, color, size, x, y, surface))
    return Scene(pick(rng, world.backgrounds), tuple(icons))


def batch_of_pictures(world: World, rng: np.random.Generator, count: int) -> Tensor:
    """Pictures to learn from, float32 [count, 3, H, W] in [-1, 1]."""
    return to_model_range(np.stack([render(any_scene(world, rng), world) for _ in range(count)]))


def any_scene(world: World, rng: np.random.Generator) -> Scene:
    """What the autoencoder learns from: mostly dense scenes, some that prompts describe."""
    if rng.random() < _DENSE_SHARE:
        return dense_scene(world, rng)
    return compose(sample_spec(rng, world), world, rng)


def to_model_range(pictures: Pixels) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def from_model_range(pixels: Tensor) -> Pixels:
    """Pixels [N, 3, H, W] in [-1, 1] to uint8 [N, H, W, 3]."""
    scaled = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    pictures: Pixels = scaled.permute(0, 2, 3, 1).cpu().numpy()
    return pictures


def train_vae(
    run_dir: Path,
    world: World,
    machine: Machine,
    pictures: Tensor,
    allowance: Allowance,
    options: Optimisation | None = None,
) -> AutoencoderKL:
    """Train (or go on training) on pictures, uint8 [N, 3, H, W], wherever they lie."""
    torch.manual_seed(0)
    options = options or machine.pick(OPTIMISATION, OPTIMISATION_CUDA)
    vae = build_vae(world).to(machine.device)
    state = TrainState.resumed(run_dir / "vae", {"vae": vae}, options, machine)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = machine.generator(step)
        rows = machine.rows(len(pictures), options.batch, generator)
        with machine.autocast(pays_on_cpu=True):
            return _loss(vae, machine.pictures(pictures, rows), generator)

    state.run(loss, allowance)
    return vae


def _loss(
    vae: AutoencoderKL, pictures: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device)

    posterior = vae.encode(pictures).latent_dist
    latents = posterior.mean.float() + posterior.std.float() * normal(posterior.mean)
    strength = _LATENT_NOISE * torch.rand(
        len(latents), 1, 1, 1, generator=generator, device=latents.device
    )
    noisy = latents + strength * latents.detach().std() * normal(latents)
    error = vae.decode(noisy).sample.float() - pictures
    squared = error.square().mean()
    kl = posterior.kl().float().mean()
    return squared + _L1 * error.abs().mean() + _KL * kl, {"mse": squared}


@torch.inference_mode()
def set_scaling(vae: AutoencoderKL, world: World) -> None:
    """Scale latents of ordinary scenes to unit variance."""
    rng = np.random.default_rng(1)
    scenes = [compose(sample_spec(rng, world), world, rng) for _ in range(_SCALING_SCENES)]
    latents = encode(vae, np.stack([render(scene, world) for scene in scenes]), 1.0)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))


@torch.inference_mode()
def encode(vae: AutoencoderKL, pictures: Pixels, scaling: float | None = None) -> Tensor:
    """Scaled latents of pictures [N, H, W, 3], float32 [N, C, h, w] on the CPU."""
    factor = vae.config.scaling_factor if scaling is None else scaling
    device = next(vae.parameters()).device
    batches = to_model_range(pictures).split(_ENCODE_BATCH)
    latents = [vae.encode(batch.to(device)).latent_dist.mode().float().cpu() for batch in batches]
    return torch.cat(latents) * factor


@torch.inference_mode()
def reconstruct(vae: AutoencoderKL, pictures: Pixels) -> Pixels:
    """What is left of pictures, uint8 [N, H, W, 3], after the autoencoder."""
    device = next(vae.parameters()).device
    latents = encode(vae, pictures, 1.0).split(_ENCODE_BATCH)
    decoded = [from_model_range(vae.decode(batch.to(device)).sample) for batch in latents]
    return np.concatenate(decoded)


@torch.inference_mode()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Reconstruction quality over a batch, float [N, 3, H, W] in [-1, 1]; dB."""
    decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    error = functional.mse_loss(decoded, pictures).item() / 4
    return float(-10 * np.log10(error))


def acceptance(
    vae: AutoencoderKL, world: World, count: int, seed: int = 0
) -> dict[tuple[str, str], float]:
    """Share of reconstructed icons that are detected as they are, by (surface, size).

    ``count`` pictures of each, with one icon.
    """
    rng = np.random.default_rng([seed, 3])
    shares: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for surface in world.surfaces:
        for size in world.sizes:
            scenes = [_single(world, surface, size, rng) for _ in range(count)]
            pictures = reconstruct(vae, np.stack([render(scene, world) for scene in scenes]))
            for scene, picture in zip(scenes, pictures, strict=True):
                shares[surface, size].append(_same(scene, detect(picture)))
    return {key: float(np.mean(held)) for key, held in shares.items()}


def _single(world: World, surface: str, size: str, rng: np.random.Generator) -> Scene:
    span = world.image_size - world.sizes[size] + 1
    x, y = (int(v) for v in rng.integers(span, size=2))
    icon = PlacedIcon(pick(rng, ICONS), pick(rng, world.colors), size, x, y, surface)
    return Scene(pick(rng, world.backgrounds), (icon,))


def _same(scene: Scene, seen: Scene) -> bool:
    def told(found: Scene) -> list[tuple[str, str, str, str]]:
        return sorted((i.icon, i.color, i.size, i.surface) for i in found.icons)

    return scene.background == seen.background and told(scene) == told(seen)
