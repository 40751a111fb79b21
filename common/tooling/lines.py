"""A plot of a distance by level of noise, a line per member, with cuts marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baton.common.errors import ExecutionFailed
from baton.common.files import saving

#: Okabe and Ito's colours, which those tell apart, too, who see few.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_BESIDE = {"textcoords": "offset points", "fontsize": 8, "rotation": 90, "ha": "center"}


@dataclass(frozen=True)
class Line:
    """distances: by level, None: none. cuts: levels to mark; dashed: of a second kind."""

    name: str
    distances: tuple[float | None, ...]
    cuts: tuple[float | None, ...]
    dashed: bool = False


def line_plot(
    path: Path, levels: Sequence[float], lines: Sequence[Line], title: str, tolerance: float
) -> None:
    """Write a PNG, the noisiest level on the left.

    Raises ExecutionFailed without matplotlib, InvalidRequest if the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExecutionFailed(
            "nothing can be plotted: matplotlib is not installed; `pip install matplotlib`"
        ) from error
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for line in lines:
        colour = _COLOURS[len(colours) % len(_COLOURS)]
        colour = colours.setdefault(line.name.partition(",")[0], colour)
        _draw(axes, levels, line, colour, tolerance)
    axes.axhline(tolerance, color="#888888", linewidth=0.8)
    axes.set(xscale="log", xlabel="noise level b / a", ylabel="||x0 - x0_ref|| / ||x0_ref||")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0.0)
    axes.invert_xaxis()
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    with saving(path, make_folder=False) as file:
        figure.savefig(file, format="png", dpi=130)


def _draw(axes: Any, levels: Sequence[float], line: Line, colour: str, tolerance: float) -> None:
    """A cut is a triangle where the line crosses the tolerance."""
    distances = np.array([np.nan if value is None else value for value in line.distances])
    style = "--" if line.dashed else "-"
    axes.plot(levels, distances, style, color=colour, marker=".", label=line.name)
    for cut, marker in zip(line.cuts, "v^", strict=True):
        if cut is not None:
            axes.plot([cut], [tolerance], marker, color=colour, markersize=9)
            axes.annotate(f"{cut:.3g}", (cut, tolerance), xytext=(0, 9), **_BESIDE)
