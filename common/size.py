"""The width and height of a picture."""

from __future__ import annotations

import re
from dataclasses import dataclass

from baton.common.errors import InvalidRequest
from baton.common.given import whole

MAX_SIDE = 8_192
_TEXT = re.compile(r"(\d{1,6})(?:[x×](\d{1,6}))?")


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels. Raises InvalidRequest outside 1 to ``MAX_SIDE``."""

    width: int
    height: int

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            side = whole(f"the {name}", getattr(self, name))
            if not 1 <= side <= MAX_SIDE:
                raise InvalidRequest(f"a side has 1 to {MAX_SIDE} pixels, got {side}")
            object.__setattr__(self, name, side)

    @classmethod
    def of(cls, value: object) -> Size:
        """A size, a pair, the side of a square, or such a text as ``64`` or ``96x64``."""
        if isinstance(value, Size):
            return value
        if isinstance(value, str):
            return cls._read(value)
        if isinstance(value, tuple | list) and len(value) == 2:
            return cls(*value)
        side = whole("size", value)
        return cls(side, side)

    @classmethod
    def _read(cls, text: str) -> Size:
        found = _TEXT.fullmatch(text)
        if found is None:
            raise InvalidRequest(f"a size is PIXELS or WIDTHxHEIGHT, got {text[:32]!r}")
        width, height = int(found[1]), int(found[2] or found[1])
        return cls(width, height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def pixels(self) -> int:
        return self.width * self.height
