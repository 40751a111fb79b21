"""The latent space of a family: what its latents mean, apart from which files they were made by.

Fine changes leave it as it is: weights stored in fp16, another spacing of timesteps, a decoder
trained on. Another autoencoder makes another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from baton.common.errors import InvalidRequest

#: Values of a vector, and the most that is taken from elsewhere.
VECTOR_LENGTH = 32
_MAX_LENGTH = 1024
_MAX_ID_CHARS = 64
#: Relative RMS below which two vectors are of one space: fp16 files are 7e-4 apart, other
#: autoencoders 1.7 to 2.0.
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class LatentSpace:
    """id: short, for messages and keys; vector: what the encoder makes of a fixed picture, scaled.

    Both are empty where it is not known. Raises InvalidRequest for what no encoder makes.
    """

    id: str = ""
    vector: tuple[float, ...] = field(default=(), repr=False)

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not (self.id.isprintable() and len(self.id) <= _MAX_ID_CHARS):
            raise InvalidRequest(f"a latent space's id is a line of {_MAX_ID_CHARS} characters")
        if len(self.vector) > _MAX_LENGTH or not all(map(math.isfinite, self.vector)):
            raise InvalidRequest(f"a latent space has at most {_MAX_LENGTH} finite values")
        if bool(self.id) != bool(self.vector):
            raise InvalidRequest("a latent space has an id and a vector, or neither")

    def __bool__(self) -> bool:
        """Whether it is known."""
        return bool(self.id)

    def matches(self, other: LatentSpace) -> bool:
        """Whether the latents of both mean the same: by the vectors, whatever the ids."""
        return relative_rms(self.vector, other.vector) < TOLERANCE


UNKNOWN = LatentSpace()


def relative_rms(one: Sequence[float], other: Sequence[float]) -> float:
    """``||one - other|| / max(||one||, ||other||)``; infinite where the lengths differ."""
    size = max(math.hypot(*one), math.hypot(*other))
    if len(one) != len(other) or size == 0:
        return math.inf
    return math.dist(one, other) / size
