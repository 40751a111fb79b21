"""A member's features measured: its stages, the key steps to take, a file and a plot of it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baton.common.accel.features import Changes, Features, measure, propose_keys, read_by_decoder
from baton.common.accel.heatmap import heat_map
from baton.common.diffusion.run import Run
from baton.common.errors import executing
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.request import Task
from baton.common.tooling.analysis import BATCH, Terms
from baton.common.tooling.places import Place, write

#: Share of the changes that the plot's colours tell apart; a few outliers would hide the others.
_SHOWN = 0.99


@dataclass(frozen=True)
class Stage:
    """One level of the network: means over its blocks and over the steps.

    squared and relative: as in `Features`; most: the step at which the relative change is greatest.
    """

    stage: str
    part: str
    blocks: int
    squared: float
    relative: float
    most: int


@dataclass(frozen=True)
class Analysis:
    """What was measured, and the key steps that follow. fingerprint: of the member."""

    terms: Terms
    features: Features
    keys: tuple[int, ...]
    fingerprint: str

    @property
    def stages(self) -> list[Stage]:
        """The levels of the network, most changed first; embeddings are left out."""
        features, levels = self.features, dict[tuple[str, str], list[int]]()
        for index, block in enumerate(features.graph.blocks):
            if features.maps >> index & 1:
                levels.setdefault((_level(block.name), block.part), []).append(index)
        stages = [_stage(features, *level, blocks) for level, blocks in levels.items()]
        return sorted(stages, key=lambda stage: -stage.relative)

    @property
    def mean_drifts(self) -> tuple[float, float]:
        """Relative change a step of the encoder's blocks, and of the decoder's."""
        features, encoder = self.features, self.features.graph.encoder
        parts = encoder & features.maps, ~encoder & features.maps
        encoder_drift, decoder_drift = (float(features.drift(p)[1:].mean()) for p in parts)
        return encoder_drift, decoder_drift

    def describe(self) -> dict[str, Any]:
        """For programs, without the prompts; the first step's changes are null."""
        terms, features = self.terms, self.features
        return {
            "family": terms.plan.family,
            "member": terms.member,
            "fingerprint": self.fingerprint,
            "sampler": terms.plan.samplers[0],
            "steps": terms.plan.steps,
            "guidance": terms.plan.segments[0].guidance.scale,
            "pictures": len(terms.tasks),
            "rows": features.rows,
            "seed": terms.tasks[0].seed,
            "keys": list(self.keys),
            "propagation": {terms.member: {"keys": list(self.keys), "steps": terms.plan.steps}},
            "stages": [asdict(stage) for stage in self.stages],
            "drift": _numbers(features.drift(read_by_decoder(features.graph))),
            "blocks": _blocks(features),
        }

    def write(self, place: Place) -> dict[str, Any]:
        """Write the JSON file and the plot beside it; returns what the file holds.

        Raises InvalidRequest if they cannot be written.
        """
        return write(place, self.describe(), self._plot)

    def _plot(self, path: Path) -> None:
        terms, features, plan = self.terms, self.features, self.terms.plan
        changes, scale = features.relative.T.copy(), plan.segments[0].guidance.scale
        changes[:, 0] = np.nan
        shown = [changes[index] for index in range(len(changes)) if features.maps >> index & 1]
        title = (
            f"{plan.family}/{terms.member}, {plan.samplers[0]}, guidance {scale:g}:"
            f" change of each block's output, mean over {len(terms.tasks)} pictures"
        )
        label, top = "||f_t - f_(t+1)|| / ||f_(t+1)||", float(np.nanquantile(shown, _SHOWN))
        heat_map(path, changes, features.graph.names, title, self.keys, label, top)


def measured(family: LoadedFamily, terms: Terms, on_step: Callable[[], None]) -> Analysis:
    """Draw the terms' pictures with their member and measure on the way.

    on_step: called after each of ``terms.calls`` steps. Raises ExecutionFailed.
    """
    graph = family.blocks(terms.member)
    with executing("measuring"):
        features = measure(graph, _batches(family, terms.tasks), on_step)
    keys = propose_keys(features, terms.keys)
    return Analysis(terms, features, keys, family.member_fingerprints[terms.member])


def _batches(family: LoadedFamily, tasks: Sequence[Task]) -> Iterator[list[Run]]:
    for start in range(0, len(tasks), BATCH):
        yield [begin(family, task) for task in tasks[start : start + BATCH]]


def _blocks(features: Features) -> list[dict[str, Any]]:
    read = read_by_decoder(features.graph)
    return [
        {
            "block": block.name,
            "part": block.part,
            "constant": block.constant,
            "read_by_decoder": bool(read >> index & 1),
            "squared": _numbers(features.squared[:, index]),
            "relative": _numbers(features.relative[:, index]),
        }
        for index, block in enumerate(features.graph.blocks)
    ]


def _numbers(changes: Changes) -> list[float | None]:
    return [None, *(float(f"{change:.6g}") for change in changes[1:])]


def _stage(features: Features, name: str, part: str, blocks: list[int]) -> Stage:
    squared, relative = features.squared[1:, blocks], features.relative[1:, blocks]
    most = int(relative.mean(axis=1).argmax()) + 1
    return Stage(name, part, len(blocks), float(squared.mean()), float(relative.mean()), most)


def _level(block: str) -> str:
    """``down.0.resnet.1`` to ``down.0``, ``mid.resnet.0`` to ``mid``, ``conv_in`` to itself."""
    words = block.split(".")
    return ".".join(words[:2]) if words[1:2] and words[1].isdigit() else words[0]
