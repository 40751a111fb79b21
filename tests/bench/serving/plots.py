"""The plots of the edge under load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from baton.common.files import saving
from tests.bench.serving.metrics import Slice, rates
from tests.bench.serving.trace import BURST_BEGIN, BURST_END

#: Okabe and Ito's palette, which the colour-blind can tell apart.
_STYLES: dict[str, tuple[str, str]] = {
    "diffusers": ("#888888", "v"),
    "dynamic": ("#E69F00", "^"),
    "batcher": ("#CC79A7", "D"),
    "direct": ("#0072B2", "s"),
    "baton": ("#D55E00", "o"),
}
_PANELS = (
    ("latency_p50_s", "median latency, s", "log"),
    ("latency_p95_s", "95th percentile, s", "log"),
    ("goodput_per_s", "goodput at 3x alone, pictures/s", "linear"),
    ("throughput_per_s", "throughput, pictures/s", "linear"),
)


def against_load(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Latency, goodput and throughput of every system against the load."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axis, (field, label, scale) in zip(axes.flat, _PANELS, strict=True):
        for name, (color, marker) in _STYLES.items():
            points = [
                (row["load"], row[field])
                for row in rows
                if row.get("name") == name and field in row
            ]
            steady = [(float(load), value) for load, value in points if _is_rate(load)]
            loads, values = [load for load, _ in steady], [value for _, value in steady]
            axis.plot(loads, values, color=color, marker=marker, label=name)
        axis.set_yscale(scale)
        axis.set_xlabel("load, of direct concurrency's capacity")
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
    axes.flat[0].legend(fontsize=8)
    _save(figure, path)


def _is_rate(load: str) -> bool:
    return load.replace(".", "", 1).isdigit()


def through_burst(slices: Mapping[str, Slice], path: Path) -> None:
    """By system, over the time of a burst: queue, skipped share, knobs, rows a second (Fig. 14)."""
    figure, axes = plt.subplots(6, 1, figsize=(9, 13), sharex=True, layout="constrained")
    for name, part in slices.items():
        color = _STYLES.get(name, ("#009E73", ""))[0]
        times = [look["t"] for look in part.series]
        for axis, (label, values) in zip(axes, _curves(part.series).items(), strict=True):
            axis.plot(times, values, color=color, label=name, linewidth=1.2)
            axis.set_ylabel(label, fontsize=8)
    for axis in axes:
        seconds = next(iter(slices.values())).seconds
        axis.axvspan(BURST_BEGIN * seconds, BURST_END * seconds, color="gold", alpha=0.3)
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8)
    axes[-1].set_xlabel("seconds; half of the requests come in the shaded ones")
    _save(figure, path)


def _curves(series: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """By label; None where a system does not tell."""
    return {
        "requests that wait": [look["waiting"] for look in series],
        "rows skipped, share": skipped(series),
        "skips from this share\nof the steps on": _told(series, "skip_after"),
        "chunks of a decode": _told(series, "chunks"),
        "delta": _told(series, "delta"),
        "rows a second": smoothed(rates(series, "rows")),
    }


def _told(series: Sequence[Mapping[str, float]], name: str) -> list[float | None]:
    return [look.get(name) for look in series]


def skipped(series: Sequence[Mapping[str, float]]) -> list[float | None]:
    """Of the rows of steps in full since the look before, those that were left out."""
    if not series or "full_rows" not in series[0]:
        return [None] * len(series)
    pairs = zip(rates(series, "rows"), rates(series, "full_rows"), strict=True)
    return [None if ran is None or not full else 1 - ran / full for ran, full in pairs]


def smoothed(values: Sequence[float | None], width: int = 4) -> list[float | None]:
    """The mean with the looks before."""
    found: list[float | None] = []
    for place in range(len(values)):
        near = values[max(0, place - width + 1) : place + 1]
        known = [value for value in near if value is not None]
        found.append(sum(known) / len(known) if known else None)
    return found


def _save(figure: Any, path: Path) -> None:
    with saving(path) as file:
        figure.savefig(file, dpi=130)
    plt.close(figure)
