"""From a description to a scene, and from a scene to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.families.scenes.grammar import SceneSpec
from common.families.scenes.icons import BACKGROUNDS, COLORS, SIZES, icon_mask

Pixels = npt.NDArray[np.uint8]

#: Side of a picture, pixels.
IMAGE_SIZE = 32
#: Side of the autoencoder's cell, pixels; icons are snapped to it.
CELL = 4

_SLOTS = (0, 2, 4)  # top-left cells at which a large icon stands, on either axis
_SMALL_OFFSET = {0: 1, 2: 1, 4: 0}  # a small icon keeps towards the middle of the picture
_CORNERS = ((0, 0), (4, 0), (0, 4), (4, 4))


@dataclass(frozen=True)
class PlacedIcon:
    """An icon with everything decided; x and y are the box's top-left pixel."""

    icon: str
    color: str
    size: str
    x: int
    y: int

    @property
    def centre(self) -> tuple[float, float]:
        half = SIZES[self.size] / 2
        return self.x + half, self.y + half


@dataclass(frozen=True)
class Scene:
    background: str
    icons: tuple[PlacedIcon, ...]


def compose(spec: SceneSpec, rng: np.random.Generator) -> Scene:
    """Decide at random what the description leaves open."""
    wanted = [obj for obj in spec.objects for _ in range(obj.count)]
    slots = _slots(len(wanted), spec.relation, rng)
    colors: dict[str, str] = {}
    sizes: dict[str, str] = {}
    for obj in spec.objects:
        colors[obj.icon] = obj.color or _pick(rng, list(COLORS))
        sizes[obj.icon] = obj.size or _pick(rng, list(SIZES))
    icons = tuple(
        PlacedIcon(obj.icon, colors[obj.icon], sizes[obj.icon], *_corner(slot, sizes[obj.icon]))
        for obj, slot in zip(wanted, slots, strict=True)
    )
    return Scene(spec.background or _pick(rng, list(BACKGROUNDS)), icons)


def render(scene: Scene) -> Pixels:
    """Paint a scene: uint8 [32, 32, 3], RGB."""
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    image[:] = BACKGROUNDS[scene.background]
    for placed in scene.icons:
        side = SIZES[placed.size]
        window = image[placed.y : placed.y + side, placed.x : placed.x + side]
        window[icon_mask(placed.icon, placed.size)] = COLORS[placed.color]
    return image


def _slots(count: int, relation: str | None, rng: np.random.Generator) -> list[tuple[int, int]]:
    if count == 1:
        return [(int(rng.choice(_SLOTS)), int(rng.choice(_SLOTS)))]
    if count == 3:
        return [_CORNERS[i] for i in rng.permutation(4)[:3]]
    relation = relation or _pick(rng, ["left of", "right of", "above", "below"])
    lane = int(rng.choice(_SLOTS))
    first, second = ((0, 4), (4, 0))[relation in ("right of", "below")]
    if relation in ("left of", "right of"):
        return [(first, lane), (second, lane)]
    return [(lane, first), (lane, second)]


def _corner(slot: tuple[int, int], size: str) -> tuple[int, int]:
    offsets = [_SMALL_OFFSET[cell] if size == "small" else 0 for cell in slot]
    return (slot[0] + offsets[0]) * CELL, (slot[1] + offsets[1]) * CELL


def _pick(rng: np.random.Generator, names: list[str]) -> str:
    return names[rng.integers(len(names))]
