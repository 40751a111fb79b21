"""What every training run needs: learning rate, EMA, checkpoints, a progress line."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

_SAVE_EVERY_S = 60.0


def cosine_lr(peak: float, step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to 2% of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class TrainState:
    """Modules, their optimiser and their EMA, resumable from one file.

    The log beside the checkpoint (``.jsonl``) holds one line of averages every 100 steps.
    """

    def __init__(
        self,
        path: Path,
        modules: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        ema_decay: float,
    ) -> None:
        self.path = path
        self.modules = modules
        self.optimizer = optimizer
        self.ema_decay = ema_decay
        self.restart_ema()
        self._sums: dict[str, float] = {}
        self._count = 0
        self._saved_at = time.monotonic()

    def restart_ema(self) -> None:
        """Let the averages start from the modules as they are now."""
        self.ema = {
            name: {key: value.detach().clone() for key, value in module.state_dict().items()}
            for name, module in self.modules.items()
        }

    def resume(self) -> int:
        """Load the checkpoint, if there is one; returns the step to go on from."""
        if not self.path.exists():
            return 0
        saved = torch.load(self.path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(saved["modules"][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.ema = saved["ema"]
        return int(saved["step"])

    def save(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        payload = {
            "step": step,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(payload, partial)
        os.replace(partial, self.path)
        self._saved_at = time.monotonic()

    def load_ema(self) -> None:
        """Replace the modules' weights by their averages."""
        for name, module in self.modules.items():
            module.load_state_dict(self.ema[name])

    @torch.no_grad()
    def after_step(self, step: int, metrics: dict[str, float]) -> None:
        """Update the averages, the log and, once a minute, the checkpoint."""
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                average = self.ema[name][key]
                if value.is_floating_point():
                    average.lerp_(value, 1 - decay)
                else:
                    average.copy_(value)
        for key, number in metrics.items():
            self._sums[key] = self._sums.get(key, 0.0) + number
        self._count += 1
        if (step + 1) % 100 == 0:
            self._write_log(step + 1)
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save(step + 1)

    def _write_log(self, step: int) -> None:
        row = {key: round(total / self._count, 5) for key, total in self._sums.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".jsonl").open("a") as log:
            log.write(json.dumps({"step": step, **row}) + "\n")
        self._last = row
        self._sums, self._count = {}, 0

    def progress(self, start: int, steps: int, name: str) -> Iterator[int]:
        """Yield the steps that remain, printing a line every 100."""
        begun = time.monotonic()
        for step in range(start, steps):
            yield step
            if (step + 1) % 100 == 0:
                rate = (time.monotonic() - begun) / (step + 1 - start)
                left = rate * (steps - step - 1) / 60
                print(f"{name} {step + 1}/{steps} {self._last} {left:.0f} min left", flush=True)
