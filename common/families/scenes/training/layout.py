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

from common.families.scenes.icons import BACKGROUNDS, COLORS, ICONS, SIZES
from common.families.scenes.render import CELL, IMAGE_SIZE, Scene

_SIDE = IMAGE_SIZE // CELL
_ICONS = ("", *ICONS)
_COLORS = (*BACKGROUNDS, *COLORS)


def layout(scene: Scene) -> npt.NDArray[np.uint8]:
    """Class of the icon and of the colour in every cell, uint8 [2, 8, 8]."""
    classes = np.zeros((2, _SIDE, _SIDE), dtype=np.uint8)
    classes[1] = _COLORS.index(scene.background)
    for placed in scene.icons:
        x, y, side = placed.x // CELL, placed.y // CELL, SIZES[placed.size] // CELL
        classes[0, y : y + side, x : x + side] = _ICONS.index(placed.icon)
        classes[1, y : y + side, x : x + side] = _COLORS.index(placed.color)
    return classes


class LayoutHead(nn.Module):
    """Reads the layout from the features below the denoiser's last block.

    A hook keeps the features [B, C, 8, 8] whenever the denoiser runs.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        block = unet.up_blocks[-2]
        channels = block.resnets[-1].out_channels
        self.classify = nn.Conv2d(channels, len(_ICONS) + len(_COLORS), kernel_size=1)
        self._seen: dict[str, Tensor] = {}
        block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: object, output: Tensor) -> None:
        self._seen["features"] = output

    def forward(self, layouts: Tensor) -> Tensor:
        """Mean cross-entropy of the denoiser's newest batch; ``layouts``: int64 [B, 2, 8, 8]."""
        icons, colors = self.classify(self._seen["features"]).split([len(_ICONS), len(_COLORS)], 1)
        losses = [
            nn.functional.cross_entropy(scores, layouts[:, index])
            for index, scores in enumerate((icons, colors))
        ]
        return torch.stack(losses).mean()
