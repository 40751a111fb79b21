"""A machine to train on, and what a stage leaves there."""

from __future__ import annotations

from pathlib import Path

import torch

from baton.common.families.scenes.training.device import Machine

CPU = Machine(torch.device("cpu"))


def checkpoint(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / f"{stage}.pt", weights_only=True)
    return saved["averages"] | {
        f"now/{part}/{key}": value
        for part, state in saved["modules"].items()
        for key, value in state.items()
    }
