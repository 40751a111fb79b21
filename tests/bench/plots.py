"""The two plots of the relay's curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from baton.common.files import saving
from tests.bench.configs import RELAYS, Config
from tests.bench.ratios import GRADED_MARGIN
from tests.bench.rows import Measured

#: Okabe and Ito's palette, which the colour-blind can tell apart.
_COLORS = {
    "large>small": "#D55E00",
    "large>medium": "#0072B2",
    "large>medium>small": "#CC79A7",
    "small>large": "#009E73",
    "foreign": "#B22222",
}
_FEWER = {"large": "#333333", "medium": "#777777", "small": "#A9A9A9"}
_MARKERS = {"large": "s", "medium": "D", "small": "v"}
_SHOWN_TENTHS = (2, 5, 8)


def score_against_seconds(measured: Measured, path: Path) -> None:
    """Graded and strict score of every timed configuration, with 95% intervals."""
    figure, axes = plt.subplots(2, 1, figsize=(11, 13), sharex=True, layout="constrained")
    for axis, score in zip(axes, ("graded", "strict"), strict=True):
        _reference(axis, measured, score)
        for kind in RELAYS:
            of = [config for config in measured.configs if config.kind == kind]
            _scatter(axis, measured, of, score, kind)
        for member in _FEWER:
            _fewer(axis, measured, member, score)
        _alone(axis, measured, score)
        axis.set_ylabel(f"{score} score, n = {len(measured.cases)}")
        axis.grid(alpha=0.25)
    axes[1].set_xscale("function", functions=(_root, np.square))  # room for the fast ones
    axes[1].set_xlim(left=0)
    axes[1].set_xlabel("seconds per picture, batch 1 over loopback (median; square-root scale)")
    axes[0].legend(fontsize=8, loc="lower right")
    figure.suptitle("Score against seconds: relays, members alone, and members at fewer steps")
    with saving(path) as file:
        figure.savefig(file, dpi=130)
    plt.close(figure)


def _root(x: Any) -> Any:
    return np.sqrt(np.maximum(x, 0))


def _reference(axis: Any, measured: Measured, score: str) -> None:
    value = float(getattr(measured.drawing(measured.reference), score).mean())
    label = f"{measured.reference.name} steps, and what a relay may lose ({GRADED_MARGIN:g} graded)"
    axis.axhline(value, color="black", linewidth=0.8, linestyle="--")
    if score == "graded":
        axis.axhspan(value - GRADED_MARGIN, value, color="gold", alpha=0.3, label=label)


def _scatter(axis: Any, measured: Measured, of: Sequence[Config], score: str, kind: str) -> None:
    """Points with intervals; two-segment relays are joined and say where they are cut."""
    seconds, values, spread = _points(measured, of, score)
    joined = kind.count(">") == 1
    label = f"{kind}, cut at" + (" two tenths" if not joined else " 0.1 to 0.9")
    axis.errorbar(
        seconds,
        values,
        spread,
        color=_COLORS[kind],
        marker="o" if joined else ".",
        linestyle="-" if joined else "",
        markersize=5,
        elinewidth=0.5,
        alpha=0.9 if joined else 0.35,
        label=label,
    )
    for config, x, y in zip(of, seconds, values, strict=True):
        tenth = round(10 * config.cuts[0] / config.plan.steps)
        if joined and tenth in _SHOWN_TENTHS:
            axis.annotate(
                f"{tenth / 10:g}",
                (x, y),
                (4, 5),
                textcoords="offset points",
                fontsize=8,
                color=_COLORS[kind],
            )


def _fewer(axis: Any, measured: Measured, member: str, score: str) -> None:
    of = [
        config
        for config in measured.configs
        if config.kind == "fewer steps"
        and config.members[0] == member
        and config.name in measured.timings
    ]
    if not of:
        return
    seconds, values, spread = _points(measured, of, score)
    axis.errorbar(
        seconds,
        values,
        spread,
        color=_FEWER[member],
        marker=_MARKERS[member],
        linestyle=":",
        markersize=4,
        elinewidth=0.5,
        label=f"{member} alone, fewer steps, {of[0].sampler}",
    )
    for config, x, y in zip(of, seconds, values, strict=True):
        axis.annotate(
            str(config.plan.steps),
            (x, y),
            (3, -10),
            textcoords="offset points",
            fontsize=7,
            color=_FEWER[member],
        )


def _alone(axis: Any, measured: Measured, score: str) -> None:
    of = [config for config in measured.configs if config.kind == "alone"]
    seconds, values, spread = _points(measured, of, score)
    axis.errorbar(
        seconds, values, spread, color="black", marker="*", markersize=12, linestyle="", zorder=5
    )
    for config, x, y in zip(of, seconds, values, strict=True):
        axis.annotate(
            config.name, (x, y), (-6, 10), textcoords="offset points", ha="right", fontsize=9
        )


def _points(
    measured: Measured, of: Sequence[Config], score: str
) -> tuple[list[float], list[float], list[list[float]]]:
    """(seconds, scores, [below, above] the score to its interval's ends)."""
    scores = [measured.drawing(config).score() for config in of]
    values = [float(getattr(one, score)) for one in scores]
    ends = [one.ci95 if score == "graded" else one.strict_ci95 for one in scores]
    spread = [
        [value - low for value, (low, _) in zip(values, ends, strict=True)],
        [high - value for value, (_, high) in zip(values, ends, strict=True)],
    ]
    return [measured.seconds(config) for config in of], values, spread


def intensity_against_step(measured: Measured, path: Path) -> None:
    """Mean ``||x||_2`` over prompts, and its ratio to the unbroken run of the first member."""
    steps = measured.reference.plan.steps
    shown = [config for config in measured.configs if _is_shown(config)]
    alone = {c.members: c for c in measured.configs if c.kind == "alone"}
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 8), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    for config in [*alone.values(), *shown]:
        style = _line(config)
        above.plot(range(steps + 1), measured.drawing(config).intensity.mean(axis=0), **style)
        if config not in shown:
            continue
        unbroken = measured.drawing(alone[config.members[:1]]).intensity
        ratio = measured.drawing(config).intensity / unbroken
        mean = ratio.mean(axis=0)
        error = 1.96 * ratio.std(axis=0) / np.sqrt(len(ratio))
        below.plot(range(steps + 1), mean, **style)
        below.fill_between(
            range(steps + 1), mean - error, mean + error, color=style["color"], alpha=0.15
        )
        for cut in config.cuts:
            above.plot(cut, measured.drawing(config).intensity[:, cut].mean(), "o", **_dot(style))
            below.plot(cut, mean[cut], "o", **_dot(style))
    above.set_ylabel("latent intensity $||x||_2$")
    below.set_ylabel("ratio to the first member's unbroken run")
    below.set_xlabel("denoising step (a dot: handoff)")
    above.legend(fontsize=8, ncols=2)
    for axis in (above, below):
        axis.grid(alpha=0.25)
    figure.suptitle(f"Latent intensity against step, DDIM, mean over {len(measured.cases)} prompts")
    with saving(path) as file:
        figure.savefig(file, dpi=130)
    plt.close(figure)


def _is_shown(config: Config) -> bool:
    """Some cuts of every relay between two members, one of the foreign control."""
    tenths = [round(10 * cut / config.plan.steps) for cut in config.cuts]
    if config.kind == "foreign":
        return tenths == [4]
    return config.kind in RELAYS and len(tenths) == 1 and tenths[0] in _SHOWN_TENTHS


def _line(config: Config) -> dict[str, Any]:
    if config.kind == "alone":
        dashes = {"large": "-", "medium": "--", "small": ":"}[config.members[0]]
        return {"color": "black", "linestyle": dashes, "linewidth": 1.6, "label": config.name}
    tenth = round(10 * config.cuts[0] / config.plan.steps)
    dashes = {2: ":", 5: "--", 8: "-"}.get(tenth, "-.")
    color = _COLORS[config.kind]
    return {"color": color, "linestyle": dashes, "linewidth": 1.1, "label": config.name}


def _dot(style: dict[str, Any]) -> dict[str, Any]:
    return {"color": style["color"], "markersize": 5}
