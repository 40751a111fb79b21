"""A profile for people and programs: tables, one line, JSON and a plot. No torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from baton.common.cli import print_rows
from baton.common.errors import InvalidRequest
from baton.common.files import saving
from baton.common.outputs import check_suffix, check_writable
from baton.common.size import Size
from baton.edge_server.scheduling.bounds import WEIGHT
from baton.edge_server.scheduling.profile import LaneCount, MemberProfile, Profile

#: Okabe and Ito's colours, which those tell apart, too, who see few.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LANES: tuple[LaneCount, ...] = (1, 2)
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def serving_line(
    rows: int, size: Size, profile: Profile | None, skip_after: float | None = None
) -> str:
    """How an edge is about to run its rounds.

    skip_after: the share of its steps from which on a request skips guidance, where it may, at the
    most load; None: nowhere.
    """
    if profile is None:
        told = ["no profile"]
    else:
        kind = "quick profile" if profile.quick else "profile"
        told = [f"decodes in {_counted(profile.chunks(size), 'chunk')}"]
        told.append(f"{kind} of {age(profile.age)} ago")
    if skip_after is not None:
        told.append(f"guidance skipped from {skip_after:.0%} of the steps on as the queue grows")
    return ", ".join([f"up to {rows} rows a call", *told])


def age(seconds: float) -> str:
    """In its greatest unit: ``3 hours``."""
    unit, name = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return _counted(int(seconds // unit), name)


def describe(profile: Profile) -> dict[str, Any]:
    """What was measured, and what follows from it, for programs."""
    return {
        "best_rows": profile.best_rows,
        "most_decodes": profile.most_decodes,
        "chunk_weight": WEIGHT,
        "bounds": [row for of in profile.members for row in _bounds(profile, of)],
        **profile.model_dump(mode="json"),
    }


def tell(profile: Profile) -> None:
    """As tables, the plateau's first rows marked."""
    rows = [
        {
            "member": of.member,
            "size": str(of.size),
            "rows": call.rows,
            "ms": f"{1000 * call.seconds:.2f}",
            "rows/s": f"{call.rows / call.seconds:.1f}",
            "": "plateau" if call.rows == of.best_rows else "",
        }
        for of in profile.members
        for call in of.calls
    ]
    print_rows(rows, list(rows[0]), as_json=False)
    decodes = [
        {
            "size": str(of.size),
            "decodes": one.decodes,
            "ms": f"{1000 * one.seconds:.2f}",
            "decodes/s": f"{one.decodes / one.seconds:.1f}",
        }
        for of in profile.decoders
        for one in of.together
    ]
    if decodes:
        print()
        print_rows(decodes, list(decodes[0]), as_json=False)
    print()
    bounds = [row for of in profile.members for row in _bounds(profile, of)]
    print_rows(bounds, list(bounds[0]), as_json=False)


def check_plot(path: Path) -> Path:
    """Raises InvalidRequest where no plot can be made or written."""
    if find_spec("matplotlib") is None:
        raise InvalidRequest(
            "--plot needs matplotlib, which is not installed: pip install matplotlib"
        )
    return check_writable(check_suffix(path, ".png"))


def plot(profile: Profile, path: Path) -> None:
    """A PNG of three panels: rows/s, decodes/s, and a call beside a chunk against it alone.

    Raises InvalidRequest if it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 4.2), layout="constrained")
    panels: tuple[Callable[[Profile, Any], None], ...] = (_rows, _decodes, _contention)
    for draw, axes in zip(panels, figure.subplots(1, 3), strict=True):
        draw(profile, axes)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0.0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    with saving(path, make_folder=False) as file:
        figure.savefig(file, format="png", dpi=130)


def _rows(profile: Profile, axes: Any) -> None:
    for index, of in enumerate(profile.members):
        rows, rates = zip(*of.rates, strict=True)
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(rows, rates, marker=".", color=colour, label=f"{of.member} {of.size}")
        best = rows.index(of.best_rows)
        axes.plot(rows[best], rates[best], "o", color=colour, markersize=9, fillstyle="none")
    axes.set(title="UNet calls; circle: plateau", xlabel="rows of a call", ylabel="rows/s")


def _decodes(profile: Profile, axes: Any) -> None:
    for index, of in enumerate(profile.decoders):
        counts = [one.decodes for one in of.together]
        rates = [one.decodes / one.seconds for one in of.together]
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(counts, rates, marker=".", color=colour, label=str(of.size))
    axes.set(title="Decodes", xlabel="decodes in flight", ylabel="decodes/s")


def _contention(profile: Profile, axes: Any) -> None:
    """Beside one chunk, at the rows of the plateau."""
    for index, of in enumerate(profile.members):
        for lanes, style in zip(_LANES, ("-", "--"), strict=True):
            cuts = sorted({one.chunks for one in of.beside if one.lanes == lanes})
            found = [(cut, of.beside_at(of.best_rows, 1, cut, lanes)) for cut in cuts]
            ratios = [(cut, beside[0]) for cut, beside in found if beside]
            if ratios:
                name = f"{of.member} {of.size}, {_counted(lanes, 'lane')}"
                colour = COLOURS[index % len(COLOURS)]
                axes.plot(*zip(*ratios, strict=True), style, marker=".", color=colour, label=name)
    axes.axhline(1.0, color="#888888", linewidth=0.8)
    axes.set(title="A call beside a chunk", xlabel="chunks of a decode", ylabel="times alone")


def _bounds(profile: Profile, of: MemberProfile) -> list[dict[str, Any]]:
    """By lanes that were measured; one always is.

    chunks: by Eq. 1; V_max: at that many; most chunks: from which on more gain nothing.
    """
    measured = {1, *(one.lanes for one in of.beside)}
    return [
        {
            "member": of.member,
            "size": str(of.size),
            "B_max": of.best_rows,
            "lanes": lanes,
            "chunks": (chunks := profile.chunks(of.size, lanes)),
            "V_max": of.most_decodes(chunks, lanes),
            "most chunks": of.most_chunks(lanes),
        }
        for lanes in _LANES
        if lanes in measured
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
