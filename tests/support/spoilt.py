"""Families some of whose weights are no numbers any more."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from baton.common.families.loaded import LoadedFamily
from baton.common.families.manifest import find_family

Part = Literal["vae", "text_encoder"]


class Spoilt(LoadedFamily):
    """The same family to everybody else, but the last weights of one part are ``value``."""

    def __init__(
        self, family: LoadedFamily, part: Part = "vae", value: float = float("nan")
    ) -> None:
        self.__dict__.update(family.__dict__)
        self.models = copy.copy(family.models)
        module = copy.deepcopy(getattr(family.models, part))
        with torch.no_grad():
            last = list(getattr(module, "decoder", module).parameters())[-1]
            last.fill_(value)
        setattr(self.models, part, module)


def spoil_decoder(folder: str) -> None:
    """Write NaN over the decoder's last weights in a family's folder without digests."""
    _spoil(folder, "shared/vae", "decoder.conv_out.bias")


def spoil_member(folder: str, member: str) -> None:
    """Write NaN over a member's last weights in a family's folder without digests."""
    _spoil(folder, f"{member}/unet", "conv_out.bias")


def _spoil(folder: str, part: str, weight: str) -> None:
    path = find_family(folder) / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights[weight].fill_(float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
