"""Heat maps over blocks and steps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baton.common.accel.heatmap import heat_map
from baton.common.errors import ExecutionFailed, InvalidRequest

MARK = np.array([0xD5, 0x5E, 0x00])
#: The ends of viridis.
LEAST, MOST = np.array([68, 1, 84]), np.array([253, 231, 36])


def drawn(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(np.int16)


def share(pixels: np.ndarray[tuple[int, ...], np.dtype[np.int16]], color: object) -> float:
    return float((np.abs(pixels - color).max(axis=-1) <= 8).mean())


def rows(count: int) -> list[str]:
    return [f"block {index}" for index in range(count)]


def test_values_become_colours_and_nan_stays_blank(tmp_path: Path) -> None:
    half = np.repeat([[0.0, 1.0]], 8, axis=0)
    heat_map(tmp_path / "half.png", half, rows(8), "half")
    blank = np.repeat([[np.nan, 1.0]], 8, axis=0)
    heat_map(tmp_path / "blank.png", blank, rows(8), "blank")
    one, two = drawn(tmp_path / "half.png"), drawn(tmp_path / "blank.png")
    assert share(one, LEAST) > 0.2
    assert share(one, MOST) > 0.2
    assert share(two, MOST) > 0.2
    assert share(two, LEAST) < 0.05


def test_values_beyond_the_top_have_its_colour(tmp_path: Path) -> None:
    heat_map(tmp_path / "a.png", np.array([[1.0, 9.0]]), rows(1), "", top=1.0)
    assert share(drawn(tmp_path / "a.png"), LEAST) < 0.05


def test_marks_show(tmp_path: Path) -> None:
    for name, marks in (("without", ()), ("with", (0, 3))):
        heat_map(tmp_path / f"{name}.png", np.zeros((4, 6)), rows(4), "", marks)
    assert share(drawn(tmp_path / "without.png"), MARK) == 0
    assert share(drawn(tmp_path / "with.png"), MARK) > 0


def test_every_row_has_room_for_its_name(tmp_path: Path) -> None:
    for count in (2, 80):
        heat_map(tmp_path / f"{count}.png", np.eye(count), rows(count), "")
    few, many = (drawn(tmp_path / f"{count}.png").shape for count in (2, 80))
    assert few[1] == many[1]
    assert many[0] - few[0] > 78 * 15


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot write .*nowhere"):
        heat_map(tmp_path / "nowhere" / "a.png", np.eye(2), rows(2), "")


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)  # as the import system marks what is not there
    with pytest.raises(ExecutionFailed, match="pip install matplotlib"):
        heat_map(tmp_path / "a.png", np.eye(2), rows(2), "")
    assert not (tmp_path / "a.png").exists()
