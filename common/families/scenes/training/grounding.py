"""Which of two objects a cell is drawn from, asked of the cross-attention.

The text encoder keeps each object in a state of its own, behind the prompt. A cell of the first
object should draw from the first state and a cell of the second from the second, as attention is
held against segmentation in TokenCompose (Wang et al. 2024); else both places attend to both
objects alike, and the same object is drawn twice.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from baton.common.families.scenes.training.meaning import FIRST_OBJECT_AT, ICON_OF, SECOND_OBJECT_AT


class Grounding:
    """Hooks on the cross-attentions of the denoiser's decoder keep what they saw last."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self._attentions: dict[str, Any] = {
            name: module
            for name, module in unet.up_blocks.named_modules()
            if name.endswith("attn2")
        }
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}
        for name, module in self._attentions.items():
            module.register_forward_pre_hook(partial(self._keep, name), with_kwargs=True)

    def _keep(
        self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Tensor]
    ) -> None:
        self._seen[name] = inputs[0], options["encoder_hidden_states"]

    def loss(self, layouts: Tensor, meanings: Tensor, told: Tensor) -> Tensor:
        """Mean logistic loss over the cells of objects in prompts with two.

        layouts: int64 [B, 3, side, side]; meanings: int64 [B, 13]; told: bool [B], false
        where the prompt was left empty.
        """
        icons = layouts[:, 0]
        first, second = (
            (icons == meanings[:, fact, None, None])
            & (told & (meanings[:, ICON_OF[1]] > 0))[:, None, None]
            for fact in ICON_OF
        )
        losses = [self._loss_of(name, first.float(), second.float()) for name in self._attentions]
        return torch.stack(losses).mean()

    def _loss_of(self, name: str, first: Tensor, second: Tensor) -> Tensor:
        attention = self._attentions[name]
        hidden, context = self._seen[name]
        query = attention.to_q(hidden).unflatten(2, (attention.heads, -1))
        difference = context[:, FIRST_OBJECT_AT] - context[:, SECOND_OBJECT_AT]
        key = attention.to_k(difference).unflatten(1, (attention.heads, -1))
        scores = attention.scale * torch.einsum("bnhd,bhd->bnh", query, key)
        side = math.isqrt(hidden.shape[1])
        wanted, other = (
            nn.functional.adaptive_avg_pool2d(mask, side).flatten(1)[:, :, None]
            for mask in (first, second)
        )
        scores = scores.float()
        of_first, of_second = nn.functional.softplus(-scores), nn.functional.softplus(scores)
        cells = (wanted + other).sum().clamp(min=1.0) * attention.heads
        loss: Tensor = (wanted * of_first + other * of_second).sum() / cells
        return loss
