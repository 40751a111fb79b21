"""``baton train-masks`` as its users run it, and what its masks do to pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from baton.common.accel.masks import load_mask
from baton.device_client.png import read_png
from tests.support.commands import Told, clean_environment, run_many
from tests.support.families import copy_family, edit_json

ROOT = Path(__file__).resolve().parents[2]
_TRAIN = ["train-masks", "--family", "tiny", "--count", "2", "--iterations", "2", "--steps", "4"]
_DRAW = ["generate", "a red cat", "--arm", "device", "--seed", "3", "--family", "tiny"]

#: What is refused: the command line, the exit code, and words of the reason.
WRONG: dict[str, tuple[list[str], int, list[str]]] = {
    "an unknown member": ([*_TRAIN, "--member", "huge"], 2, ["huge", "large, small"]),
    "an unknown sampler": ([*_TRAIN, "--sampler", "ancestral"], 2, ["ancestral", "ddim"]),
    "an unknown estimator": ([*_TRAIN, "--estimator", "coin"], 2, ["coin", "bernoulli"]),
    "an unknown cost": ([*_TRAIN, "--cost", "money"], 2, ["money", "macs"]),
    "no speed at all": ([*_TRAIN, "--target-speed", "1"], 2, ["1.0"]),
    "too many steps": ([*_TRAIN, "--steps", "201"], 2, ["201"]),
    "one step": ([*_TRAIN, "--steps", "1"], 2, ["2 steps"]),
    "a refresh at each step": ([*_TRAIN, "--refresh-every", "1"], 2, ["second step", "got 1"]),
    "key steps alone": (
        [*_TRAIN, "--steps", "2", "--propagated", "--refresh-every", "0"],
        2,
        ["every step of large is a key step"],
    ),
    "no prompts": ([*_TRAIN, "--count", "0"], 2, ["0"]),
    "no such file": ([*_TRAIN, "--prompts", "missing.txt"], 2, ["missing.txt"]),
    "an unknown acceleration": ([*_DRAW, "--accel", "warp"], 2, ["warp", "propagate"]),
    "a mask of another member": (
        [*_DRAW, "--members", "large", "--steps", "4", "--accel", "masks"],
        4,
        ["tiny/small", "tiny/large"],
    ),
    "a damaged mask": (
        [*_DRAW, "--members", "small", "--steps", "5", "--accel", "masks"],
        5,
        ["ddim-5.json", "damaged"],
    ),
}


@pytest.fixture(scope="module")
def told(
    family_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Told], Path]:
    """Trained first; the other lines find the masks that it left."""
    folder = tmp_path_factory.mktemp("masks")
    copy_family(family_folder, folder / "tiny")
    environment = clean_environment(folder)
    module = "baton.device_client.cli.main"
    small, cost = ["--member", "small"], ["--cost", "macs"]
    first = {
        "trained": [*_TRAIN, *small, *cost, "--json"],
        "trained again": [*_TRAIN, *small, *cost, "--out", "again.json"],
        "by time": [*_TRAIN, *small, "--steps", "5"],
        "for propagation": [
            *_TRAIN,
            *small,
            *cost,
            "--propagated",
            "--refresh-every",
            "2",
            "--json",
        ],
        "drawn": [*_DRAW, "--steps", "4", "--accel", "masks", "--out", "masked.png"],
        "drawn in full": [*_DRAW, "--steps", "4", "--accel", "full", "--out", "full.png"],
        "propagated": [*_DRAW, "--steps", "6", "--accel", "masks", "--out", "other.png", "--json"],
    }
    done = run_many(module, first, environment, folder)
    masks = folder / "tiny/small/masks"
    (folder / "tiny/large/masks").mkdir()
    (folder / "tiny/large/masks/ddim-4.json").write_bytes((masks / "ddim-4.json").read_bytes())
    edit_json(masks / "ddim-5.json", lambda content: content["run"].reverse())
    done |= run_many(
        module, {name: line for name, (line, _, _) in WRONG.items()}, environment, folder
    )
    return done, folder


def test_a_trained_mask_lies_where_it_is_looked_for(told: tuple[dict[str, Told], Path]) -> None:
    done, folder = told
    said = done["trained"].json()
    mask = load_mask(folder / said["path"])
    assert Path(said["path"]) == Path("tiny/small/masks/ddim-4.json")
    assert (mask.key.member, mask.key.steps) == ("small", 4)
    assert mask.settings["cost"] == "macs"
    assert len(mask.chances) == 4
    with Image.open(folder / said["plot"]) as plot:
        assert plot.format == "PNG"
    assert not list((folder / "tiny/small/masks").glob("*.partial"))


def test_the_same_command_trains_the_same_mask(told: tuple[dict[str, Told], Path]) -> None:
    done, folder = told
    assert done["trained again"].code == 0, done["trained again"].err
    again, first = (
        load_mask(folder / "again.json"),
        load_mask(folder / "tiny/small/masks/ddim-4.json"),
    )
    assert again == first


def test_a_picture_is_drawn_with_the_mask(told: tuple[dict[str, Told], Path]) -> None:
    done, folder = told
    assert done["drawn"].code == 0, done["drawn"].err
    mask = load_mask(folder / "tiny/small/masks/ddim-4.json")
    executed = read_png(folder / "masked.png").provenance.executed
    assert executed[0].blocks == mask.run[0]
    for step, asked in zip(executed, mask.run, strict=True):
        assert step.blocks is not None
        assert step.blocks & ~asked == 0


def test_a_picture_is_propagated_with_the_mask_that_was_trained_for_it(
    told: tuple[dict[str, Told], Path],
) -> None:
    done, folder = told
    path = Path(done["for propagation"].json()["path"])
    assert path == Path("tiny/small/masks/ddim-4-propagated.json")
    mask = load_mask(folder / path)
    assert mask.key.keys == (0, 2)
    assert done["drawn in full"].code == 0, done["drawn in full"].err
    executed = read_png(folder / "full.png").provenance.executed
    for step, asked in zip(executed, mask.run, strict=True):
        assert step.blocks is not None
        assert step.blocks & ~asked == 0


def test_another_number_of_steps_is_propagated_and_says_so(
    told: tuple[dict[str, Told], Path],
) -> None:
    done, _ = told
    (picture,) = json.loads(done["propagated"].out)
    assert any("6 steps" in note and "propagated" in note for note in picture["notes"])


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work_is_refused_in_one_line(
    told: tuple[dict[str, Told], Path], name: str
) -> None:
    _, code, words = WRONG[name]
    line = told[0][name].refused(code)
    for word in words:
        assert word in line
