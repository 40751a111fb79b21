"""The plots of the relay's benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from baton.common.files import saving
from tests.bench.arms import RELAYS, Entry
from tests.bench.ratios import EQUAL_MARGIN, Point, frontier
from tests.bench.rows import Measured, unbroken_of

#: Okabe and Ito's palette, which the colour-blind can tell apart.
_STYLES: dict[str, tuple[str, str]] = {
    "large": ("#000000", "s"),
    "smaller": ("#888888", "v"),
    "partly unguided": ("#56B4E9", "D"),
    "accelerated": ("#0072B2", "^"),
    "training-free": ("#E69F00", "."),
    "finisher": ("#D55E00", "o"),
    "finisher accelerated": ("#CC79A7", "o"),
    "no large": ("#009E73", "P"),
}
_TITLES = {
    "total": "Score against the seconds of a picture",
    "edge": "Score against the seconds that a picture keeps an edge",
}
_SHOWN_STEPS, _SHOWN_CUTS = 50, (0.2, 0.4, 0.8)


def score_against_seconds(measured: Measured, of: Literal["total", "edge"], path: Path) -> None:
    """Graded score of every timed arm, with 95% intervals, and the frontiers of relays and others.

    of: the whole time in process, or what of it the arm leaves to an edge.
    """
    figure, axis = plt.subplots(figsize=(11, 8), layout="constrained")
    reference = measured.graded(measured.reference)
    label = f"{measured.reference}, and {EQUAL_MARGIN:g} below"
    axis.axhspan(reference - EQUAL_MARGIN, reference, color="gold", alpha=0.3, label=label)
    for kind, (color, marker) in _STYLES.items():
        names = [name for name in measured.times if measured.entries[name].kind == kind]
        _scatter(axis, measured, [(n, _at(measured, n, of)) for n in names], (kind, color, marker))
    for relays, color in ((False, "black"), (True, "#D55E00")):
        _frontier(axis, measured, of, relays, color)
    if of == "edge":  # some take none of it
        axis.set_xscale("symlog", linthresh=0.01)
        axis.set_xlim(left=-0.001)
    else:
        axis.set_xscale("log")
    axis.set_xlabel(f"{of} seconds, in process, one thread (median)")
    axis.set_ylabel(f"graded score, n = {len(measured.cases)}")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="lower right")
    axis.set_title(_TITLES[of])
    with saving(path) as file:
        figure.savefig(file, dpi=130)
    plt.close(figure)


def _at(measured: Measured, name: str, of: Literal["total", "edge"]) -> float:
    return measured.seconds(name) if of == "total" else measured.edge_seconds(name)


def _scatter(
    axis: Any,
    measured: Measured,
    points: Sequence[tuple[str, float]],
    style: tuple[str, str, str],
) -> None:
    if not points:
        return
    label, color, marker = style
    scores = [measured.drawings[name].score() for name, _ in points]
    spread = [
        [score.graded - score.ci95[0] for score in scores],
        [score.ci95[1] - score.graded for score in scores],
    ]
    seconds, values = [x for _, x in points], [score.graded for score in scores]
    shape = {"color": color, "marker": marker, "linestyle": "", "markersize": 5}
    axis.errorbar(seconds, values, spread, **shape, elinewidth=0.4, alpha=0.8, label=label)


def _frontier(axis: Any, measured: Measured, of: Any, relays: bool, color: str) -> None:
    """What no faster one of its side equals, joined and named."""
    names = [n for n in measured.times if (measured.entries[n].kind in RELAYS) == relays]
    points = [Point(name, _at(measured, name, of), measured.graded(name)) for name in names]
    kept = frontier(points)
    axis.plot(
        [point.seconds for point in kept],
        [point.graded for point in kept],
        color=color,
        linewidth=1.0,
        drawstyle="steps-post",
        label=f"frontier of {'relays' if relays else 'all else'}",
    )
    for point in kept:
        place = (point.seconds, point.graded)
        offset, aligned = ((-4, 5), "right") if relays else ((4, -10), "left")
        shape = {"textcoords": "offset points", "fontsize": 6, "color": color, "ha": aligned}
        axis.annotate(_short(measured.entries[point.name]), place, offset, **shape)


def _short(entry: Entry) -> str:
    return entry.name.replace("edge/", "").replace("device/", "")


def intensity_against_step(measured: Measured, path: Path) -> None:
    """Mean ``||x||_2`` over prompts, and its ratio to the unbroken run of the first member.

    Of runs through 50 plain steps that are cut at some of the shares, the control among them.
    """
    shown = [name for name in measured.drawings if _is_shown(measured, name)]
    figure, axes = plt.subplots(2, 1, figsize=(10, 8), sharex=True, layout="constrained")
    for index, name in enumerate(shown):
        unbroken = unbroken_of(measured, name)
        intensity = measured.drawings[name].intensity
        cut = measured.plans[name].segments[-1].start
        style = {"color": f"C{index % 10}", "linestyle": "-" if index < 10 else "--"}
        lines = [(axes[0], intensity.mean(axis=0))]
        if unbroken is not None:
            ratio = intensity / measured.drawings[unbroken].intensity
            lines.append((axes[1], ratio.mean(axis=0)))
        for axis, line in lines:
            axis.plot(line, **style, linewidth=1.1, label=name if axis is axes[0] else None)
            axis.plot(cut, line[cut], "o", color=style["color"], markersize=4)
    axes[0].set_ylabel("latent intensity $||x||_2$, variance preserving")
    axes[1].set_ylabel("ratio to the first member's unbroken run")
    axes[1].set_xlabel("denoising step (a dot: handoff)")
    if shown:
        axes[0].legend(fontsize=7, ncols=2)
    for axis in axes:
        axis.grid(alpha=0.25)
    figure.suptitle(f"Latent intensity against step, DDIM, mean over {len(measured.cases)} prompts")
    with saving(path) as file:
        figure.savefig(file, dpi=130)
    plt.close(figure)


def _is_shown(measured: Measured, name: str) -> bool:
    entry, plan = measured.entries[name], measured.plans[name]
    cuts = [segment.start / plan.steps for segment in plan.segments[1:]]
    relayed = entry.kind in (*RELAYS, "foreign") and entry.accel == "none"
    return relayed and entry.steps == _SHOWN_STEPS and any(cut in _SHOWN_CUTS for cut in cuts)
