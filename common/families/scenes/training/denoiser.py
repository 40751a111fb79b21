"""Training of the family's denoisers.

v-prediction (Salimans and Ho 2022), 10% empty prompts for classifier-free guidance. In terms of x0
the error weighs min(SNR, gamma) + 1 with gamma = 5: min-SNR (Hang et al. 2023) at the clean end,
but not vanishing at the noisy end, where the prompt decides what will be drawn. The text encoder
learns with ``large`` and is frozen for the other members, so that all are conditioned alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from common.families.scenes import render
from common.families.scenes.grammar import sample_prompt
from common.families.scenes.members import build_scheduler, build_unet
from common.families.scenes.training.loop import TrainState, cosine_lr
from common.families.scenes.training.vae import to_model_range

_ENCODE_BATCH = 256


@dataclass(frozen=True)
class DenoiserRecipe:
    steps: int
    batch: int = 32
    lr: float = 8e-4
    weight_decay: float = 0.01
    empty_prompts: float = 0.1
    min_snr_gamma: float = 5.0
    ema_decay: float = 0.999
    seed: int = 0


@dataclass(frozen=True)
class LatentDataset:
    """Scaled latents float16 [N, 4, 8, 8] and the token ids int64 [N, tokens] of their prompts."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor

    def batch(self, indices: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.where(drop[:, None], self.empty, self.tokens[indices])
        return self.latents[indices].float(), tokens


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Padded and cut token ids, int64 [N, tokens]."""
    padded = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    ids: Tensor = padded.input_ids
    return ids


def load_dataset(
    path: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int, seed: int = 0
) -> LatentDataset:
    """Render, describe and encode ``count`` scenes once; later runs read the file."""
    empty = tokenize(tokenizer, [""])
    if not path.exists():
        rng = np.random.default_rng([seed, 1])
        latents, tokens = [], []
        for start in range(0, count, _ENCODE_BATCH):
            prompts, pictures = [], []
            for _ in range(min(_ENCODE_BATCH, count - start)):
                prompt, spec = sample_prompt(rng)
                prompts.append(prompt)
                pictures.append(render.render(render.compose(spec, rng)))
            latents.append(_encode(vae, to_model_range(np.stack(pictures))).half())
            tokens.append(tokenize(tokenizer, prompts))
        torch.save({"latents": torch.cat(latents), "tokens": torch.cat(tokens)}, path)
    saved = torch.load(path, weights_only=True)
    return LatentDataset(saved["latents"], saved["tokens"], empty)


@torch.inference_mode()
def _encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    latents: Tensor = vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor
    return latents


def train_denoiser(
    run_dir: Path,
    member: str,
    text_encoder: CLIPTextModel,
    data: LatentDataset,
    recipe: DenoiserRecipe,
    stop_after: int | None = None,
) -> UNet2DConditionModel:
    """Train (or go on training) a member; ``large`` trains the text encoder along.

    ``stop_after``: the step to break off at, leaving the rest of the recipe to another run.
    """
    torch.manual_seed(recipe.seed)
    unet = build_unet(member)
    state = denoiser_state(run_dir, member, unet, text_encoder, recipe)
    optimizer = state.optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    alpha_bar = build_scheduler().alphas_cumprod
    start = state.resume()
    stop = recipe.steps if stop_after is None else stop_after
    for step in state.progress(start, stop, member):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(recipe.lr, step, recipe.steps, warmup=300)
        indices = torch.randint(len(data.latents), (recipe.batch,), generator=generator)
        drop = torch.rand(recipe.batch, generator=generator) < recipe.empty_prompts
        latents, tokens = data.batch(indices, drop)
        loss = _loss(unet, text_encoder, (latents, tokens), alpha_bar, recipe, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.after_step(step, {"loss": loss.item()})
    state.save(stop)
    state.load_ema()
    return unet


def denoiser_state(
    run_dir: Path,
    member: str,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    recipe: DenoiserRecipe,
) -> TrainState:
    """What a member's checkpoint holds: its denoiser and, for ``large``, the text encoder."""
    modules: dict[str, nn.Module] = {"unet": unet}
    if member == "large":
        modules["text_encoder"] = text_encoder
    text_encoder.requires_grad_(member == "large")
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return TrainState(run_dir / f"{member}.pt", modules, optimizer, recipe.ema_decay)


def _loss(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    batch: tuple[Tensor, Tensor],
    alpha_bar: Tensor,
    recipe: DenoiserRecipe,
    generator: torch.Generator,
) -> Tensor:
    latents, tokens = batch
    context = text_encoder(tokens)[0]
    noise = torch.randn(latents.shape, generator=generator)
    t = torch.randint(len(alpha_bar), (len(latents),), generator=generator)
    a = alpha_bar[t].sqrt().view(-1, 1, 1, 1)
    b = (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
    predicted = unet(a * latents + b * noise, t, context).sample
    error = (predicted - (a * noise - b * latents)).square().mean(dim=(1, 2, 3))
    snr = alpha_bar[t] / (1 - alpha_bar[t])
    weight = (snr.clamp(max=recipe.min_snr_gamma) + 1) / (snr + 1)  # v error = (SNR + 1) x0 error
    loss: Tensor = (weight * error).sum() / weight.sum()
    return loss
