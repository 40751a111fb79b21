"""What every stage of the training needs: an allowance, a schedule, averages, checkpoints, a log.

A stage may train for so many steps, or for so many seconds over all of its runs: then its learning
rate follows the clock, whatever the speed of the machine. Its full checkpoint stays where it was
written, and a run that goes on from there with a fixed number of steps is the same bit for bit. Its
averages, in fp16, travel: any machine goes on from them, after a warm-up of the optimizer.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from baton.common.errors import WeightsError
from baton.common.families.scenes.training.device import Machine
from baton.common.files import saving

_SAVE_EVERY_S = 60.0
_LOG_EVERY = 100
_HICCUP = 5.0  # a step that takes so many times the usual one was stopped; the rest is no training

#: The machine of steps that were stored without one.
UNKNOWN = "unknown"

#: One training step: the loss, and what to log (tensors without gradient).
StepLoss = Callable[[int], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Allowance:
    """How long a stage may train in all: ``steps`` if told, else ``seconds``.

    stop_after: step at which this run breaks off, leaving the rest to another one.
    """

    steps: int | None = None
    seconds: float = 0.0
    stop_after: int | None = None


@dataclass(frozen=True)
class Optimisation:
    """AdamW with a linear warm-up and half a cosine down to 2% of the peak."""

    lr: float
    batch: int
    warmup: int = 200
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    clip: float = 1.0


@dataclass(frozen=True)
class Position:
    """How far a stage has come. progress: of the cosine, 0 to 1; seconds: spent in its steps.

    machines: on which it trained, in their order; none if its averages do not say.
    """

    step: int = 0
    samples: int = 0
    progress: float = 0.0
    seconds: float = 0.0
    machines: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return self.progress >= 1.0

    def on(self, machine: str) -> Position:
        """The same place, from which this machine goes on."""
        known = self.machines or (UNKNOWN,) * (self.step > 0)
        return self if machine in known else replace(self, machines=(*known, machine))


class TrainState:
    """Modules, their optimizer and their averages (EMA), resumable.

    ``PATH.pt`` is the full checkpoint, ``PATH.safetensors`` the averages with the position, and
    ``PATH.jsonl`` the log, a line every 100 steps.
    """

    def __init__(
        self, path: Path, modules: Mapping[str, nn.Module], optimisation: Optimisation
    ) -> None:
        self.path = path
        self.modules = dict(modules)
        self.optimisation = optimisation
        self.parameters = [
            p for module in self.modules.values() for p in module.parameters() if p.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=optimisation.lr, weight_decay=optimisation.weight_decay
        )
        self.position = Position()
        self.machine = Machine(self.parameters[0].device)
        self._warm = 0  # steps since the optimizer was new
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._saved_at = time.monotonic()
        self.restart_averages()

    @classmethod
    def resumed(
        cls,
        path: Path,
        modules: Mapping[str, nn.Module],
        optimisation: Optimisation,
        machine: Machine,
    ) -> TrainState:
        """From where it stands, if it has begun."""
        state = cls(path, modules, optimisation)
        state.resume()
        state.machine = machine
        return state

    def restart_averages(self) -> None:
        """Let the averages start from the modules as they are now."""
        self.averages = {
            f"{name}.{key}": value.detach().clone() for name, key, value in self._weights()
        }

    def _weights(self) -> list[tuple[str, str, Tensor]]:
        return [
            (name, key, value)
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        ]

    def resume(self) -> bool:
        """Load the full checkpoint, else the averages; False if there is neither."""
        if self._file("pt").exists():
            self._load_checkpoint()
        elif self._file("safetensors").exists():
            self._load_averages()
        else:
            return False
        return True

    def _load_checkpoint(self) -> None:
        device = self.parameters[0].device
        saved = torch.load(self._file("pt"), weights_only=True, map_location=device)
        for name, module in self.modules.items():
            module.load_state_dict(saved["modules"][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.averages = saved["averages"]
        self.position, self._warm = _position(saved["position"]), int(saved["warm"])

    def _load_averages(self) -> None:
        self.position = read_position(self._file("safetensors"))
        for name, module in self.modules.items():
            module.load_state_dict(read_averages(self._file("safetensors"), name))
        self.restart_averages()

    def save(self) -> None:
        """Write the checkpoint and the averages, each aside and then renamed."""
        payload = {
            "position": asdict(self.position),
            "warm": self._warm,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
        }
        with saving(self._file("pt")) as file:
            torch.save(payload, file)
        half = {key: _half(value) for key, value in self.averages.items()}
        metadata = {"position": json.dumps(asdict(self.position))}
        with saving(self._file("safetensors")) as file:
            file.write(save(half, metadata=metadata))
        self._saved_at = time.monotonic()
        self.machine.on_save()

    def load_averages(self) -> None:
        """Replace the modules' weights by their averages."""
        for name, module in self.modules.items():
            module.load_state_dict(_below(f"{name}.", self.averages))

    def run(self, loss: StepLoss, allowance: Allowance) -> None:
        """Train until the allowance is used up; save; leave the averages in the modules."""
        if not self.position.finished:
            self.position = self.position.on(self.machine.name)
        clock = _Clock()
        while not self.position.finished and self.position.step != allowance.stop_after:
            self._step(loss)
            took = clock.tick()
            self._advance(allowance, took)
            self._report(allowance)
        self.save()
        if self.position.finished:
            self.load_averages()

    def _step(self, loss: StepLoss) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        value, metrics = loss(self.position.step)
        self.optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.optimisation.clip)
        self.optimizer.step()
        self._average()
        for key, number in metrics.items():  # stays on the device until it is logged
            self._sums[key] = self._sums.get(key, 0.0) + number.detach()
        self._count += 1
        self._warm += 1

    def _learning_rate(self) -> float:
        options = self.optimisation
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.position.progress))
        return options.lr * cosine * min(1.0, (self._warm + 1) / options.warmup)

    @torch.no_grad()
    def _average(self) -> None:
        step = self.position.step
        decay = min(self.optimisation.ema_decay, (1 + step) / (10 + step))
        floats, values = [], []
        for name, key, value in self._weights():
            average = self.averages[f"{name}.{key}"]
            if value.is_floating_point():
                floats.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(floats, values, 1 - decay)

    def _advance(self, allowance: Allowance, took: float) -> None:
        at = self.position
        if allowance.steps is not None:
            progress = (at.step + 1) / allowance.steps
        else:  # what is left of the cosine falls to what is left of the time
            left = max(allowance.seconds - at.seconds, took, 1e-9)
            progress = at.progress + (1 - at.progress) * took / left
        self.position = replace(
            at,
            step=at.step + 1,
            samples=at.samples + self.optimisation.batch,
            progress=1.0 if progress > 1 - 1e-9 else progress,
            seconds=at.seconds + took,
        )

    def _report(self, allowance: Allowance) -> None:
        step = self.position.step
        if step % _LOG_EVERY == 0 or self.position.finished:
            self._log(allowance)
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def _log(self, allowance: Allowance) -> None:
        at, name = self.position, self.path.name
        row = {key: round(float(total) / self._count, 5) for key, total in self._sums.items()}
        self._sums, self._count = {}, 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._file("jsonl").open("a") as log:
            log.write(json.dumps({**_numbers(at), **row}) + "\n")
        left = allowance.seconds - at.seconds
        if allowance.steps is not None:
            left = at.seconds / at.step * (allowance.steps - at.step)
        print(f"{name} step {at.step} {at.progress:.0%} {row} {left / 60:.0f} min left", flush=True)

    def _file(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")


class _Clock:
    """Seconds from one tick to the next; time in which the process was stopped does not count."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._usual: float | None = None

    def tick(self) -> float:
        now = time.monotonic()
        took, self._last = now - self._last, now
        if self._usual is None:
            self._usual = took
        took = min(took, _HICCUP * self._usual)
        self._usual += 0.05 * (took - self._usual)
        return took


def _numbers(at: Position) -> dict[str, float]:
    """What a log's line tells of the place."""
    return {key: value for key, value in asdict(at).items() if key != "machines"}


def read_position(path: Path) -> Position:
    """Where the averages in a file stand; the beginning if there is no such file."""
    if not path.exists():
        return Position()
    with safe_open(path, "pt") as file:
        return _position(json.loads(file.metadata()["position"]))


def _position(stored: Mapping[str, Any]) -> Position:
    return Position(**{**stored, "machines": tuple(stored.get("machines", ()))})


def read_averages(path: Path, module: str) -> dict[str, Tensor]:
    """One module's averaged weights, float32 where they are floats. Raises WeightsError."""
    if not path.exists():
        raise WeightsError(f"{path} is not there: train its stage first")
    prefix = f"{module}."
    with safe_open(path, "pt") as file:
        return {
            key.removeprefix(prefix): _full(file.get_tensor(key))
            for key in file.keys()  # noqa: SIM118 -- no mapping
            if key.startswith(prefix)
        }


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


def _half(value: Tensor) -> Tensor:
    return (value.half() if value.is_floating_point() else value).contiguous().cpu()


def _full(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
