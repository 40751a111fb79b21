"""The machine that trains: its device, its precision, and how data gets there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from baton.common.build import processor_name

_SEEDS = 1_000_003
T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """Where a stage trains.

    seed: of everything random. on_save: called whenever a stage has written its checkpoint.
    """

    device: torch.device
    seed: int = 0
    on_save: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """As a person calls it."""
        if self.is_cuda:
            return torch.cuda.get_device_name(self.device)
        return f"{processor_name()}, threads: {torch.get_num_threads()}"

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, on_cpu: T, on_cuda: T) -> T:
        """What suits the machine."""
        return on_cuda if self.is_cuda else on_cpu

    def generator(self, step: int) -> torch.Generator:
        """The random numbers of one step, the same whether or not a run was interrupted."""
        return torch.Generator(self.device).manual_seed(self.seed * _SEEDS + step)

    def rows(self, count: int, batch: int, generator: torch.Generator) -> Tensor:
        """A random batch of row numbers below ``count``, on the device."""
        return torch.randint(count, (batch,), generator=generator, device=self.device)

    def autocast(self, *, pays_on_cpu: bool = False) -> AbstractContextManager[Any]:
        """bfloat16 where it is faster: on CUDA, and on a CPU that has it if the model is wide."""
        enabled = self.is_cuda or (pays_on_cpu and _cpu_has_bfloat16())
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def pictures(self, stored: Tensor, rows: Tensor) -> Tensor:
        """Some of the stored pictures, uint8 [N, 3, H, W], as float32 in [-1, 1] on the device."""
        return stored[rows.to(stored.device)].to(self.device).float() / 127.5 - 1


def _cpu_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def find_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda``. Raises ValueError for a device that is not there."""
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: auto, cpu or cuda")
    if name == "cuda" and not available:
        raise ValueError("no CUDA device is available; use --device cpu")
    return torch.device(name)
