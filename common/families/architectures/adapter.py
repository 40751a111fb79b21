"""What an architecture has to tell and do: the small protocol behind which its models live."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch

from baton.common.diffusion.blocks import BlockGraph, Piece
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.schedules import Schedule
from baton.common.families.hearing import Heard
from baton.common.latents.space import LatentSpace
from baton.common.limits import SamplerName

#: Prompt and negative prompt.
Texts = tuple[str, str]
#: [C, H, W] of a latent.
Shape = tuple[int, int, int]


class Adapter(Protocol):
    """The loaded models of one family, of one architecture.

    device: where they are; the executor's latents are there, too, in float32.
    """

    @property
    def device(self) -> torch.device: ...

    @property
    def members(self) -> tuple[str, ...]:
        """Those that are loaded."""
        ...

    @property
    def latent_space(self) -> LatentSpace:
        """Measured. Raises WeightsError for an encoder that yields no numbers."""
        ...

    def heard(self, text: str) -> Heard:
        """What of a prompt, positive or negative, is encoded, and what is lost."""
        ...

    def encoder_of(self, member: str) -> Hashable:
        """Equal for members that share an encoder: what is encoded for one serves the other."""
        ...

    def encode(self, member: str, texts: Sequence[Texts]) -> list[Conditioning]:
        """Several requests' prompts for a member: each bit for bit what it is alone."""
        ...

    def schedule(
        self,
        sampler: SamplerName,
        steps: int,
        shape: Shape,
        begin: float | None = None,
        until: float | None = None,
    ) -> Schedule:
        """Noise levels, and what the members take for their time. Raises Incompatible.

        begin, until: the levels ``b / a`` of a part; None: the noisiest, and the last.
        """
        ...

    def denoiser(self, member: str) -> Denoiser:
        """Forward over rows, guidance and blocks of a loaded member. Raises KeyError."""
        ...

    def outline(self, member: str) -> BlockGraph | None:
        """The member's blocks without its weights, on the meta device: for what they would cost."""
        ...

    def decoder(self) -> Sequence[Piece]:
        """The finest pieces that it can be cut into, in the order in which they run.

        The first takes a latent [C, H, W], the last puts out pixels [3, H, W] from -1 to 1.
        """
        ...

    def decoder_outline(self) -> Sequence[Piece]:
        """The same without its weights, on the meta device: for what they would cost."""
        ...

    def pipeline(self, member: str) -> Any:
        """A plain diffusers pipeline of a loaded member, over the same modules: the reference."""
        ...
