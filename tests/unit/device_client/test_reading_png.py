"""Pictures read back with the plan in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from baton.common.errors import Incompatible
from baton.device_client.png import read_png, save_png
from baton.device_client.provenance import CHUNK_VERSION, Provenance
from tests.support.saved import (
    ACCELERATED,
    EXECUTED,
    IMAGE,
    MADE,
    REUSING,
    TASK,
    fourth,
    moved_behind,
    refusal,
    third,
    written,
)
from tests.support.tasks import plan


@pytest.mark.parametrize("kind", ["iTXt", "packed iTXt", "tEXt", "zTXt"])
def test_a_plan_behind_the_pixels_is_found(tmp_path: Path, kind: str) -> None:
    info, chunk, packed = PngInfo(), MADE.chunk(), kind in ("packed iTXt", "zTXt")
    if kind.endswith("iTXt"):
        info.add_itxt("baton", chunk, zip=packed)
    else:
        info.add_text("baton", chunk, zip=packed)
    info.add_text("Comment", "another tool's")
    IMAGE.save(tmp_path / "a.png", pnginfo=info)
    saved = read_png(moved_behind(tmp_path / "a.png"))
    assert saved.provenance == MADE
    np.testing.assert_array_equal(saved.pixels, np.asarray(IMAGE))


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    saved = read_png(save_png(IMAGE, tmp_path / "a.png", MADE))
    assert saved.provenance == MADE
    assert saved.scale == 2
    np.testing.assert_array_equal(saved.pixels, np.asarray(IMAGE))


def test_the_plan_read_is_the_one_that_ran(tmp_path: Path) -> None:
    """A device may have finished what an edge was asked for, and a node may save a branch."""
    planned = replace(TASK, plan=plan("edge/large", 6, "dpmpp_2m", 3.5))
    executed = tuple(
        replace(step, branches="positive" if step.step == 4 else "both") for step in EXECUTED
    )
    path = save_png(IMAGE, tmp_path / "a.png", replace(MADE, task=planned, executed=executed))
    read = read_png(path).provenance.task.plan
    assert read == plan(
        "edge/large@0.5>device/small", 6, "dpmpp_2m", 3.5, [i != 4 for i in range(6)]
    )


def test_what_ran_with_blocks_is_read_back(tmp_path: Path) -> None:
    read = read_png(save_png(IMAGE, tmp_path / "a.png", REUSING)).provenance
    assert read.executed == ACCELERATED
    for step in ACCELERATED:
        assert read.task.plan.directive_at(step.step) == step.directive


def test_steps_that_ran_as_usual_say_nothing_of_blocks() -> None:
    first, *_, last = json.loads(REUSING.chunk())["executed"]
    assert {"blocks", "ahead", "neighbours"} <= first.keys()
    assert not {"blocks", "ahead", "neighbours", "prior_noise"} & last.keys()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"version": 1}, "draw"),
        ({"version": 2}, "draw"),
        ({"version": CHUNK_VERSION + 1}, "update"),
        ({"version": 99, "more": []}, "update"),
    ],
)
def test_another_version_is_refused_with_both_named(
    tmp_path: Path, change: dict[str, object], word: str
) -> None:
    chunk = json.loads(MADE.chunk()) | change
    text = refusal(written(tmp_path / "a.png", json.dumps(chunk)), Incompatible)
    assert word in text
    assert str(next(iter(change.values()))) in text


def test_the_protocol_over_which_it_was_drawn_decides_nothing(tmp_path: Path) -> None:
    for protocol in (1, 2, 99):
        chunk = json.loads(MADE.chunk()) | {"protocol": protocol}
        assert read_png(written(tmp_path / "a.png", json.dumps(chunk))).provenance == MADE


@pytest.mark.parametrize("made", [MADE, REUSING], ids=["plain", "accelerated"])
def test_a_picture_of_version_4_is_read_as_it_ran(tmp_path: Path, made: Provenance) -> None:
    read = read_png(written(tmp_path / "a.png", json.dumps(fourth(made)))).provenance
    assert read == read_png(save_png(IMAGE, tmp_path / "b.png", made)).provenance


def by_branch(made: Provenance) -> Provenance:
    """With a step whose branches ran different blocks."""
    first, *others = made.executed
    first = replace(first, blocks=7, negative_blocks=3)
    return replace(made, executed=(first, *others))


def test_blocks_of_a_branch_of_its_own_come_back_and_are_told_to_no_older_baton(
    tmp_path: Path,
) -> None:
    """One that reads up to version 4 would pass them over, and draw another picture."""
    made = by_branch(MADE)
    path = save_png(IMAGE, tmp_path / "a.png", made)
    assert read_png(path).provenance.executed == made.executed
    assert json.loads(made.chunk())["version"] > 4
    damaged = refusal(written(tmp_path / "b.png", json.dumps(fourth(made))))
    assert "branch" in damaged


@pytest.mark.parametrize("made", [MADE, REUSING], ids=["plain", "accelerated"])
def test_a_picture_of_version_3_is_read_as_it_ran(tmp_path: Path, made: Provenance) -> None:
    read = read_png(written(tmp_path / "a.png", json.dumps(third(made)))).provenance
    again = read_png(save_png(IMAGE, tmp_path / "b.png", made)).provenance
    assert read == again


def test_a_picture_without_a_plan_says_so(tmp_path: Path) -> None:
    assert "no plan" in refusal(save_png(IMAGE, tmp_path / "a.png", None))


def test_another_mode_of_the_same_pixels_is_read_alike(tmp_path: Path) -> None:
    """As optimisers rewrite a file."""
    flat = Image.new("RGB", (16, 16), (10, 20, 30))
    for image in (flat.quantize(2), flat.convert("RGBA")):
        saved = read_png(written(tmp_path / f"{image.mode}.png", MADE.chunk(), image))
        np.testing.assert_array_equal(saved.pixels, np.asarray(flat))
