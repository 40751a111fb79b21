"""What one request asks of one model call: values only. No torch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from baton.common.limits import ROWS_OF, Branch, Branches


@dataclass(frozen=True, slots=True)
class StepWork:
    """A step, and those that are decoded ahead with it. Built once a round, read by all.

    group: equal for those that can share a call. By step, one after the other: timesteps, what the
    model takes; guidance, how it is guided; branches, those that this takes, a row each; blocks, by
    branch the bits of those that run, None where the whole model runs as it is.
    """

    group: Hashable
    member: str
    step: int
    timesteps: tuple[float, ...]
    guidance: tuple[Branches, ...]
    blocks: tuple[tuple[int | None, ...], ...]
    branches: tuple[tuple[Branch, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "branches", tuple(ROWS_OF[of] for of in self.guidance))

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def stop(self) -> int:
        """The step after the last one."""
        return self.step + len(self.timesteps)

    @property
    def rows(self) -> int:
        """Of a call, all steps together."""
        return sum(map(len, self.branches))

    @property
    def least_rows(self) -> int:
        """Of a call that decodes nothing ahead."""
        return len(self.branches[0])

    @property
    def in_full(self) -> bool:
        """Whether the model runs as a whole."""
        return all(bits is None for taken in self.blocks for bits in taken)

    def first(self, steps: int) -> StepWork:
        """The same with fewer steps ahead."""
        if steps >= self.steps:
            return self
        return replace(
            self,
            timesteps=self.timesteps[:steps],
            guidance=self.guidance[:steps],
            blocks=self.blocks[:steps],
        )

    def within(self, rows: int) -> StepWork:
        """As many of its steps, one at least, as fit into so many rows."""
        steps, taken = 1, len(self.branches[0])
        while steps < self.steps and taken + len(self.branches[steps]) <= rows:
            taken += len(self.branches[steps])
            steps += 1
        return self.first(steps)
