"""How the verifier's acceptance falls when pictures are blurred or noisy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

from baton.common.families.scenes.grammar import SceneSpec, sample_spec
from baton.common.families.scenes.render import Pixels, Scene, compose, render
from baton.common.families.scenes.verify import detect, judge
from baton.common.families.scenes.worlds import World
from baton.common.files import saving

#: Standard deviations: of a Gaussian blur in pixels, and of noise in levels of 255.
BLURS = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0)
NOISES = (0.0, 15.0, 30.0, 45.0, 60.0, 80.0, 100.0, 130.0)


def scenes_of(
    world: World, count: int, seed: int, task: str | None = None
) -> list[tuple[SceneSpec, Scene]]:
    """Seeded descriptions, each with a scene that shows it."""
    rng = np.random.default_rng([seed, 9])
    specs = [sample_spec(rng, world, task) for _ in range(count)]
    return [(spec, compose(spec, world, rng)) for spec in specs]


def blurred(picture: Pixels, sigma: float) -> Pixels:
    """A Gaussian blur of standard deviation ``sigma`` pixels, edges repeated."""
    if sigma == 0:
        return picture
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    out = picture.astype(np.float64)
    for axis in (0, 1):
        width = [(reach, reach) if other == axis else (0, 0) for other in range(3)]
        padded = np.pad(out, width, mode="edge")
        out = np.apply_along_axis(np.convolve, axis, padded, kernel, mode="valid")
    return np.round(out).astype(np.uint8)


def noisy(picture: Pixels, sigma: float) -> Pixels:
    """Gaussian noise of standard deviation ``sigma`` levels, the same for the same picture."""
    rng = np.random.default_rng(int(picture.sum()))
    return np.clip(picture + rng.normal(0, sigma, picture.shape), 0, 255).astype(np.uint8)


def acceptance_curve(
    world: World,
    cases: Sequence[tuple[SceneSpec, Scene]],
    damage: Callable[[Pixels, float], Pixels],
    strengths: Sequence[float],
) -> list[float]:
    """Share of the true renders that are accepted at each strength of the damage."""
    pictures = [render(scene, world) for _, scene in cases]
    return [
        float(
            np.mean(
                [
                    judge(detect(damage(picture, strength)), spec, world).strict
                    for picture, (spec, _) in zip(pictures, cases, strict=True)
                ]
            )
        )
        for strength in strengths
    ]


Curves = dict[str, dict[str, list[float]]]


def draw_calibration(world: World, out: Path, count: int = 150) -> Curves:
    """Plot acceptance against blur and noise, a line per task; returns what is plotted."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    found: Curves = {}
    damages = {
        "blur, pixels": (blurred, BLURS),
        "noise, levels of 255": (noisy, NOISES),
    }
    kinds = {"GenEval's tasks": None, "surface": "surface"} if world.has_surfaces else {"all": None}
    for axis, (label, (damage, strengths)) in zip(axes, damages.items(), strict=True):
        found[label] = {}
        for name, task in kinds.items():
            cases = scenes_of(world, count, 0, task)
            curve = acceptance_curve(world, cases, damage, strengths)
            axis.plot(strengths, curve, marker="o", label=name)
            found[label][name] = curve
        axis.set(xlabel=label, ylabel="accepted true renders", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].legend()
    with saving(out) as file:
        figure.savefig(file, dpi=110)
    plt.close(figure)
    return found
