"""What prompts mean to a member: named tensors, one set for each branch of guidance."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from baton.common.errors import Incompatible
from baton.common.limits import Branch

#: By name, what the model takes beside latent and timestep: over rows, [B, ...], or of one row.
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Conditioning:
    """By branch, one row of each tensor: ``context`` [L, D] of a text, ``pooled`` [D], and so on.

    Both branches have the same ones in the same shapes; a member that takes no guidance in two
    branches may have the positive one alone.
    """

    branches: Mapping[Branch, Tensors]

    @cached_property
    def key(self) -> Hashable:
        """Equal for those whose rows can share a call: the same tensors in the same shapes."""
        positive = self.branches["positive"]
        return tuple((name, tuple(positive[name].shape)) for name in sorted(positive))

    @property
    def bytes(self) -> int:
        """Of all its tensors."""
        of = (tensor for named in self.branches.values() for tensor in named.values())
        return sum(tensor.nbytes for tensor in of)

    def check(self, branches: Iterable[Branch], member: str) -> None:
        """Raises Incompatible if one of them is missing."""
        if missing := [branch for branch in branches if branch not in self.branches]:
            raise Incompatible(f"{member} takes no guidance with a {missing[0]} branch")

    def row(self, branch: Branch) -> Tensors:
        return self.branches[branch]


def stacked(rows: Sequence[Tensors]) -> dict[str, Tensor]:
    """Rows of one key as tensors [B, ...]."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
