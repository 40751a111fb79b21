"""The plot of the accelerations' benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from baton.common.files import saving

_COLORS = {
    "reference": "#000000",
    "claimed": "#D55E00",
    "variant": "#E69F00",
    "baseline": "#0072B2",
    "control": "#CC79A7",
    "fewer steps": "#999999",
    "both": "#009E73",
}


def score_against_seconds(
    rows: Sequence[dict[str, Any]], relays: Sequence[dict[str, Any]], path: Path
) -> None:
    """Graded score against seconds at batch 1, every method of each member, with 95% intervals.

    Those of the selection's prompts; relays were drawn on the headline's.
    """
    figure, axes = plt.subplots(2, 1, figsize=(12, 15), layout="constrained")
    for axis, member in zip(axes, ("large", "small"), strict=True):
        for row in rows:
            if (row["member"], row["prompts"]) == (member, "selection"):
                _point(axis, row, _COLORS.get(row["kind"], "#999999"))
        for kind, color in _COLORS.items():
            axis.plot([], [], "o", color=color, label=kind)
        if member == "large":
            for row in relays:
                _point(axis, row, "#882255")
            axis.plot([], [], "o", color="#882255", label="relay (other prompts)")
        axis.set_xscale("log")
        axis.set_xlabel("seconds per picture, batch 1 (median, log scale)")
        axis.set_ylabel(f"graded score of {member}")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, loc="lower right")
    figure.suptitle("Score against seconds: accelerations, their controls, and fewer steps")
    with saving(path) as file:
        figure.savefig(file, dpi=110)
    plt.close(figure)


def _point(axis: Any, row: dict[str, Any], color: str) -> None:
    low, high = row["ci95"]
    error = [[row["graded"] - low], [high - row["graded"]]]
    axis.errorbar(row["seconds"], row["graded"], yerr=error, fmt="none", color=color, alpha=0.25)
    axis.plot(row["seconds"], row["graded"], "o", color=color, markersize=4)
    place, strong = (
        (row["seconds"], row["graded"]),
        row["kind"] in ("claimed", "reference", "relay"),
    )
    axis.annotate(
        row["name"], place, fontsize=8 if strong else 6, alpha=1.0 if strong else 0.6, rotation=30
    )
