"""Training of the family's denoisers.

v-prediction (Salimans and Ho 2022), 10% empty prompts for classifier-free guidance. In terms of x0
the error weighs min(SNR, gamma) + 1 with gamma = 5: min-SNR (Hang et al. 2023) at the clean end,
but not vanishing at the noisy end, where the prompt decides what will be drawn; a share of the time
steps is drawn from there alone. The denoiser's features are held against the layout of the clean
picture, and its cross-attention against the objects that the cells belong to. The text encoder
learns what prompts mean, then learns with ``large``, and is frozen for the other members, so that
all are conditioned alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from transformers import CLIPTextModel

from common.families.scenes.members import build_scheduler, build_unet
from common.families.scenes.training.dataset import LatentDataset
from common.families.scenes.training.grounding import Grounding
from common.families.scenes.training.layout import LayoutHead
from common.families.scenes.training.loop import TrainState, cosine_lr
from common.families.scenes.training.meaning import MeaningHeads, train_meaning

_NOISY_FROM = 550  # of 1000: from here on, the layout is still open


@dataclass(frozen=True)
class DenoiserRecipe:
    steps: int
    batch: int = 64
    lr: float = 8e-4
    weight_decay: float = 0.01
    empty_prompts: float = 0.1
    min_snr_gamma: float = 5.0
    noisy_share: float = 0.5
    meaning_steps: int = 1000
    meaning_weight: float = 0.05
    layout_weight: float = 0.2
    grounding_weight: float = 0.2
    ema_decay: float = 0.999
    seed: int = 0
    compile: bool = False


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
    heads = state.modules.get("meaning")
    start = state.resume()
    if isinstance(heads, MeaningHeads) and start == 0:
        train_meaning(text_encoder, heads, data.tokens, data.meanings, steps=recipe.meaning_steps)
        state.restart_ema()
    optimizer = state.optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses = _Losses(
        unet=torch.compile(unet) if recipe.compile else unet,
        text_encoder=text_encoder,
        layout=state.modules["layout"],
        grounding=Grounding(unet),
        meaning=heads,
        recipe=recipe,
    )
    stop = recipe.steps if stop_after is None else stop_after
    for step in state.progress(start, stop, member):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(recipe.lr, step, recipe.steps, warmup=300)
        loss, metrics = losses(data, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.after_step(step, metrics)
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
    """What a member's checkpoint holds: its denoiser and, for ``large``, the text encoder.

    With each of them goes its head.
    """
    modules: dict[str, nn.Module] = {"unet": unet, "layout": LayoutHead(unet)}
    if member == "large":
        width = text_encoder.config.hidden_size
        modules |= {"text_encoder": text_encoder, "meaning": MeaningHeads(width)}
    text_encoder.requires_grad_(member == "large")
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return TrainState(run_dir / f"{member}.pt", modules, optimizer, recipe.ema_decay)


@dataclass
class _Losses:
    """The loss of one random batch."""

    unet: Callable[..., UNet2DConditionOutput]
    text_encoder: CLIPTextModel
    layout: nn.Module
    grounding: Grounding
    meaning: nn.Module | None
    recipe: DenoiserRecipe

    def __post_init__(self) -> None:
        self.alpha_bar = build_scheduler().alphas_cumprod

    def __call__(
        self, data: LatentDataset, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        batch = self.recipe.batch
        rows = torch.randint(len(data.latents), (batch,), generator=generator)
        drop = torch.rand(batch, generator=generator) < self.recipe.empty_prompts
        latents, tokens = data.batch(rows, drop)
        context = self.text_encoder(tokens)[0]
        loss = self._denoising(latents, context, generator)
        layouts, meanings = data.layouts[rows].long(), data.meanings[rows]
        layout = self.layout(layouts)
        grounding = self.grounding.loss(layouts, meanings, ~drop)
        metrics = {"loss": loss.item(), "layout": layout.item(), "grounding": grounding.item()}
        loss = loss + self.recipe.layout_weight * layout
        loss = loss + self.recipe.grounding_weight * grounding
        if self.meaning is not None:
            meaning, right = self.meaning(context[~drop], meanings[~drop])
            metrics |= {"meaning": meaning.item(), "right": right.item()}
            loss = loss + self.recipe.meaning_weight * meaning
        return loss, metrics

    def _denoising(self, latents: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(latents.shape, generator=generator)
        t = self._times(len(latents), generator)
        alpha_bar = self.alpha_bar[t]
        a = alpha_bar.sqrt().view(-1, 1, 1, 1)
        b = (1 - alpha_bar).sqrt().view(-1, 1, 1, 1)
        predicted = self.unet(a * latents + b * noise, t, context).sample
        error = (predicted - (a * noise - b * latents)).square().mean(dim=(1, 2, 3))
        snr = alpha_bar / (1 - alpha_bar)
        weight = (snr.clamp(max=self.recipe.min_snr_gamma) + 1) / (snr + 1)  # of the v error
        loss: Tensor = (weight * error).sum() / weight.sum()
        return loss

    def _times(self, count: int, generator: torch.Generator) -> Tensor:
        """Training time steps, int64 [count]: uniform, but a share from the noisy end alone."""
        anywhere = torch.randint(len(self.alpha_bar), (count,), generator=generator)
        noisy = torch.randint(_NOISY_FROM, len(self.alpha_bar), (count,), generator=generator)
        choose = torch.rand(count, generator=generator) < self.recipe.noisy_share
        return torch.where(choose, noisy, anywhere)
