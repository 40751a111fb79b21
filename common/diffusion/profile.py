"""What each block of a member costs: multiply-accumulates and bytes, counted on one row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from baton.common.diffusion.blocks import BlockGraph, Blocks, BlockSchedule, ModelInputs, Piece


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


@dataclass(frozen=True)
class ChainProfile:
    """By piece of a chain, its MACs.

    activation_bytes: the most that a run of it takes at a time, within its pieces as well.
    """

    macs: tuple[int, ...]
    activation_bytes: int


@torch.inference_mode()
def profile(graph: BlockGraph, inputs: ModelInputs) -> Profile:
    """Count on the first of the given rows; what it holds does not matter.

    On the meta device nothing is computed; what is counted is the same on every device.
    """
    one = inputs.rows(torch.tensor([0]))
    outputs: list[Tensor] = []
    macs = []
    with _counter() as counter:
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


@torch.inference_mode()
def profile_chain(pieces: Sequence[Piece], shape: Sequence[int]) -> ChainProfile:
    """Count on the meta device, for what takes an input of this shape in float32.

    Of memory every tensor counts from the operation that makes it until nothing refers to it, the
    input of a piece as long as the piece runs. What an operation takes for itself does not: none
    for attention's scores, as kernels of flash attention hold none whole, and no workspace.
    """
    macs = []
    with _counter() as counter, _Held() as held, torch.device("meta"):
        x = torch.empty(*shape)
        for piece in pieces:
            before = counter.get_total_flops()
            x = piece(x)
            macs.append((counter.get_total_flops() - before) // 2)
    return ChainProfile(tuple(macs), held.most)


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)


class _Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are made under it. most: those at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._held = WeakKeyDictionary[torch.UntypedStorage, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(out):
            if id(storage) not in given:  # else a view
                self._held[storage] = storage.nbytes()
        self.most = max(self.most, sum(self._held.values()))
        return out


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


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
