"""From a description to a scene, and from a scene to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baton.common.families.scenes.grammar import RELATIONS, SceneSpec, pick
from baton.common.families.scenes.icons import stamp
from baton.common.families.scenes.worlds import CELL, World

Pixels = npt.NDArray[np.uint8]
_Corner = tuple[int, int]

#: Share of the icons whose surface is left open that are plain.
_PLAIN_SHARE = 0.55

_SLOTS = (0, 2, 4)  # top-left cells at which a large icon stands, on either axis
_SMALL_OFFSET = {0: 1, 2: 1, 4: 0}  # a small icon keeps towards the middle of the picture
_CORNERS = ((0, 0), (4, 0), (0, 4), (4, 4))
_CLEAR = 4  # pixels by which a relation's axis dominates the other one


@dataclass(frozen=True)
class PlacedIcon:
    """An icon with everything decided; x and y are the box's top-left pixel."""

    icon: str
    color: str
    size: str
    x: int
    y: int
    surface: str = "plain"

    def centre(self, world: World) -> tuple[float, float]:
        half = world.sizes[self.size] / 2
        return self.x + half, self.y + half


@dataclass(frozen=True)
class Scene:
    background: str
    icons: tuple[PlacedIcon, ...]


def compose(spec: SceneSpec, world: World, rng: np.random.Generator) -> Scene:
    """Decide at random what the description leaves open."""
    wanted = [obj for obj in spec.objects for _ in range(obj.count)]
    slots = [] if world.free else _slots(len(wanted), spec.relation, rng)
    colors: dict[str, str] = {}
    sizes: dict[str, str] = {}
    surfaces: dict[str, str] = {}
    for obj in spec.objects:
        colors[obj.icon] = obj.color or pick(rng, world.colors)
        sizes[obj.icon] = obj.size or pick(rng, world.sizes)
        surfaces[obj.icon] = obj.surface or _open_surface(rng, world)
    if world.free:
        sides = [world.sizes[sizes[obj.icon]] for obj in wanted]
        corners = _scatter(sides, spec.relation, world.image_size, rng)
    else:
        corners = [_corner(slot, sizes[obj.icon]) for obj, slot in zip(wanted, slots, strict=True)]
    icons = tuple(
        PlacedIcon(obj.icon, colors[obj.icon], sizes[obj.icon], *corner, surface=surfaces[obj.icon])
        for obj, corner in zip(wanted, corners, strict=True)
    )
    return Scene(spec.background or pick(rng, world.backgrounds), icons)


def render(scene: Scene, world: World) -> Pixels:
    """Paint a scene: uint8 [side, side, 3], RGB."""
    image = np.empty((world.image_size, world.image_size, 3), dtype=np.uint8)
    image[:] = world.backgrounds[scene.background]
    ink = np.array(world.ink)
    for placed in scene.icons:
        side = world.sizes[placed.size]
        painted = stamp(world, placed.icon, placed.size, placed.surface)
        window = image[placed.y : placed.y + side, placed.x : placed.x + side]
        mixed = (1 - painted.body)[..., None] * window
        mixed += painted.color[..., None] * np.array(world.colors[placed.color])
        mixed += painted.ink[..., None] * ink
        window[:] = np.round(mixed)
    return image


def _open_surface(rng: np.random.Generator, world: World) -> str:
    plain, *others = world.surfaces
    if not others or rng.random() < _PLAIN_SHARE:
        return plain
    return pick(rng, others)


def _scatter(
    sides: list[int], relation: str | None, image_size: int, rng: np.random.Generator
) -> list[_Corner]:
    """Corners of boxes that do not overlap, uniform over what is free, one after the other.

    With two boxes one of the four relations clearly holds: the one asked for, if any.
    """
    while True:
        corners: list[_Corner] = []
        for side in sides:
            free = _free_corners(side, corners, sides, image_size)
            if len(sides) == 2 and corners:
                free &= _related(corners[0], (sides[0], side), relation, len(free))
            candidates = np.flatnonzero(free)
            if len(candidates) == 0:
                break  # the first ones left no room
            y, x = divmod(int(candidates[rng.integers(len(candidates))]), len(free))
            corners.append((x, y))
        else:
            return corners


def _free_corners(
    side: int, taken: list[_Corner], sides: list[int], image_size: int
) -> npt.NDArray[np.bool_]:
    """Where the corner of a box may stand, bool [rows, columns]."""
    span = image_size - side + 1
    free = np.ones((span, span), dtype=bool)
    for (x, y), other in zip(taken, sides, strict=False):
        free[max(0, y - side + 1) : y + other, max(0, x - side + 1) : x + other] = False
    return free


def _related(
    first: _Corner, sides: tuple[int, int], relation: str | None, span: int
) -> npt.NDArray[np.bool_]:
    """Where the second box stands so that the first is, say, left of it, bool [span, span]."""
    offset = (sides[1] - sides[0]) / 2
    dx = (np.arange(span) + offset - first[0])[None, :]
    dy = (np.arange(span) + offset - first[1])[:, None]
    clear = {
        "left of": dx - np.abs(dy) >= _CLEAR,
        "right of": -dx - np.abs(dy) >= _CLEAR,
        "above": dy - np.abs(dx) >= _CLEAR,
        "below": -dy - np.abs(dx) >= _CLEAR,
    }
    allowed = [clear[name] for name in ([relation] if relation else RELATIONS)]
    related: npt.NDArray[np.bool_] = np.any(allowed, axis=0)
    return related


def _slots(count: int, relation: str | None, rng: np.random.Generator) -> list[_Corner]:
    if count == 1:
        return [(int(rng.choice(_SLOTS)), int(rng.choice(_SLOTS)))]
    if count == 3:
        return [_CORNERS[i] for i in rng.permutation(4)[:3]]
    relation = relation or pick(rng, RELATIONS)
    lane = int(rng.choice(_SLOTS))
    first, second = ((0, 4), (4, 0))[relation in ("right of", "below")]
    if relation in ("left of", "right of"):
        return [(first, lane), (second, lane)]
    return [(lane, first), (lane, second)]


def _corner(slot: _Corner, size: str) -> _Corner:
    offsets = [_SMALL_OFFSET[cell] if size == "small" else 0 for cell in slot]
    return (slot[0] + offsets[0]) * CELL, (slot[1] + offsets[1]) * CELL
