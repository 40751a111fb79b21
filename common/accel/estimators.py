"""Ways to train a binary gate: how it is relaxed, and how its gradient is estimated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from baton.common.accel.mask_settings import ESTIMATORS, Estimator, check_estimator

__all__ = ["ESTIMATORS", "Estimator", "check_estimator", "gates"]

_TEMPERATURE = 0.5


def gates(estimator: Estimator, logits: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Gates [rows, blocks] of blocks that run with chance ``sigmoid(logits)``, logits [blocks].

    ``bernoulli``: 0 or 1 at random, with the chance's gradient (straight through). ``interpolate``:
    the chance itself. ``gumbel``: the binary concrete relaxation (Maddison et al. 2017).
    """
    return _ESTIMATORS[estimator](logits, rows, generator)


def _bernoulli(logits: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    chances = torch.sigmoid(logits).expand(rows, -1)
    drawn = torch.bernoulli(chances.detach(), generator=generator)
    return drawn + chances - chances.detach()


def _interpolate(logits: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    return torch.sigmoid(logits).expand(rows, -1)


def _gumbel(logits: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand((rows, len(logits)), generator=generator).clamp(1e-6, 1 - 1e-6)
    return torch.sigmoid((logits + torch.logit(uniform)) / _TEMPERATURE)


_ESTIMATORS: dict[Estimator, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "bernoulli": _bernoulli,
    "interpolate": _interpolate,
    "gumbel": _gumbel,
}
