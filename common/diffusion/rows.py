"""Runs one batch over a graph of blocks, each block on the rows that need it.

A row that does not run a block reads the block's output from its own cache, or from the row of the
same call that it follows. Rows that read alike are never copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from baton.common.diffusion.blocks import BlockGraph, Blocks, ModelInputs
from baton.common.errors import ExecutionFailed

#: A block's output for one row: a tensor over some rows, and which of them.
Slot = tuple[Tensor, int]


@dataclass
class Row:
    """One row of a batch.

    run: the blocks to run; cache: by block, the output of an earlier step; follows: the row of
    this batch whose outputs stand for what this one does not run (its own cache is not read).
    """

    run: Blocks
    cache: dict[int, Slot] = field(default_factory=dict)
    follows: int | None = None


@dataclass
class _Value:
    """A block's output over the rows that ran it."""

    rows: tuple[int, ...]
    tensor: Tensor


class RowBatch:
    """One model call. ``out`` is the last block's output; `take` reads others afterwards.

    Only the outputs of ``keep`` survive the call. Raises ExecutionFailed if a row needs what it
    neither runs nor has.
    """

    def __init__(
        self, graph: BlockGraph, inputs: ModelInputs, rows: Sequence[Row], keep: Blocks = 0
    ) -> None:
        self._graph = graph
        self._rows = rows
        self._values: dict[int, _Value] = {}
        self._inputs: dict[tuple[int, ...], ModelInputs] = {tuple(range(len(rows))): inputs}
        for index, block in enumerate(graph.blocks):
            if running := self._running(index):
                read = [self._gather(source, running) for source in block.inputs]
                tensor = block.run(read, self._inputs_of(running, inputs))
                self._values[index] = _Value(running, tensor)
            for source in graph.released[index]:
                if not keep >> source & 1:
                    self._values.pop(source, None)
        self.out = self._gather(len(graph) - 1, tuple(range(len(rows))))

    def take(self, block: int, rows: tuple[int, ...]) -> Tensor:
        """What these rows read of a kept block, [rows, ...], without holding on to other rows."""
        return self._gather(block, rows)

    def _ran(self, block: int, row: int) -> Slot | None:
        """The output of a block that ran for this row."""
        value = self._values.get(block)
        if value is None or row not in value.rows:
            return None
        return value.tensor, value.rows.index(row)

    def counts(self) -> tuple[int, ...]:
        """By block, the rows that it ran on."""
        return tuple(len(self._running(index)) for index in range(len(self._graph)))

    def _running(self, block: int) -> tuple[int, ...]:
        return tuple(i for i, row in enumerate(self._rows) if row.run >> block & 1)

    def _inputs_of(self, rows: tuple[int, ...], everything: ModelInputs) -> ModelInputs:
        if rows not in self._inputs:
            self._inputs[rows] = everything.rows(torch.tensor(rows))
        return self._inputs[rows]

    def _gather(self, block: int, rows: tuple[int, ...]) -> Tensor:
        value = self._values.get(block)
        if value is not None and value.rows == rows:
            return value.tensor
        slots = [self._slot(block, row) for row in rows]
        first = slots[0][0]
        if all(tensor is first for tensor, _ in slots):
            places = [place for _, place in slots]
            if places == list(range(len(first))):
                return first
            return first[torch.tensor(places)]
        return torch.stack([tensor[place] for tensor, place in slots])

    def _slot(self, block: int, row: int) -> Slot:
        found = self._ran(block, row)
        if found is not None:
            return found
        wanted = self._rows[row]
        if wanted.follows is not None:
            return self._slot(block, wanted.follows)
        if block not in wanted.cache:
            name = self._graph.blocks[block].name
            raise ExecutionFailed(f"block {name} is neither run nor cached")
        return wanted.cache[block]
