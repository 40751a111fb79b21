"""``baton train-masks``: learns which blocks a member can skip at each step, and stores it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.cli import print_json
from common.errors import ExecutionFailed, InvalidRequest
from common.quiet import quiet_libraries

quiet_libraries()

from common.accel.heatmap import heat_map  # noqa: E402
from common.accel.masks import BlockMask, Purpose, mask_path, save_mask  # noqa: E402
from common.accel.prompts import sample_prompts  # noqa: E402
from common.accel.propagation import uniform_keys  # noqa: E402
from common.accel.training import MaskTrainer, PartialMask, Settings  # noqa: E402
from common.diffusion.blocks import BlockGraph, Shared  # noqa: E402
from common.diffusion.executor import Run  # noqa: E402
from common.diffusion.profile import Profile, seconds_of  # noqa: E402
from common.families.loader import Family, load_family  # noqa: E402
from common.families.local import begin  # noqa: E402
from common.plan import Arm, Task, check_sampler, check_steps  # noqa: E402

COSTS = ("time", "macs", "blocks")


@dataclass(frozen=True)
class MaskRequest:
    """What to train for.

    cost: what the target speed is counted in; propagated: within encoder propagation, whose key
    steps are those at which everything is refreshed, or the member's own without a refresh;
    out: a file, None for the member's own place.
    """

    family: str
    member: str
    sampler: str
    steps: int
    count: int
    prompts: Path | None
    cost: str
    out: Path | None
    propagated: bool = False


def train_masks(request: MaskRequest, settings: Settings, as_json: bool) -> None:
    """Train, store, and tell. Goes on where an interrupted run of the same kind stopped.

    Raises BatonError.
    """
    _check(request, settings)
    family = load_family(request.family, [request.member])
    graph = family.member(request.member).blocks
    sampler = check_sampler(request.sampler)
    fingerprint = family.member_fingerprints[request.member]
    keys = _keys(family, request, settings.refresh_every)
    purpose = Purpose(family.name, request.member, fingerprint, sampler, request.steps, keys)
    folder = family.masks_folder(request.member)
    path = request.out or mask_path(folder, sampler, request.steps, request.propagated)
    runs = _runs(family, request, settings.seed)
    counted = family.profile(request.member)
    terms = {"purpose": str(purpose), "settings": repr(settings), "request": repr(request)}
    costs, begun = _restore(path, terms) or (_costs(request.cost, counted, graph, runs), None)
    trainer = MaskTrainer(graph, runs, costs, settings, keys)
    keep = _Keeper(path, terms, costs)
    settled = _train(trainer, begun, keep, quiet=as_json)
    flow = graph.flow(settled.run)
    removed = sum((m & ~r).bit_count() for m, r in zip(settled.run, flow.run, strict=True))
    speed = {"speed": round(trainer.speed(), 4), "macs_speed": round(counted.speed(flow.run), 4)}
    told: dict[str, Any] = asdict(settings) | {"cost": request.cost, "prompts": request.count}
    told |= speed | {"removed_by_rectification": removed}
    mask = BlockMask(purpose, graph.names, tuple(settled.run), tuple(settled.chances), told)
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
    run = graph.flow(mask.run).run
    runs = np.array([[bits >> block & 1 for bits in run] for block in range(len(graph))])
    chances = np.where(runs, np.array(mask.chances).T, np.nan)
    full = [step for step, bits in enumerate(run) if bits | graph.constant == graph.all]
    try:
        heat_map(path, chances, mask.blocks, str(mask.purpose), full, "chance to run", 1.0)
    except ExecutionFailed as error:
        return None, str(error)
    return str(path), ""


def _check(request: MaskRequest, settings: Settings) -> None:
    check_steps(request.steps)
    if request.steps < 2:
        raise InvalidRequest("a mask needs at least 2 steps: the first one runs in full")
    if request.cost not in COSTS:
        raise InvalidRequest(f"unknown cost {request.cost[:32]!r}; known: {', '.join(COSTS)}")
    if not 1.0 < settings.target_speed <= 10.0:
        raise InvalidRequest(
            f"the target speed is above 1 and at most 10, got {settings.target_speed}"
        )
    if settings.refresh_every < 0 or settings.refresh_every == 1:
        raise InvalidRequest(
            f"refresh at least every second step, or 0 for never, got {settings.refresh_every}"
        )
    if settings.iterations < 1:
        raise InvalidRequest(f"at least one iteration is needed, got {settings.iterations}")


def _keys(family: Family, request: MaskRequest, refresh_every: int) -> tuple[int, ...]:
    """Raises InvalidRequest if every step would be a key step."""
    if not request.propagated:
        return ()
    if refresh_every:
        return uniform_keys(request.steps, refresh_every)
    keys = family.accelerator.of(request.member).propagation.keys_for(request.steps)
    if len(keys) == request.steps:
        raise InvalidRequest(
            f"with {request.steps} steps every step of {request.member} is a key step, which runs"
            " in full; take more steps, or --refresh-every"
        )
    return keys


def _runs(family: Family, request: MaskRequest, seed: int) -> list[Run]:
    """One per prompt, with seeds of their own, at the family's default guidance."""
    prompts = sample_prompts(family.manifest, request.count, seed, request.prompts)
    arm = Arm("device", (request.member,), 0.0)
    guidance = family.manifest.default_guidance
    plan = arm.expand(family.name, check_sampler(request.sampler), request.steps, guidance)
    size = family.manifest.sizes.default
    return [
        begin(family, Task(prompt, "", plan, seed * 1_000_003 + index, size))
        for index, prompt in enumerate(prompts)
    ]


def _shared(runs: list[Run]) -> Shared:
    first = runs[0]
    contexts = torch.stack([first.conditioning.positive, first.conditioning.negative]).clone()
    latents = torch.stack([first.x, first.x])
    return Shared(latents, torch.full((2,), first.schedule.timesteps[0]), contexts)


def _costs(kind: str, counted: Profile, graph: BlockGraph, runs: list[Run]) -> list[float]:
    if kind == "macs":
        return [float(macs) for macs in counted.macs]
    if kind == "blocks":
        return [1.0] * len(counted.macs)
    return seconds_of(graph, _shared(runs))


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
        partial = _partial(self.path)
        partial.parent.mkdir(parents=True, exist_ok=True)
        content = self.terms | {"costs": self.costs, **asdict(settled)}
        temporary = partial.with_name(partial.name + ".new")
        temporary.write_text(json.dumps(content))
        temporary.replace(partial)


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
