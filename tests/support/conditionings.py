"""What a family of one text encoder makes of prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from baton.common.diffusion.conditioning import Conditioning
from baton.common.limits import Branch


def context(conditioning: Conditioning, branch: Branch = "positive") -> Tensor:
    """[L, D]."""
    return conditioning.row(branch)["context"]


def filled(conditioning: Conditioning, value: float) -> Conditioning:
    """The same, every number of it a value."""
    return Conditioning(
        {
            branch: {name: torch.full_like(tensor, value) for name, tensor in row.items()}
            for branch, row in conditioning.branches.items()
        }
    )
