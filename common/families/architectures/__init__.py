"""One adapter for each architecture of families, in a file of its own. No torch until one loads.

A family's architecture goes by the class of its denoisers, as diffusers stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton.common.families.architectures.adapter import Adapter


@dataclass(frozen=True)
class Architecture:
    """adapter: module and class; denoiser, autoencoder: classes of its parts."""

    adapter: str
    denoiser: str
    autoencoder: str

    def load(self, *arguments: Any) -> Adapter:
        """The adapter over a family's loaded members. Raises WeightsError."""
        module, name = self.adapter.split(":")
        adapter: Adapter = getattr(import_module(module), name)(*arguments)
        return adapter


ARCHITECTURES: Mapping[str, Architecture] = {
    known.denoiser: known
    for known in (
        Architecture(
            "baton.common.families.architectures.sd1:Sd1", "UNet2DConditionModel", "AutoencoderKL"
        ),
    )
}
