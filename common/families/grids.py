"""Named grids of noise levels: those that a family tunes for few steps. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import ClassVar

from baton.common.errors import InvalidRequest
from baton.common.latents.state import NoiseLevel
from baton.common.limits import SamplerName, check_sampler, check_steps


@dataclass(frozen=True, slots=True)
class LevelGrid:
    """A trajectory by name.

    timesteps: the model's input at each of N steps. levels: N + 1 noise levels in the
    sampler's native form, before each step and after the last. Raises InvalidRequest for a grid
    that does not fall.
    """

    name: str
    sampler: SamplerName
    timesteps: tuple[float, ...]
    levels: tuple[NoiseLevel, ...]

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_sampler(self.sampler)
        check_steps(self.steps)
        if len(self.levels) != self.steps + 1:
            raise InvalidRequest(f"grid {self.name!r} has not one level more than steps")
        if not all(before.noisier_than(after) for before, after in pairwise(self.levels)):
            raise InvalidRequest(f"the levels of grid {self.name!r} do not fall")

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def digest(self) -> str:
        """Of what it is, not of what it is called; 32 hex digits."""
        fields = asdict(self)
        del fields["name"]
        text = json.dumps(fields, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
