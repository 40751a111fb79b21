"""The icons, colours and backgrounds that a scene is made of.

Icons are flat silhouettes defined on the square [-1, 1]^2 (y grows downwards) and rasterised
without anti-aliasing, so that a picture of them is crisp pixel art. Every icon comes in two sizes,
each inside a box that is a multiple of the autoencoder's 4-pixel cell.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
_Coord = npt.NDArray[np.float64]

#: Icon colours, RGB. Saturated, so that none is near a background.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 135, 25),
    "yellow": (250, 220, 40),
    "green": (60, 200, 70),
    "cyan": (40, 210, 220),
    "blue": (40, 90, 235),
    "purple": (150, 50, 210),
    "pink": (255, 90, 170),
}

#: Background colours, RGB. Low saturation.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "night": (18, 20, 46),
    "forest": (28, 70, 50),
    "dusk": (92, 72, 104),
    "fog": (150, 156, 164),
    "sand": (222, 200, 160),
    "snow": (238, 242, 246),
}

#: Side of the box that holds an icon of that size, in pixels.
SIZES: dict[str, int] = {"small": 12, "large": 16}

_OVERSAMPLING = 8


def _polygon(x: _Coord, y: _Coord, corners: list[tuple[float, float]]) -> Mask:
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _disc(x: _Coord, y: _Coord, cx: float, cy: float, r: float) -> Mask:
    return (x - cx) ** 2 + (y - cy) ** 2 <= r * r


def _box(x: _Coord, y: _Coord, x0: float, y0: float, x1: float, y1: float) -> Mask:
    return (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)


def _circle(x: _Coord, y: _Coord) -> Mask:
    return _disc(x, y, 0, 0, 1)


def _square(x: _Coord, y: _Coord) -> Mask:
    return np.ones(x.shape, dtype=bool)


def _triangle(x: _Coord, y: _Coord) -> Mask:
    return _polygon(x, y, [(0, -1.1), (1.1, 1), (-1.1, 1)])


def _star(x: _Coord, y: _Coord) -> Mask:
    angles = [np.pi * k / 5 for k in range(10)]
    radii = [1.15 if k % 2 == 0 else 0.48 for k in range(10)]
    corners = [(r * np.sin(a), 0.1 - r * np.cos(a)) for a, r in zip(angles, radii, strict=True)]
    return _polygon(x, y, corners)


def _heart(x: _Coord, y: _Coord) -> Mask:
    lobes = _disc(x, y, -0.5, -0.45, 0.54) | _disc(x, y, 0.5, -0.45, 0.54)
    return lobes | _polygon(x, y, [(-1, -0.3), (1, -0.3), (0, 1.1)])


def _ring(x: _Coord, y: _Coord) -> Mask:
    return _disc(x, y, 0, 0, 1.02) & ~_disc(x, y, 0, 0, 0.52)


def _cross(x: _Coord, y: _Coord) -> Mask:
    return (np.abs(x) <= 0.36) | (np.abs(y) <= 0.36)


def _house(x: _Coord, y: _Coord) -> Mask:
    roof = _polygon(x, y, [(0, -1.15), (1.15, 0), (-1.15, 0)])
    walls = _box(x, y, -0.75, 0, 0.75, 1)
    return (roof | walls) & ~_box(x, y, -0.25, 0.35, 0.25, 1)


def _tree(x: _Coord, y: _Coord) -> Mask:
    top = _polygon(x, y, [(0, -1.1), (0.7, -0.1), (-0.7, -0.1)])
    skirt = _polygon(x, y, [(0, -0.6), (1.05, 0.62), (-1.05, 0.62)])
    return top | skirt | _box(x, y, -0.22, 0.5, 0.22, 1)


def _fish(x: _Coord, y: _Coord) -> Mask:
    body = ((x + 0.3) / 0.72) ** 2 + (y / 0.62) ** 2 <= 1
    tail = _polygon(x, y, [(0.15, 0), (1, -0.72), (1, 0.72)])
    return (body | tail) & ~_box(x, y, -0.72, -0.3, -0.42, 0)


def _car(x: _Coord, y: _Coord) -> Mask:
    cabin = _box(x, y, -0.55, -0.75, 0.45, -0.1) & ~_box(x, y, -0.3, -0.45, 0.2, -0.15)
    body = _box(x, y, -1, -0.1, 1, 0.45)
    wheels = _disc(x, y, -0.55, 0.5, 0.34) | _disc(x, y, 0.55, 0.5, 0.34)
    return cabin | body | wheels


def _cat(x: _Coord, y: _Coord) -> Mask:
    head = ((x / 0.95) ** 2 + ((y - 0.25) / 0.75) ** 2) <= 1
    ears = _polygon(x, y, [(-0.95, -1.05), (-0.2, -0.35), (-0.95, 0.2)])
    ears |= _polygon(x, y, [(0.95, -1.05), (0.2, -0.35), (0.95, 0.2)])
    eyes = _box(x, y, -0.58, -0.05, -0.28, 0.28) | _box(x, y, 0.28, -0.05, 0.58, 0.28)
    return (head | ears) & ~eyes


_SHAPES: dict[str, Callable[[_Coord, _Coord], Mask]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "cross": _cross,
    "house": _house,
    "tree": _tree,
    "fish": _fish,
    "car": _car,
    "cat": _cat,
}

ICONS: tuple[str, ...] = tuple(_SHAPES)


@cache
def icon_mask(icon: str, size: str) -> Mask:
    """Silhouette of an icon, boolean [side, side] with a 1-pixel empty margin.

    Raises KeyError for an unknown icon or size.
    """
    side = SIZES[size] - 2
    fine = side * _OVERSAMPLING
    centres = (np.arange(fine) + 0.5) / fine * 2 - 1
    x, y = np.meshgrid(centres, centres)
    shape = _SHAPES[icon](x, y)
    coverage = shape.reshape(side, _OVERSAMPLING, side, _OVERSAMPLING).mean(axis=(1, 3))
    mask = np.pad(coverage >= 0.5, 1)
    mask.setflags(write=False)
    return mask
