"""What stands in every cell of a picture, as classes that a denoiser's features are asked for.

Which of two objects stands where moves the squared error of a noisy latent very little, so a
denoiser alone learns it last. As in REPA (Yu et al. 2025) its hidden features are therefore held
against what the clean picture shows: here the renderer's own labels, read by a linear head that is
thrown away after training.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from baton.common.families.scenes.icons import ICONS, stamp
from baton.common.families.scenes.render import Scene
from baton.common.families.scenes.worlds import CELL, World

_COVERED = 0.4  # share of a cell that makes it the icon's

#: What a layout tells of every cell: its icon, its colour and its surface.
PLANES = 3


def layout(scene: Scene, world: World) -> npt.NDArray[np.uint8]:
    """Classes of the icon, the colour and the surface in every cell, uint8 [3, side, side]."""
    classes = np.zeros((PLANES, world.latent_size, world.latent_size), dtype=np.uint8)
    tones = _tones(world)
    classes[1] = tones.index(scene.background)
    for placed in scene.icons:
        side = world.sizes[placed.size]
        canvas = np.zeros((world.image_size, world.image_size))
        body = stamp(world, placed.icon, placed.size).body
        canvas[placed.y : placed.y + side, placed.x : placed.x + side] = body
        cells = canvas.reshape(world.latent_size, CELL, world.latent_size, CELL)
        covered = cells.mean(axis=(1, 3)) >= _COVERED
        facts = (ICONS.index(placed.icon) + 1, tones.index(placed.color))
        surface = world.surfaces.index(placed.surface) + 1
        classes[:, covered] = np.array([*facts, surface], dtype=np.uint8)[:, None]
    return classes


def _tones(world: World) -> list[str]:
    return [*world.backgrounds, *world.colors]


class LayoutHead(nn.Module):
    """Reads the layout from the features below the denoiser's last block.

    A hook keeps the features [B, C, side, side] whenever the denoiser runs.
    """

    def __init__(self, unet: UNet2DConditionModel, world: World) -> None:
        super().__init__()
        block = unet.up_blocks[-2]
        self.classes = [len(ICONS) + 1, len(_tones(world)), len(world.surfaces) + 1]
        channels = block.resnets[-1].out_channels
        self.classify = nn.Conv2d(channels, sum(self.classes), kernel_size=1)
        self._seen: dict[str, Tensor] = {}
        block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: object, output: Tensor) -> None:
        self._seen["features"] = output

    def forward(self, layouts: Tensor) -> Tensor:
        """Mean cross-entropy of the denoiser's newest batch; int64 [B, 3, side, side]."""
        planes = self.classify(self._seen["features"]).float().split(self.classes, 1)
        losses = [
            nn.functional.cross_entropy(scores, layouts[:, index])
            for index, scores in enumerate(planes)
        ]
        return torch.stack(losses).mean()
