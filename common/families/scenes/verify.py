"""The exact verifier: which icons stand in a picture, and does the prompt hold.

Since the renderer knows every icon, detection is template matching: the silhouette of every icon,
size and offset is compared (intersection over union inside its box) with the pixels that differ
from the background; then the surface is the one whose painted icon is nearest to the picture. The
thresholds are calibrated on renders, plain and after the autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from baton.common.families.scenes.grammar import RELATIONS, SceneSpec
from baton.common.families.scenes.icons import ICONS, stamp
from baton.common.families.scenes.render import PlacedIcon, Scene
from baton.common.families.scenes.worlds import World, world_of

_Floats = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

_MIN_IOU = 0.72  # below it a blob is no icon
_MIN_PURITY = 0.6  # share of an icon's coloured pixels that have its colour
_MAX_INK = 0.6  # share of ink in a pixel that still tells its colour
_MIN_STEP = 40.0  # from the background, levels: less is noise, where tones lie near one another
_MIN_CONTRAST = 0.35  # of a surface's pattern: below it there is none
_MAX_ICONS = 6

#: What an icon's surface is called if its pattern is none of the world's.
UNCLEAR = "unclear"


@dataclass(frozen=True)
class Verdict:
    """Which facts of a prompt hold in a picture.

    kinds: what each fact is about: shape (with its count), color, size, surface, place, background.
    """

    facts: dict[str, bool]
    kinds: dict[str, str]

    @property
    def graded(self) -> float:
        """Mean fraction of the facts that hold."""
        return sum(self.facts.values()) / len(self.facts)

    @property
    def strict(self) -> bool:
        """Whether all of them hold."""
        return all(self.facts.values())

    def of_kind(self, kind: str) -> list[bool]:
        """The facts of one kind, true where they hold."""
        return [holds for fact, holds in self.facts.items() if self.kinds[fact] == kind]


def verify(picture: npt.NDArray[np.uint8], spec: SceneSpec) -> Verdict:
    """Check a picture, uint8 [side, side, 3] RGB, against what a prompt asks for.

    Raises ValueError for a picture that is of no world's shape.
    """
    return judge(detect(picture), spec, world_of(len(picture)))


def judge(scene: Scene, spec: SceneSpec, world: World) -> Verdict:
    """Check a detected scene against a description."""
    facts: dict[str, bool] = {}
    kinds: dict[str, str] = {}

    def tell(kind: str, fact: str, holds: bool) -> None:
        facts[fact], kinds[fact] = holds, kind

    found: dict[str, list[PlacedIcon]] = {}
    for obj in spec.objects:
        same = [placed for placed in scene.icons if placed.icon == obj.icon]
        found[obj.icon] = same
        tell("shape", f"{obj.count} {obj.icon}", len(same) == obj.count)
        for kind in ("color", "size", "surface"):
            if wanted := getattr(obj, kind):
                holds = bool(same) and all(getattr(placed, kind) == wanted for placed in same)
                tell(kind, f"{obj.icon} {wanted}", holds)
    if spec.relation:
        first, second = (found[obj.icon] for obj in spec.objects)
        holds = bool(first and second) and all(
            relation_between(a, b, world) == spec.relation for a in first for b in second
        )
        tell("place", spec.relation, holds)
    if spec.background:
        fact = f"{spec.background} background"
        tell("background", fact, scene.background == spec.background)
    return Verdict(facts, kinds)


def relation_between(first: PlacedIcon, second: PlacedIcon, world: World) -> str:
    """Which of the four relations holds: the one along the dominant axis."""
    (x0, y0), (x1, y1) = first.centre(world), second.centre(world)
    dx, dy = x0 - x1, y0 - y1
    left, right, above, below = RELATIONS
    if abs(dx) >= abs(dy):
        return left if dx < 0 else right
    return above if dy < 0 else below


def detect(picture: npt.NDArray[np.uint8]) -> Scene:
    """Find the background and the icons of a picture, uint8 [side, side, 3].

    Raises ValueError for a picture that is of no world's shape.
    """
    world = world_of(len(picture)) if picture.ndim == 3 else None
    if world is None or picture.shape != (world.image_size, world.image_size, 3):
        raise ValueError(f"expected an RGB picture of 32x32 or 64x64, got {picture.shape}")
    return _Detection(picture, world).scene()


@dataclass(frozen=True)
class _Match:
    iou: float
    icon: str
    size: str
    x: int
    y: int


class _Detection:
    """One picture, with every pixel's nearest colour."""

    def __init__(self, picture: npt.NDArray[np.uint8], world: World) -> None:
        self.world = world
        self.pixels = picture.astype(np.float64)
        self.colors = np.array(list(world.colors.values()), dtype=np.float64)
        self.ink = np.array(world.ink, dtype=np.float64)
        self.ground, self.background = self._background()
        inkiness, distance = self._tones()
        self.nearest = distance.argmin(axis=2)
        self.inky = np.take_along_axis(inkiness, self.nearest[..., None], 2)[..., 0] > _MAX_INK
        to_ground = np.linalg.norm(self.pixels - self.background, axis=2)
        least = _MIN_STEP if world.free else 0.0
        self.foreground: _Mask = (distance.min(axis=2) < to_ground) & (to_ground > least)

    def _tones(self) -> tuple[_Floats, _Floats]:
        """By colour, how much ink is mixed into a pixel, and how far it is from that mixture."""
        offsets = self.pixels[..., None, :] - self.colors
        axes = self.ink - self.colors
        inkiness = np.einsum("hwcr,cr->hwc", offsets, axes) / np.square(axes).sum(axis=1)
        inkiness = np.clip(inkiness, 0.0, 1.0) * self.world.has_surfaces
        return inkiness, np.linalg.norm(offsets - inkiness[..., None] * axes, axis=3)

    def _background(self) -> tuple[str, _Floats]:
        """The background colour nearest to the most pixels."""
        grounds = np.array(list(self.world.backgrounds.values()), dtype=np.float64)
        palette = np.concatenate([grounds, self.colors])
        nearest = np.linalg.norm(self.pixels[..., None, :] - palette, axis=3).argmin(axis=2)
        votes = np.bincount(nearest.ravel(), minlength=len(palette))[: len(grounds)]
        index = int(votes.argmax())
        return list(self.world.backgrounds)[index], grounds[index]

    def scene(self) -> Scene:
        return Scene(self.ground, tuple(self._icons()))

    def _icons(self) -> Iterator[PlacedIcon]:
        """Greedy: take the best match of any template anywhere, erase its box, repeat."""
        remaining = self.foreground.copy()
        for _ in range(_MAX_ICONS):
            matches = (_best_match(remaining, self.world, size) for size in self.world.sizes)
            match = max(matches, key=lambda m: m.iou)
            if match.iou < _MIN_IOU:
                return
            side = self.world.sizes[match.size]
            box = np.s_[match.y : match.y + side, match.x : match.x + side]
            body = stamp(self.world, match.icon, match.size).body >= 0.5
            color = self._color(self.nearest[box][body & remaining[box] & ~self.inky[box]])
            remaining[box] = False
            if color is not None:
                surface = self._surface(match, color)
                name = list(self.world.colors)[color]
                yield PlacedIcon(match.icon, name, match.size, match.x, match.y, surface)

    def _color(self, nearest: npt.NDArray[np.int64]) -> int | None:
        """Index of the colour of most of an icon's pixels, ink apart; None if it is mixed."""
        votes = np.bincount(nearest, minlength=len(self.colors))[: len(self.colors)]
        return int(votes.argmax()) if votes.max() >= _MIN_PURITY * max(1, votes.sum()) else None

    def _surface(self, match: _Match, color: int) -> str:
        """Whose painted icon is nearest to the picture, a pixel around the match's place."""
        world = self.world
        if not world.has_surfaces:
            return world.surfaces[0]
        errors = {
            (surface, x, y): self._error(match, surface, color, x, y)
            for surface in world.surfaces
            for x in _around(match.x, world, match.size)
            for y in _around(match.y, world, match.size)
        }
        surface, x, y = min(errors, key=lambda key: errors[key])
        return surface if self._shows(match, surface, color, x, y) else UNCLEAR

    def _error(self, match: _Match, surface: str, color: int, x: int, y: int) -> float:
        """Squared distance between the box at (x, y) and the icon as it is painted."""
        painted = stamp(self.world, match.icon, match.size, surface)
        side = len(painted.ink)
        expected = (1 - painted.body)[..., None] * self.background
        expected += painted.color[..., None] * self.colors[color]
        expected += painted.ink[..., None] * self.ink
        window = self.pixels[y : y + side, x : x + side]
        return float(np.square(window - expected).sum())

    def _shows(self, match: _Match, surface: str, color: int, x: int, y: int) -> bool:
        """Whether a pattern stands out: how much inkier its ink is than its colour, 0 to 1.

        A plain icon shows if it is not inky itself.
        """
        painted = stamp(self.world, match.icon, match.size, surface)
        side = len(painted.ink)
        axis = self.ink - self.colors[color]
        window = self.pixels[y : y + side, x : x + side] - self.colors[color]
        inkiness = np.clip(window @ axis / (axis @ axis), 0.0, 1.0)
        paint = float(np.average(inkiness, weights=painted.color + 1e-9))
        if not painted.ink.any():
            return paint < _MIN_CONTRAST
        return float(np.average(inkiness, weights=painted.ink)) - paint >= _MIN_CONTRAST


def _around(corner: int, world: World, size: str) -> range:
    most = world.image_size - world.sizes[size]
    return range(max(0, corner - 1), min(most, corner + 1) + 1)


@dataclass(frozen=True, eq=False)
class _Templates:
    """Silhouettes of every icon at one size, without and with an outline.

    spectra: of each, and of the whole box, for correlations over a picture; areas: in pixels.
    """

    icons: list[str]
    spectra: npt.NDArray[np.complex64]
    areas: _Floats


@cache
def _templates(world: World, size: str) -> _Templates:
    outlines = [False, True] if "outlined" in world.surfaces else [False]
    names = [(icon, outlined) for outlined in outlines for icon in ICONS]
    bodies = np.stack(
        [
            stamp(world, icon, size, "outlined" if outlined else "plain").body >= 0.5
            for icon, outlined in names
        ]
    )
    ring = _ring(world)
    side = world.sizes[size] + 2 * ring
    shape = (world.image_size + 2 * ring,) * 2
    bodies = np.pad(bodies, ((0, 0), (ring, ring), (ring, ring)))
    boxes = np.concatenate([bodies, np.ones((1, side, side))]).astype(np.float32)
    spectra = np.fft.rfft2(boxes, s=shape).conj().astype(np.complex64)
    return _Templates([icon for icon, _ in names], spectra, bodies.sum(axis=(1, 2)))


def _ring(world: World) -> int:
    """Width of what is compared around a box: icons that stand anywhere need not fill one."""
    return 2 if world.free else 0


def _best_match(foreground: _Mask, world: World, size: str) -> _Match:
    templates = _templates(world, size)
    padded = np.pad(foreground, _ring(world)).astype(np.float32)
    span = world.image_size - world.sizes[size] + 1
    counts = np.fft.irfft2(np.fft.rfft2(padded) * templates.spectra, s=padded.shape)
    counts = np.round(counts[:, :span, :span])  # correlations of bits are whole numbers
    intersection, covered = counts[:-1], counts[-1]
    iou = intersection / (covered + templates.areas[:, None, None] - intersection)
    flat = iou.transpose(1, 2, 0).argmax()  # of equal matches the first in reading order
    y, x, index = (int(i) for i in np.unravel_index(flat, (span, span, len(iou))))
    return _Match(float(iou[index, y, x]), templates.icons[index], size, x, y)
