"""Encoder propagation (Faster Diffusion, Li et al. 2024).

Key steps run the whole model; the steps between them reuse the encoder's output of the last key
step and run the decoder alone, one after the other or together with the key step (parallel).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from baton.common.errors import InvalidRequest
from baton.common.limits import MAX_AHEAD
from baton.common.plan import StepDirective

if TYPE_CHECKING:  # what a command line refuses, it refuses before torch is imported
    from baton.common.diffusion.blocks import BlockGraph, Blocks

#: Key steps for SD 1.5 with DDIM 50 (Sec. 4.1 and Tab. 5): dense where features change fast.
PAPER_KEYS = (0, 1, 2, 3, 5, 10, 15, 25, 35)
PAPER_STEPS = 50
#: Longest distance between key steps: that of the paper's own set.
LONGEST_GROUP = 15
#: Share of the starting noise that restores texture, and where it begins (Sec. 3.3).
PRIOR_NOISE = 0.003


@dataclass(frozen=True)
class Propagation:
    """How a member's encoder is propagated.

    keys: key steps of a trajectory of ``steps``; other lengths take them by their share of it.
    prior_noise: added before every step of the trajectory's second half; 0 for none.
    """

    keys: tuple[int, ...] = PAPER_KEYS
    steps: int = PAPER_STEPS
    parallel: bool = True
    prior_noise: float = PRIOR_NOISE

    def __post_init__(self) -> None:
        if not are_keys(self.keys, self.steps):
            raise InvalidRequest("key steps begin with 0, rise, and lie within the trajectory")

    def keys_for(self, steps: int) -> tuple[int, ...]:
        """The key steps of a trajectory of ``steps``, with none further apart than allowed."""
        scaled = {key * steps // self.steps for key in self.keys}
        return bounded(scaled, steps, max(LONGEST_GROUP, _longest(self.keys, self.steps)))

    def directives(self, graph: BlockGraph, steps: int) -> tuple[StepDirective, ...]:
        """One directive per step of the whole trajectory."""
        return propagated(
            graph, steps, self.keys_for(steps), parallel=self.parallel, prior_noise=self.prior_noise
        )


def check_key_count(count: int, steps: int) -> int:
    """Raises InvalidRequest for a number of key steps that a trajectory cannot have."""
    least = -(-steps // LONGEST_GROUP)
    if not least <= count <= steps:
        raise InvalidRequest(
            f"{steps} steps have from {least} to {steps} key steps, none further apart than"
            f" {LONGEST_GROUP}; got {count}"
        )
    return count


def are_keys(keys: Sequence[int], steps: int) -> bool:
    """Whether these can be the key steps of a trajectory: from 0, rising, within it."""
    rising = sorted(set(keys)) == list(keys)
    return bool(keys) and keys[0] == 0 and rising and keys[-1] < steps


def uniform_keys(steps: int, every: int) -> tuple[int, ...]:
    """Every so many steps, from the first (Tab. 5, the controls)."""
    return tuple(range(0, steps, every))


def bounded(keys: Iterable[int], steps: int, longest: int) -> tuple[int, ...]:
    """The keys, with more between those that are further apart than ``longest`` steps."""
    found: list[int] = []
    for key in sorted({0, *keys} | {steps}):
        while found and key - found[-1] > longest:
            found.append(found[-1] + longest)
        found.append(key)
    return tuple(found[:-1])


def propagated(
    graph: BlockGraph,
    steps: int,
    keys: Sequence[int],
    *,
    parallel: bool = True,
    prior_noise: float = 0.0,
    reused: Blocks | None = None,
) -> tuple[StepDirective, ...]:
    """Directives that run everything at the key steps and all but ``reused`` between them.

    reused: the encoder by default; the decoder as a control.
    """
    everything = graph.all & ~graph.constant
    between = everything & ~(graph.encoder if reused is None else reused)
    chosen = set(keys)
    columns = [
        StepDirective(
            blocks=everything if step in chosen else between,
            prior_noise=prior_noise if step >= steps // 2 else 0.0,
        )
        for step in range(steps)
    ]
    if parallel:
        for key, following in zip(keys, [*keys[1:], steps], strict=True):
            ahead = min(following - key - 1, MAX_AHEAD)
            columns[key] = replace(columns[key], ahead=ahead)
    return tuple(columns)


def _longest(keys: Sequence[int], steps: int) -> int:
    return max(after - key for key, after in zip(keys, [*keys[1:], steps], strict=True))
