"""Where a measurement goes: a JSON file, and a plot beside it where there is one. No torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.common.errors import ExecutionFailed
from baton.common.files import saving
from baton.common.outputs import check_writable, claiming, file_or_folder, make_folder


@dataclass(frozen=True)
class Place:
    """The JSON file to write, beside its plot. named: by the user, so that it may be replaced."""

    path: Path
    named: bool


def find_place(out: Path, chosen: str, plotted: bool = True) -> Place:
    """chosen: the file's name where ``out`` is a folder.

    Raises InvalidRequest for a place where nothing can be written, so that nothing is lost.
    """
    folder, name = file_or_folder(out, ".json")
    path = check_writable(folder / (name or chosen))
    if plotted:
        check_writable(path.with_suffix(".png"))
    return Place(path, named=name is not None)


def write(
    place: Place, found: Mapping[str, Any], plot: Callable[[Path], None] | None = None
) -> dict[str, Any]:
    """Write the JSON file, and the plot if there is to be one; returns what the file holds.

    A plot that cannot be made is None, and the reason a note. Raises InvalidRequest if they cannot
    be written.
    """
    told = dict(found)
    make_folder(place.path)
    with contextlib.nullcontext(place.path) if place.named else claiming(place.path) as path:
        if plot is not None:
            told["plot"], told["notes"] = _plotted(path.with_suffix(".png"), plot)
        told["path"] = str(path)
        with saving(path) as file:
            file.write(json.dumps(told, allow_nan=False).encode() + b"\n")
    return told


def _plotted(path: Path, plot: Callable[[Path], None]) -> tuple[str | None, list[str]]:
    """The plot's path, or None and the reason."""
    try:
        plot(path)
    except ExecutionFailed as error:
        return None, [str(error)]
    return str(path), []
