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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from baton.common.families.scenes.training.dataset import LatentDataset
from baton.common.families.scenes.training.device import Machine
from baton.common.families.scenes.training.grounding import Grounding
from baton.common.families.scenes.training.layout import LayoutHead
from baton.common.families.scenes.training.loop import Allowance, Optimisation, TrainState
from baton.common.families.scenes.training.meaning import MeaningHeads
from baton.common.families.scenes.training.members import build_scheduler, build_unet
from baton.common.families.scenes.worlds import World

_NOISY_FROM = 500  # of 1000: from here on (sigma 2.2) the layout is still open
_NOISY_SHARE = 0.4
_EMPTY_PROMPTS = 0.1
_MIN_SNR_GAMMA = 5.0
_LAYOUT_WEIGHT = 0.2
_GROUNDING_WEIGHT = 0.2
_MEANING_WEIGHT = 0.05

#: A GPU takes a larger batch in the same time.
OPTIMISATION = Optimisation(lr=1e-3, batch=64, warmup=300)
OPTIMISATION_CUDA = replace(OPTIMISATION, batch=512, lr=1.5e-3, ema_decay=0.998)


@dataclass(frozen=True)
class Text:
    """The text encoder that conditions a denoiser, and the heads that it learns by if it learns."""

    encoder: CLIPTextModel
    heads: MeaningHeads | None = None

    @property
    def learns(self) -> bool:
        return self.heads is not None


class NoiseProcess:
    """The family's noise process on a device: levels by time step."""

    def __init__(self, device: torch.device) -> None:
        alpha_bar = build_scheduler().alphas_cumprod.to(device)
        self.snr = alpha_bar / (1 - alpha_bar)
        self.a, self.b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    @property
    def steps(self) -> int:
        return len(self.a)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) at time steps [B], each [B, 1, 1, 1]."""
        return self.a[t].view(-1, 1, 1, 1), self.b[t].view(-1, 1, 1, 1)

    def loss(self, predicted: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Weighted mean squared error of v, over the batch."""
        error = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        snr = self.snr[t]
        weight = (snr.clamp(max=_MIN_SNR_GAMMA) + 1) / (snr + 1)
        loss: Tensor = (weight * error).sum() / weight.sum()
        return loss


def train_denoiser(
    run_dir: Path,
    member: str,
    text: Text,
    data: LatentDataset,
    machine: Machine,
    allowance: Allowance,
    world: World,
) -> UNet2DConditionModel:
    """Train (or go on training) a member; the text encoder learns along if it has heads."""
    torch.manual_seed(machine.seed)
    unet = build_unet(member, world).to(machine.device)
    modules: dict[str, nn.Module] = {"unet": unet, "layout": LayoutHead(unet, world)}
    if text.heads is not None:
        modules |= {"text_encoder": text.encoder, "meaning": text.heads}
    text.encoder.requires_grad_(text.learns)
    for module in modules.values():
        module.to(machine.device)
    options = machine.pick(OPTIMISATION, OPTIMISATION_CUDA)
    state = TrainState.resumed(run_dir / member, modules, options, machine)
    loss = _Losses(unet, text, modules["layout"], Grounding(unet), data, machine, options.batch)
    state.run(loss, allowance)
    return unet


@dataclass
class _Losses:
    """The loss of one random batch."""

    unet: Callable[..., Any]
    text: Text
    layout: nn.Module
    grounding: Grounding
    data: LatentDataset
    machine: Machine
    batch: int

    def __post_init__(self) -> None:
        self.process = NoiseProcess(self.machine.device)

    def __call__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = self.machine.generator(step)
        rows = self.machine.rows(len(self.data.latents), self.batch, generator)
        drop = self._uniform(generator) < _EMPTY_PROMPTS
        latents, tokens = self.data.batch(rows, drop)
        layouts, meanings = self.data.layouts[rows].long(), self.data.meanings[rows].long()
        with self.machine.autocast(pays_on_cpu=True):
            context = self._context(tokens)
            denoising = self._denoising(latents, context, generator)
            layout = self.layout(layouts)
            grounding = self.grounding.loss(layouts, meanings, ~drop)
        metrics = {"loss": denoising, "layout": layout, "grounding": grounding}
        loss = denoising + _LAYOUT_WEIGHT * layout + _GROUNDING_WEIGHT * grounding
        if self.text.heads is not None:
            meaning, right = self.text.heads(context[~drop].float(), meanings[~drop])
            metrics |= {"meaning": meaning, "right": right}
            loss = loss + _MEANING_WEIGHT * meaning
        return loss, metrics

    def _context(self, tokens: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.text.learns):
            context: Tensor = self.text.encoder(tokens)[0]
        return context

    def _denoising(self, latents: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        t = self._times(generator)
        a, b = self.process.levels(t)
        predicted = self.unet(a * latents + b * noise, t, context).sample
        return self.process.loss(predicted, a * noise - b * latents, t)

    def _times(self, generator: torch.Generator) -> Tensor:
        """Training time steps, int64 [B]: uniform, but a share from the noisy end alone."""
        lowest = torch.where(self._uniform(generator) < _NOISY_SHARE, _NOISY_FROM, 0)
        span = self.process.steps - lowest
        return (lowest + self._uniform(generator) * span).long().clamp(max=self.process.steps - 1)

    def _uniform(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.batch, generator=generator, device=self.machine.device)
