"""A picture of a number per block and step: how much features change, or how likely blocks run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from baton.common.errors import ExecutionFailed
from baton.common.files import saving

_WIDTH = 12.0
_ROW_HEIGHT = 0.16
_MARK = "#D55E00"


def heat_map(
    path: Path,
    matrix: npt.NDArray[np.float64],
    rows: Sequence[str],
    title: str,
    marks: Sequence[int] = (),
    label: str = "",
    top: float | None = None,
) -> None:
    """Write a PNG of the matrix, [rows, steps], first row on top.

    rows: names; marks: steps to point out; label: what the colours mean; top: value of the last
    one, by default the greatest there is. NaN stays blank. Raises ExecutionFailed without
    matplotlib, InvalidRequest if the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExecutionFailed(
            "nothing can be plotted: matplotlib is not installed; `pip install matplotlib`"
        ) from error
    height = 1.6 + _ROW_HEIGHT * len(rows)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    greatest = float(np.nanmax(matrix))
    image = axes.imshow(
        matrix,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        vmin=0.0,
        vmax=greatest if top is None else top,
    )
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xlabel("step")
    axes.set_title(title, fontsize=10, pad=12)
    above = axes.get_xaxis_transform()  # steps across, shares of the height
    axes.plot(marks, [1.01] * len(marks), "v", color=_MARK, transform=above, clip_on=False)
    for mark in marks:
        axes.axvline(mark - 0.5, color=_MARK, linewidth=0.8)
    axes.set_xlim(-0.5, matrix.shape[1] - 0.5)
    beyond = "max" if top is not None and greatest > top else "neither"
    figure.colorbar(image, ax=axes, label=label, extend=beyond, aspect=40, pad=0.01)
    with saving(path, make_folder=False) as file:
        figure.savefig(file, format="png", dpi=130)
