"""The exact verifier: which icons stand in a picture, and does the prompt hold.

Since the renderer knows every icon, detection is template matching: the silhouette of every icon,
size and offset is compared (intersection over union inside its box) with the pixels that differ
from the background. The thresholds are calibrated on renders, plain and after the autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from common.families.scenes.grammar import RELATIONS, SceneSpec
from common.families.scenes.icons import BACKGROUNDS, COLORS, ICONS, SIZES, icon_mask
from common.families.scenes.render import IMAGE_SIZE, PlacedIcon, Scene

_Floats = npt.NDArray[np.float64]

_MIN_IOU = 0.72  # below it a blob is no icon
_MIN_PURITY = 0.6  # share of an icon's pixels that have its colour
_MAX_ICONS = 6

_COLOR_NAMES = list(COLORS)
_GROUND_NAMES = list(BACKGROUNDS)
_ICON_RGB = np.array(list(COLORS.values()), dtype=np.float64)
_GROUND_RGB = np.array(list(BACKGROUNDS.values()), dtype=np.float64)


@dataclass(frozen=True)
class Verdict:
    """Which facts of a prompt hold in a picture."""

    facts: dict[str, bool]

    @property
    def graded(self) -> float:
        """Mean fraction of the facts that hold."""
        return sum(self.facts.values()) / len(self.facts)

    @property
    def strict(self) -> bool:
        """Whether all of them hold."""
        return all(self.facts.values())


def verify(picture: npt.NDArray[np.uint8], spec: SceneSpec) -> Verdict:
    """Check a picture (uint8 [32, 32, 3], RGB) against what a prompt asks for.

    Raises ValueError for a picture of another shape.
    """
    return judge(detect(picture), spec)


def judge(scene: Scene, spec: SceneSpec) -> Verdict:
    """Check a detected scene against a description."""
    facts: dict[str, bool] = {}
    found: dict[str, list[PlacedIcon]] = {}
    for obj in spec.objects:
        same = [placed for placed in scene.icons if placed.icon == obj.icon]
        found[obj.icon] = same
        facts[f"{obj.count} {obj.icon}"] = len(same) == obj.count
        if obj.color:
            facts[f"{obj.icon} {obj.color}"] = bool(same) and all(
                placed.color == obj.color for placed in same
            )
        if obj.size:
            facts[f"{obj.icon} {obj.size}"] = bool(same) and all(
                placed.size == obj.size for placed in same
            )
    if spec.relation:
        first, second = (found[obj.icon] for obj in spec.objects)
        facts[spec.relation] = bool(first and second) and all(
            relation_between(a, b) == spec.relation for a in first for b in second
        )
    if spec.background:
        facts[f"{spec.background} background"] = scene.background == spec.background
    return Verdict(facts)


def relation_between(first: PlacedIcon, second: PlacedIcon) -> str:
    """Which of the four relations holds: the one along the dominant axis."""
    dx = first.centre[0] - second.centre[0]
    dy = first.centre[1] - second.centre[1]
    left, right, above, below = RELATIONS
    if abs(dx) >= abs(dy):
        return left if dx < 0 else right
    return above if dy < 0 else below


def detect(picture: npt.NDArray[np.uint8]) -> Scene:
    """Find the background and the icons of a picture, uint8 [32, 32, 3].

    Raises ValueError for a picture of another shape.
    """
    if picture.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"expected a {IMAGE_SIZE}x{IMAGE_SIZE} RGB picture, got {picture.shape}")
    pixels = picture.reshape(-1, 3).astype(np.float64)
    ground = _background(pixels)
    to_ground = np.linalg.norm(pixels - _GROUND_RGB[ground], axis=1)
    to_icons = np.linalg.norm(pixels[:, None] - _ICON_RGB, axis=2)
    foreground = (to_icons.min(axis=1) < to_ground).reshape(IMAGE_SIZE, IMAGE_SIZE)
    nearest = to_icons.argmin(axis=1).reshape(IMAGE_SIZE, IMAGE_SIZE)
    return Scene(_GROUND_NAMES[ground], tuple(_find_icons(foreground, nearest)))


def _background(pixels: _Floats) -> int:
    """Index of the background colour nearest to the most pixels."""
    palette = np.concatenate([_GROUND_RGB, _ICON_RGB])
    nearest = np.linalg.norm(pixels[:, None] - palette, axis=2).argmin(axis=1)
    votes = np.bincount(nearest, minlength=len(palette))[: len(_GROUND_RGB)]
    return int(votes.argmax())


@dataclass(frozen=True)
class _Match:
    iou: float
    icon: str
    size: str
    x: int
    y: int


@cache
def _templates(size: str) -> _Floats:
    """Silhouettes of every icon at one size, float [icons, side * side]."""
    return np.stack([icon_mask(icon, size).ravel() for icon in ICONS]).astype(np.float64)


def _find_icons(
    foreground: npt.NDArray[np.bool_], nearest: npt.NDArray[np.int64]
) -> Iterator[PlacedIcon]:
    """Greedy: take the best match of any template anywhere, erase its box, repeat."""
    remaining = foreground.copy()
    for _ in range(_MAX_ICONS):
        match = max((_best_match(remaining, size) for size in SIZES), key=lambda m: m.iou)
        if match.iou < _MIN_IOU:
            return
        side = SIZES[match.size]
        box = np.s_[match.y : match.y + side, match.x : match.x + side]
        mask = icon_mask(match.icon, match.size) & remaining[box]
        remaining[box] = False
        votes = np.bincount(nearest[box][mask], minlength=len(_COLOR_NAMES))
        if votes.max() >= _MIN_PURITY * votes.sum():
            color = _COLOR_NAMES[int(votes.argmax())]
            yield PlacedIcon(match.icon, color, match.size, match.x, match.y)


def _best_match(foreground: npt.NDArray[np.bool_], size: str) -> _Match:
    side = SIZES[size]
    windows = sliding_window_view(foreground, (side, side))
    per_row = windows.shape[1]
    flat = windows.reshape(-1, side * side).astype(np.float64)
    templates = _templates(size)
    # not @: on busy cores the threads of BLAS wait for one another twenty times as long
    intersection = np.einsum("ij,kj->ik", flat, templates)
    union = flat.sum(axis=1)[:, None] + templates.sum(axis=1) - intersection
    iou = intersection / union
    offset, icon = np.unravel_index(int(iou.argmax()), iou.shape)
    y, x = divmod(int(offset), per_row)
    return _Match(float(iou[offset, icon]), ICONS[icon], size, x, y)
