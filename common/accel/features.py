"""How much each block's output changes from step to step, and the key steps that follow from it.

What changes little can be reused (Faster Diffusion, Li et al. 2024, Sec. 3.2), so a family's own
key steps come from its own features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from baton.common.accel.propagation import LONGEST_GROUP, check_key_count
from baton.common.diffusion.blocks import BlockGraph, Blocks, ModelInputs
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.run import Run
from baton.common.errors import InvalidRequest

Changes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Changes of a member's features along the plain trajectory, means over ``rows`` rows.

    A row is one branch of one picture. Both are [steps, blocks] and compare a step with the one
    before it, so the first step's are 0. squared: per element, ``||f_t - f_(t+1)||^2 / (d s^2)``
    (Faster Diffusion, Eq. 2); relative: ``||f_t - f_(t+1)|| / ||f_(t+1)||`` (block masking, Eq. 9).
    maps: the blocks that put out something for each place of the picture: all but embeddings.
    """

    graph: BlockGraph
    maps: Blocks
    rows: int
    squared: Changes = field(repr=False)
    relative: Changes = field(repr=False)

    @property
    def steps(self) -> int:
        return len(self.squared)

    def drift(self, blocks: Blocks) -> Changes:
        """Relative change by step, [steps], mean over some blocks."""
        chosen = [index for index in range(len(self.graph)) if blocks >> index & 1]
        return np.asarray(self.relative[:, chosen].mean(axis=1))


def measure(
    graph: BlockGraph, batches: Iterable[Sequence[Run]], on_step: Callable[[], None] | None = None
) -> Features:
    """Run every batch to its end and measure on the way.

    batches: fresh runs of plans in which every step runs in full, alike within a batch and of the
    same number of steps; on_step is called after each step of a batch. Raises InvalidRequest for
    other plans, ExecutionFailed if a latent stops being finite.
    """
    watches = [_watched(graph, runs, on_step) for runs in batches]
    if len({watch.steps for watch in watches}) != 1:
        raise InvalidRequest("features are measured on one number of steps")
    rows = sum(watch.rows for watch in watches)
    squared = np.sum([watch.squared for watch in watches], axis=0) / rows
    relative = np.sum([watch.relative for watch in watches], axis=0) / rows
    return Features(graph, watches[0].maps, rows, squared, relative)


def _watched(graph: BlockGraph, runs: Sequence[Run], on_step: Callable[[], None] | None) -> _Watch:
    _check_alike(runs)
    watch = _Watch(graph, runs[0].plan.steps)
    while runs[0].step < watch.steps:
        denoise_step(runs, watch)
        for run in runs:
            if run.error is not None:
                raise run.error
        if on_step is not None:
            on_step()
    watch.release()
    return watch


def _check_alike(runs: Sequence[Run]) -> None:
    """All rows of a batch take part in every step, or they could not be compared."""
    kinds = {
        (run.plan.steps, run.step, run.plan.segment_at(run.step).guidance.two_branches, directive)
        for run in runs
        for segment in run.plan.segments
        for directive in segment.directives
    }
    plain = len(kinds) == 1 and all(
        step == 0 and directive.blocks is None and not directive.prior_noise
        for _, step, _, directive in kinds
    )
    if not plain:
        raise InvalidRequest("features are measured where every step of every run is plain")


class _Watch(Denoiser):
    """A member as the executor calls it, run block by block; sums up changes over the rows.

    It keeps one output per block: that of the step before, until the block has run again.
    """

    def __init__(self, graph: BlockGraph, steps: int) -> None:
        self._graph = graph
        self._outputs: list[Tensor] = []
        self._step = 0
        self.steps = steps
        self.rows = 0
        self.maps: Blocks = 0
        self.squared: Changes = np.zeros((steps, len(graph)))
        self.relative: Changes = np.zeros((steps, len(graph)))

    def __call__(self, inputs: ModelInputs) -> Tensor:
        outputs = self._outputs
        for index, block in enumerate(self._graph.blocks):
            output = block.run([outputs[source] for source in block.inputs], inputs)
            if self._step:
                squared, relative = _change(output, outputs[index])
                self.squared[self._step, index] = squared
                self.relative[self._step, index] = relative
                outputs[index] = output
            else:
                outputs.append(output)
                self.maps |= (output.dim() > 2) << index
        self.rows = len(inputs.sample)
        self._step += 1
        return outputs[-1]

    def release(self) -> None:
        self._outputs.clear()


def _change(now: Tensor, before: Tensor) -> tuple[float, float]:
    """Squared change per element, and relative change; each [B, ...] row's, summed over the rows.

    Whatever comes after nothing but zeros is wholly new: its relative change is 1.
    """
    distance = _norms(now - before)
    size = _norms(before)
    relative = torch.where(size > 0, distance / size, (distance > 0).double())
    return (distance.square().sum() / before[0].numel()).item(), relative.sum().item()


def _norms(rows: Tensor) -> Tensor:
    """[B, ...] to [B], float64."""
    norms: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1)
    return norms.double()


def read_by_decoder(graph: BlockGraph) -> Blocks:
    """The encoder's blocks that the decoder reads, constant ones left out: what propagation reuses.

    In a UNet these are the sources of the skip connections and the last block of the middle.
    """
    decoder = graph.all & ~graph.encoder
    read = sum(1 << index for index, readers in enumerate(graph.readers) if readers & decoder)
    return read & graph.encoder & ~graph.constant


def propose_keys(features: Features, count: int) -> tuple[int, ...]:
    """So many key steps, between which the encoder changes equally much, as far as steps allow.

    What counts is the cumulated relative change of what the decoder reads. Raises InvalidRequest.
    """
    steps = features.steps
    check_key_count(count, steps)
    drift = features.drift(read_by_decoder(features.graph))
    passed = np.cumsum(drift) if drift.any() else np.arange(steps, dtype=np.float64)
    keys = [0]
    for left in range(count - 1, 0, -1):  # groups that the next key and those after it begin
        last = keys[-1]
        share = (passed[-1] - passed[last]) / (left + 1)
        wanted = int(np.searchsorted(passed, passed[last] + share))
        earliest = max(last + 1, steps - left * LONGEST_GROUP)
        latest = min(last + LONGEST_GROUP, steps - left)
        keys.append(min(max(wanted, earliest), latest))
    return tuple(keys)
