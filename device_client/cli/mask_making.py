"""The model's part of ``baton train-masks``: trained, stored and told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from baton.common.accel.heatmap import heat_map
from baton.common.accel.mask_settings import Settings
from baton.common.accel.masks import BlockMask, MaskKey, save_mask
from baton.common.accel.training import MaskTrainer, PartialMask
from baton.common.cli import print_json
from baton.common.diffusion.blocks import BlockGraph, ModelInputs
from baton.common.diffusion.executor import Run
from baton.common.diffusion.profile import Profile, seconds_of
from baton.common.errors import ExecutionFailed, executing
from baton.common.families.loader import load_family
from baton.common.families.local import begin
from baton.common.files import saving
from baton.device_client.cli.mask_training import MaskRequest, Terms


def train_and_tell(request: MaskRequest, asked: Terms, settings: Settings, as_json: bool) -> None:
    """Raises BatonError."""
    family = load_family(request.family, [request.member])
    graph = family.member(request.member).blocks
    fingerprint = family.member_fingerprints[request.member]
    keys, path = asked.keys, asked.path
    key = MaskKey(family.name, request.member, fingerprint, asked.sampler, request.steps, keys)
    runs = [begin(family, task) for task in asked.tasks]
    counted = family.profile(request.member)
    terms = {"key": str(key), "settings": repr(settings), "request": repr(request)}
    costs, begun = _restore(path, terms) or (_costs(request.cost, counted, graph, runs), None)
    trainer = MaskTrainer(graph, runs, costs, settings, keys)
    keep = _Keeper(path, terms, costs)
    with executing("training the mask"):
        settled = _train(trainer, begun, keep, quiet=as_json)
    flow = graph.schedule(settled.run)
    removed = sum((m & ~r).bit_count() for m, r in zip(settled.run, flow.run, strict=True))
    speed = {"speed": round(trainer.speed(), 4), "macs_speed": round(counted.speed(flow.run), 4)}
    told: dict[str, Any] = asdict(settings) | {"cost": request.cost, "prompts": request.count}
    told |= speed | {"removed_by_rectification": removed}
    mask = BlockMask(key, graph.names, tuple(settled.run), tuple(settled.chances), told)
    save_mask(mask, path)
    _partial(path).unlink(missing_ok=True)
    plot, note = _plotted(path.with_suffix(".png"), mask, graph)
    if as_json:
        print_json({"path": str(path), "plot": plot, "notes": [note] if note else [], **told})
        return
    print(
        f"{path}: {trainer.speed():.2f}x by {request.cost}, {speed['macs_speed']:.2f}x in MACs;"
        f" {removed} entries removed by rectification"
    )
    print(note or f"plot: {plot}")


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
    contexts = torch.stack([first.conditioning.positive, first.conditioning.negative]).clone()
    latents = torch.stack([first.x, first.x])
    return ModelInputs(latents, torch.full((2,), first.schedule.timesteps[0]), contexts)


def _costs(kind: str, counted: Profile, graph: BlockGraph, runs: list[Run]) -> list[float]:
    if kind == "macs":
        return [float(macs) for macs in counted.macs]
    if kind == "blocks":
        return [1.0] * len(counted.macs)
    return seconds_of(graph, _inputs(runs))


def _train(
    trainer: MaskTrainer, begun: PartialMask | None, keep: _Keeper, quiet: bool
) -> PartialMask:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        bar = progress.add_task("training the mask", total=trainer.steps)

        def on_step(settled: PartialMask) -> None:
            keep(settled)
            told = f"training the mask ({trainer.speed():.2f}x)"
            progress.update(bar, completed=len(settled.run), description=told)

        return trainer.train(begun, on_step)


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
