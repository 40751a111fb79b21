"""The model's part of ``baton analyze``: measured, written and told."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from baton.common.accel.features import Changes, Features, measure, propose_keys, read_by_decoder
from baton.common.accel.heatmap import heat_map
from baton.common.cli import print_json, print_rows
from baton.common.diffusion.blocks import BlockGraph
from baton.common.diffusion.executor import Run
from baton.common.errors import ExecutionFailed, executing
from baton.common.families.loader import Family, load_family
from baton.common.families.local import begin, use_threads
from baton.common.files import saving
from baton.common.outputs import claiming, make_folder
from baton.common.plan import Task
from baton.device_client.cli.analyzing import Place, Terms
from baton.device_client.settings import DeviceSettings

#: Pictures in one model call: the outputs of all blocks are held for each.
_BATCH = 4
#: Share of the changes that the plot's colours tell apart; a few outliers would hide the others.
_SHOWN = 0.99


@dataclass(frozen=True)
class _Stage:
    """One level of the network: means over its blocks and over the steps.

    squared and relative: as in `Features`; most: the step at which the relative change is greatest.
    """

    stage: str
    part: str
    blocks: int
    squared: float
    relative: float
    most: int


def measure_and_tell(settings: DeviceSettings, terms: Terms, place: Place, as_json: bool) -> None:
    """Raises BatonError."""
    use_threads(settings.threads)
    family = load_family(settings.family, [terms.member])
    graph = family.member(terms.member).blocks
    with executing("measuring"):
        features = _measured(family, graph, terms, quiet=as_json)
    keys = propose_keys(features, terms.keys)
    found = _describe(features, terms, keys, family.member_fingerprints[terms.member])
    make_folder(place.path)
    with contextlib.nullcontext(place.path) if place.named else claiming(place.path) as path:
        found["plot"], found["notes"] = _plotted(path.with_suffix(".png"), features, terms, keys)
        found["path"] = str(path)
        with saving(path) as file:
            file.write(json.dumps(found, allow_nan=False).encode() + b"\n")
    if as_json:
        print_json(found)
    else:
        _tell(features, found)


def _measured(family: Family, graph: BlockGraph, terms: Terms, quiet: bool) -> Features:
    console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
    columns = TextColumn("{task.description:<28}", markup=False), BarColumn(), MofNCompleteColumn()
    total = terms.plan.steps * -(-len(terms.tasks) // _BATCH)
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"{terms.member}, {len(terms.tasks)} pictures", total=total)
        return measure(graph, _batches(family, terms.tasks), lambda: progress.advance(bar))


def _batches(family: Family, tasks: Sequence[Task]) -> Iterator[list[Run]]:
    for start in range(0, len(tasks), _BATCH):
        yield [begin(family, task) for task in tasks[start : start + _BATCH]]


def _describe(
    features: Features, terms: Terms, keys: tuple[int, ...], fingerprint: str
) -> dict[str, Any]:
    """Everything, for programs; the prompts are left out. Changes of the first step are null."""
    read = read_by_decoder(features.graph)
    return {
        "family": terms.plan.family,
        "member": terms.member,
        "fingerprint": fingerprint,
        "sampler": terms.plan.sampler,
        "steps": terms.plan.steps,
        "guidance": terms.plan.guidance_scale,
        "pictures": len(terms.tasks),
        "rows": features.rows,
        "seed": terms.tasks[0].seed,
        "keys": list(keys),
        "propagation": {terms.member: {"keys": list(keys), "steps": terms.plan.steps}},
        "stages": [asdict(stage) for stage in _stages(features)],
        "drift": _numbers(features.drift(read)),
        "blocks": [
            {
                "block": block.name,
                "part": block.part,
                "constant": block.constant,
                "read_by_decoder": bool(read >> index & 1),
                "squared": _numbers(features.squared[:, index]),
                "relative": _numbers(features.relative[:, index]),
            }
            for index, block in enumerate(features.graph.blocks)
        ],
    }


def _numbers(changes: Changes) -> list[float | None]:
    return [None, *(float(f"{change:.6g}") for change in changes[1:])]


def _stages(features: Features) -> list[_Stage]:
    """The levels of the network, most changed first; embeddings are left out."""
    levels: dict[tuple[str, str], list[int]] = {}
    for index, block in enumerate(features.graph.blocks):
        if features.maps >> index & 1:
            levels.setdefault((_level(block.name), block.part), []).append(index)
    stages = []
    for (name, part), blocks in levels.items():
        squared, relative = features.squared[1:, blocks], features.relative[1:, blocks]
        most = int(relative.mean(axis=1).argmax()) + 1
        means = float(squared.mean()), float(relative.mean())
        stages.append(_Stage(name, part, len(blocks), *means, most))
    return sorted(stages, key=lambda stage: -stage.relative)


def _level(block: str) -> str:
    """``down.0.resnet.1`` to ``down.0``, ``mid.resnet.0`` to ``mid``, ``conv_in`` to itself."""
    words = block.split(".")
    return ".".join(words[:2]) if words[1:2] and words[1].isdigit() else words[0]


def _plotted(
    path: Path, features: Features, terms: Terms, keys: tuple[int, ...]
) -> tuple[str | None, list[str]]:
    """The plot's path, or None and the reason."""
    plan, changes = terms.plan, features.relative.T.copy()
    changes[:, 0] = np.nan
    shown = [changes[index] for index in range(len(changes)) if features.maps >> index & 1]
    title = (
        f"{plan.family}/{terms.member}, {plan.sampler}, guidance {plan.guidance_scale:g}:"
        f" change of each block's output, mean over {len(terms.tasks)} pictures"
    )
    label, top = "||f_t - f_(t+1)|| / ||f_(t+1)||", float(np.nanquantile(shown, _SHOWN))
    try:
        heat_map(path, changes, features.graph.names, title, keys, label, top)
    except ExecutionFailed as error:
        return None, [str(error)]
    return str(path), []


def _tell(features: Features, found: dict[str, Any]) -> None:
    stages, graph = _stages(features), features.graph
    rows = [asdict(stage) | {"squared": f"{stage.squared:.3g}"} for stage in stages]
    print_rows(rows, list(rows[0]), as_json=False)
    encoder, decoder = (
        features.drift(part & features.maps)[1:].mean() for part in (graph.encoder, ~graph.encoder)
    )
    print(
        f"\n{stages[0].stage} changes most, by {stages[0].relative:.1%} a step; the encoder's"
        f" blocks by {encoder:.1%}, the decoder's by {decoder:.1%}"
    )
    print(f"{len(found['keys'])} key steps of {features.steps}; under propagation in family.json:")
    print(f"  {json.dumps(found['propagation'])[1:-1]}")
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(", ".join(name for name in (found["path"], found["plot"]) if name))
