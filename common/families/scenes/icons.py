"""Silhouettes of the icons, and the surfaces that they are painted with.

Icons are defined on the square [-1, 1]^2 (y grows downwards). A stamp is an icon of one size and
surface, rasterised: how much of each pixel its colour and its ink cover.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from baton.common.families.scenes.worlds import World

Mask = npt.NDArray[np.bool_]
Coverage = npt.NDArray[np.float64]
_Coord = npt.NDArray[np.float64]

_OVERSAMPLING = 8
_OUTLINE = 1.75  # width of an outline, around the silhouette, pixels
_STRIPES = 6.0  # period, pixels; half of it is ink
_DOTS, _DOT_RADIUS = 8.0, 1.9  # period of rows and columns, which are staggered by half; pixels


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


@dataclass(frozen=True, eq=False)
class Stamp:
    """Share of each pixel of an icon's box that is covered, float [side, side].

    color: by the icon's colour; ink: by ink; body: by the icon, that is by either of them.
    """

    color: Coverage
    ink: Coverage

    @property
    def body(self) -> Coverage:
        return self.color + self.ink


@cache
def stamp(world: World, icon: str, size: str, surface: str = "plain") -> Stamp:
    """An icon as it is painted. Raises KeyError for an unknown icon, size or surface."""
    side = world.sizes[size]
    fine = side * _OVERSAMPLING
    pixels = (np.arange(fine) + 0.5) / _OVERSAMPLING - side / 2  # from the middle of the box
    x, y = np.meshgrid(pixels, pixels)
    half = side / 2 - world.margin
    shape = _SHAPES[icon](x / half, y / half) & (np.maximum(np.abs(x), np.abs(y)) <= half)
    ink = _INKS[surface](shape, x, y)
    return Stamp(_shrink(shape & ~ink, world), _shrink(ink, world))


def _shrink(fine: Mask, world: World) -> Coverage:
    side = len(fine) // _OVERSAMPLING
    coverage: Coverage = fine.reshape(side, _OVERSAMPLING, side, _OVERSAMPLING).mean(axis=(1, 3))
    if not world.free:
        coverage = (coverage >= 0.5).astype(np.float64)
    coverage.setflags(write=False)
    return coverage


def _no_ink(shape: Mask, x: _Coord, y: _Coord) -> Mask:
    return np.zeros_like(shape)


def _stripes(shape: Mask, x: _Coord, y: _Coord) -> Mask:
    return shape & ((y / _STRIPES + 1 / 3) % 1 >= 0.5)  # edges between pixels


def _dots(shape: Mask, x: _Coord, y: _Coord) -> Mask:
    def near(offset: float) -> Mask:
        dx, dy = ((v + offset + _DOTS / 2) % _DOTS - _DOTS / 2 for v in (x, y))
        return _disc(dx, dy, 0, 0, _DOT_RADIUS)

    return shape & (near(0.0) | near(_DOTS / 2))


def _outline(shape: Mask, x: _Coord, y: _Coord) -> Mask:
    """What lies within the outline's width of the silhouette: a convolution with a disc."""
    disc = np.fft.ifftshift(_disc(x, y, 0, 0, _OUTLINE))
    spectrum = np.fft.rfft2(shape.astype(np.float64)) * np.fft.rfft2(disc.astype(np.float64))
    return (np.fft.irfft2(spectrum, s=shape.shape) > 0.5) & ~shape


_INKS: dict[str, Callable[[Mask, _Coord, _Coord], Mask]] = {
    "plain": _no_ink,
    "striped": _stripes,
    "dotted": _dots,
    "outlined": _outline,
}
