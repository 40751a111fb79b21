"""A member as the executor calls it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from baton.common.diffusion.blocks import BlockGraph, ModelInputs


class Denoiser(ABC):
    """The model boundary: rows in float32 go in and come out, whatever the weights are kept in.

    graph: its blocks; None if they cannot be addressed.
    """

    graph: BlockGraph | None = None

    @abstractmethod
    def __call__(self, inputs: ModelInputs) -> Tensor:
        """VP latents to predictions, [B, C, H, W] both."""

    def guide(self, positive: Tensor, negative: Tensor, scale: Tensor) -> Tensor:
        """What both branches' predictions [n, C, H, W] mean at guidance scales [n, 1, 1, 1].

        Classifier-free guidance (Ho and Salimans 2022): negative + scale * (positive - negative).
        """
        return negative + scale * (positive - negative)
