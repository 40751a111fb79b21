"""A block mask trained on a member's own trajectories, and stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baton.common.accel.heatmap import heat_map
from baton.common.accel.mask_settings import Settings
from baton.common.accel.masks import BlockMask, MaskKey, save_mask
from baton.common.accel.training import MaskTrainer, PartialMask
from baton.common.diffusion.blocks import BlockGraph, ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.diffusion.profile import Profile, seconds_of
from baton.common.diffusion.run import Run
from baton.common.errors import ExecutionFailed, executing
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.files import saving
from baton.common.limits import BOTH
from baton.common.tooling.mask_request import MaskRequest, MaskTerms


@dataclass(frozen=True)
class TrainedMask:
    """A mask that was trained and stored. plot: beside it, or None for the reason in ``note``.

    speed: of the rectified mask, by the cost that was asked for; macs_speed: in MACs; removed:
    entries that rectification took away.
    """

    path: Path
    mask: BlockMask
    speed: float
    macs_speed: float
    removed: int
    plot: str | None
    note: str

    def describe(self) -> dict[str, Any]:
        """For programs."""
        notes = [self.note] if self.note else []
        return {"path": str(self.path), "plot": self.plot, "notes": notes, **self.mask.settings}


def train_mask(
    family: LoadedFamily,
    request: MaskRequest,
    asked: MaskTerms,
    settings: Settings,
    on_step: Callable[[int, float], None],
) -> TrainedMask:
    """Train and store a mask; goes on where an interrupted run of the same kind stopped.

    on_step: hears after each step how many are settled, and the speed so far. Raises
    ExecutionFailed, or InvalidRequest if the file cannot be written.
    """
    graph, counted = family.blocks(request.member), family.profile(request.member)
    key, runs = _key(family, request, asked), [begin(family, task) for task in asked.tasks]
    kind = {"key": str(key), "settings": repr(settings), "request": repr(request)}
    restored = _restore(asked.path, kind)
    costs, begun = restored or (_costs(request.cost, counted, graph, runs), None)
    trainer = MaskTrainer(graph, runs, costs, settings, asked.keys)
    settled = _settled(trainer, begun, _Keeper(asked.path, kind, costs), on_step)
    run = graph.schedule(settled.run).run
    removed = sum((m & ~r).bit_count() for m, r in zip(settled.run, run, strict=True))
    speed, macs_speed = trainer.speed(), round(counted.speed(run), 4)
    told: dict[str, Any] = asdict(settings) | {
        "cost": request.cost,
        "prompts": request.count,
        "speed": round(speed, 4),
        "macs_speed": macs_speed,
        "removed_by_rectification": removed,
    }
    mask = BlockMask(key, graph.names, tuple(settled.run), tuple(settled.chances), told)
    save_mask(mask, asked.path)
    _partial(asked.path).unlink(missing_ok=True)
    plot, note = _plotted(asked.path.with_suffix(".png"), mask, graph)
    return TrainedMask(asked.path, mask, speed, macs_speed, removed, plot, note)


def _key(family: LoadedFamily, request: MaskRequest, asked: MaskTerms) -> MaskKey:
    fingerprint = family.member_fingerprints[request.member]
    levels = family.schedule(asked.sampler, request.steps).digest
    of = family.name, request.member, fingerprint, asked.sampler, request.steps, levels
    return MaskKey(*of, asked.keys)


def _settled(
    trainer: MaskTrainer,
    begun: PartialMask | None,
    keep: _Keeper,
    on_step: Callable[[int, float], None],
) -> PartialMask:
    def settle(partial: PartialMask) -> None:
        keep(partial)
        on_step(len(partial.run), trainer.speed())

    with executing("training the mask"):
        return trainer.train(begun, settle)


def _plotted(path: Path, mask: BlockMask, graph: BlockGraph) -> tuple[str | None, str]:
    """The plot's path, or None and the reason. Blank is what does not run."""
    run = graph.schedule(mask.run).run
    runs = np.array([[bits >> block & 1 for bits in run] for block in range(len(graph))])
    chances = np.where(runs, np.array(mask.chances).T, np.nan)
    full = [step for step, bits in enumerate(run) if bits | graph.constant == graph.all]
    try:
        heat_map(path, chances, mask.blocks, str(mask.key), full, "chance to run", 1.0)
    except ExecutionFailed as error:
        return None, str(error)
    return str(path), ""


def _inputs(runs: list[Run]) -> ModelInputs:
    first = runs[0]
    conditioning = stacked([first.encoded.row(branch) for branch in BOTH])
    latents = torch.stack([first.x, first.x])
    return ModelInputs(latents, torch.full((2,), first.course.timesteps[0]), conditioning)


def _costs(kind: str, counted: Profile, graph: BlockGraph, runs: list[Run]) -> list[float]:
    if kind == "macs":
        return [float(macs) for macs in counted.macs]
    if kind == "blocks":
        return [1.0] * len(counted.macs)
    return seconds_of(graph, _inputs(runs))


@dataclass(frozen=True)
class _Keeper:
    """Writes what is settled beside the mask to be, so that an interrupted run can go on."""

    path: Path
    terms: dict[str, str]
    costs: list[float]

    def __call__(self, settled: PartialMask) -> None:
        content = self.terms | {"costs": self.costs, **asdict(settled)}
        with saving(_partial(self.path)) as file:
            file.write(json.dumps(content).encode())


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _restore(path: Path, terms: dict[str, str]) -> tuple[list[float], PartialMask] | None:
    """Costs and what an interrupted run has settled, if it was of the same kind."""
    try:
        content = json.loads(_partial(path).read_text())
        if any(content[key] != value for key, value in terms.items()):
            return None
        chances = [tuple(row) for row in content["chances"]]
        return list(content["costs"]), PartialMask(list(content["run"]), chances)
    except (OSError, ValueError, KeyError, TypeError):
        return None
