"""What each block of a member costs: multiply-accumulates and bytes, counted on one row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from baton.common.diffusion.blocks import BlockGraph, Blocks, BlockSchedule, ModelInputs


def _attention_flops(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any
) -> int:
    """Of the products of shapes [B, heads, L, D] alone, as of other kernels."""
    flops: int = sdpa_flop_count(q, k, v)
    return flops


#: The kernel of attention that torch's counter does not know: that of CPUs.
_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@dataclass(frozen=True)
class Profile:
    """By block and for one row: MACs of a run, the output's shape, and its bytes.

    activation_bytes: the most that the blocks' outputs take at a time while all of them run.
    """

    macs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    nbytes: tuple[int, ...]
    activation_bytes: int

    def macs_of(self, blocks: Blocks) -> int:
        """MACs of a step that runs these blocks."""
        return sum(macs for index, macs in enumerate(self.macs) if blocks >> index & 1)

    def speed(self, run: Sequence[Blocks]) -> float:
        """MACs of as many full steps, in those of these."""
        return len(run) * sum(self.macs) / sum(self.macs_of(blocks) for blocks in run)

    def cache_bytes(self, flow: BlockSchedule) -> int:
        """The most that one row keeps between steps."""
        held = (
            sum(size for index, size in enumerate(self.nbytes) if blocks >> index & 1)
            for blocks in flow.held
        )
        return max(held, default=0)


@torch.inference_mode()
def profile(graph: BlockGraph, inputs: ModelInputs) -> Profile:
    """Count on the first of the given rows; what it holds does not matter.

    On the meta device nothing is computed; what is counted is the same on every device.
    """
    one = inputs.rows(torch.tensor([0]))
    outputs: list[Tensor] = []
    macs = []
    counter = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
    with counter:
        for block in graph.blocks:
            before = counter.get_total_flops()
            outputs.append(block.run([outputs[source] for source in block.inputs], one))
            macs.append((counter.get_total_flops() - before) // 2)
    nbytes = tuple(output.nbytes for output in outputs)
    return Profile(
        macs=tuple(macs),
        shapes=tuple(tuple(output.shape[1:]) for output in outputs),
        nbytes=nbytes,
        activation_bytes=_most_at_a_time(graph, nbytes),
    )


def _most_at_a_time(graph: BlockGraph, nbytes: Sequence[int]) -> int:
    """Bytes of the outputs that are still to be read, at the block where they are most."""
    now = most = 0
    for index, size in enumerate(nbytes):
        now += size
        most = max(most, now)
        now -= sum(nbytes[source] for source in graph.released[index])
    return most


@torch.inference_mode()
def seconds_of(graph: BlockGraph, inputs: ModelInputs, repeats: int = 15) -> list[float]:
    """By block, median seconds for these rows on this machine."""
    samples: list[list[float]] = [[] for _ in graph.blocks]
    for _ in range(repeats):
        outputs: list[Tensor] = []
        for index, block in enumerate(graph.blocks):
            begun = time.perf_counter()
            outputs.append(block.run([outputs[source] for source in block.inputs], inputs))
            samples[index].append(time.perf_counter() - begun)
    return [statistics.median(taken) for taken in samples]
