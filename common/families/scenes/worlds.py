"""The worlds that scenes are made in: which words there are, and how large everything is.

Grammar, renderer and verifier take a world as a value. A picture's side tells its world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

RGB = tuple[int, int, int]

#: Side of the autoencoder's cell, pixels.
CELL = 4

_COLORS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "orange": (245, 135, 25),
    "yellow": (250, 220, 40),
    "green": (60, 200, 70),
    "cyan": (40, 210, 220),
    "blue": (40, 90, 235),
    "purple": (150, 50, 210),
    "pink": (255, 90, 170),
}


@dataclass(frozen=True, eq=False)
class World:
    """What a scene may hold.

    image_size: side of a picture, pixels. sizes: side of the box around an icon, pixels; margin:
    what of the box the silhouette leaves free at each side. colors: of icons, saturated, so that
    none is near a background; backgrounds: of low saturation. surfaces: how an icon may be
    painted, the first being plain; ink: the second tone of the others. free: icons stand at any
    pixel and are anti-aliased; else they stand in slots and are crisp.
    """

    name: str
    image_size: int
    sizes: Mapping[str, int]
    margin: int
    colors: Mapping[str, RGB] = field(default_factory=lambda: MappingProxyType(_COLORS))
    backgrounds: Mapping[str, RGB] = field(default_factory=dict)
    surfaces: tuple[str, ...] = ("plain",)
    ink: RGB = (14, 14, 18)
    free: bool = False

    @property
    def has_surfaces(self) -> bool:
        """Whether its prompts speak of surfaces."""
        return len(self.surfaces) > 1

    @property
    def latent_size(self) -> int:
        """Side of a latent, cells."""
        return self.image_size // CELL


FLAT = World(
    name="flat",
    image_size=32,
    sizes=MappingProxyType({"small": 12, "large": 16}),
    margin=1,
    backgrounds=MappingProxyType(
        {
            "night": (18, 20, 46),
            "forest": (28, 70, 50),
            "dusk": (92, 72, 104),
            "fog": (150, 156, 164),
            "sand": (222, 200, 160),
            "snow": (238, 242, 246),
        }
    ),
)

#: Night and forest are lighter and greyer than in `FLAT`: neither ink nor an inky colour is near.
DETAIL = World(
    name="detail",
    image_size=64,
    sizes=MappingProxyType({"small": 20, "large": 26}),
    margin=2,
    backgrounds=MappingProxyType(
        {
            "night": (64, 68, 104),
            "forest": (64, 100, 78),
            "dusk": (112, 88, 128),
            "fog": (150, 156, 164),
            "sand": (222, 200, 160),
            "snow": (238, 242, 246),
        }
    ),
    surfaces=("plain", "striped", "dotted", "outlined"),
    free=True,
)

WORLDS: tuple[World, ...] = (FLAT, DETAIL)


def world_of(image_size: int) -> World:
    """The world whose pictures have this side. Raises ValueError if there is none."""
    for world in WORLDS:
        if world.image_size == image_size:
            return world
    sides = " or ".join(f"{world.image_size}x{world.image_size}" for world in WORLDS)
    raise ValueError(f"expected a {sides} picture, got a side of {image_size}")
