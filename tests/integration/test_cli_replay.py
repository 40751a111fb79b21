"""``baton replay`` as its users run it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from baton.common.families.loaded import LoadedFamily
from baton.device_client.provenance import CHUNK_VERSION
from baton.device_client.result import Result
from tests.support.commands import Told, clean_environment, run_many
from tests.support.families import copy_family, flip_bit
from tests.support.nodes import device, edge

ROOT = Path(__file__).resolve().parents[2]
NEWER = CHUNK_VERSION + 1
UNET = "small/unet/diffusion_pytorch_model.safetensors"

#: What is refused: the command line, the exit code, and words of the reason.
WRONG: dict[str, tuple[list[str], int, list[str]]] = {
    "no file": (["replay"], 2, ["argument"]),
    "a missing file": (["replay", "missing.png"], 2, ["missing.png", "No such file"]),
    "no picture": (["replay", "text.png"], 2, ["text.png", "not a PNG"]),
    "no plan": (["replay", "plain.png"], 2, ["plain.png", "no plan"]),
    "a damaged plan": (["replay", "damaged.png"], 2, ["damaged.png", "seed"]),
    "a file cut short": (["replay", "short.png"], 2, ["short.png"]),
    "a newer plan": (
        ["replay", "newer.png"],
        4,
        ["newer.png", f"version {NEWER}", f"up to {CHUNK_VERSION}"],
    ),
    "an unknown family": (["replay", "a.png", "--family", "nonsense"], 2, ["nonsense"]),
    "another family": (["replay", "a.png", "--family", "scenes"], 4, ["'tiny'", "'scenes'"]),
    "other weights": (["replay", "a.png", "--family", "other"], 4, ["'small'", "same weights"]),
    "an unwritable copy": (["replay", "a.png", "--out", "/dev/null/b.png"], 2, ["/dev/null"]),
}


def rewritten(path: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with Image.open(path) as image:
        chunk = json.loads(image.info["baton"])
        change(chunk)
        info = PngInfo()
        info.add_itxt("baton", json.dumps(chunk))
        image.save(to, pnginfo=info)


def _another_build(chunk: dict[str, Any]) -> None:
    chunk["nodes"]["e1"]["build"].update(torch="1.0")


def write_pictures(folder: Path, result: Result) -> None:
    """The relayed picture, and files that have something wrong with them."""
    path = result.save(folder / "a.png")
    result.save(folder / "plain.png", metadata=False)
    (folder / "text.png").write_text("text")
    (folder / "short.png").write_bytes(path.read_bytes()[:-200])
    rewritten(path, folder / "damaged.png", lambda chunk: chunk.pop("seed"))
    rewritten(path, folder / "newer.png", lambda chunk: chunk.update(version=NEWER))
    rewritten(path, folder / "seed.png", lambda chunk: chunk.update(seed=8))
    rewritten(path, folder / "build.png", _another_build)


async def relayed(family: LoadedFamily, folder: Path) -> Result:
    async with edge(family, node_id="e1") as node:
        with device(folder, codec="fp16", members="small") as client:
            options = {"arm": "relay@0.5", "edge": node.address, "steps": 4, "seed": 7}
            return await client.generate("a red cat", **options)


@pytest.fixture(scope="module")
def baton(
    family: LoadedFamily, family_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Told]:
    folder = tmp_path_factory.mktemp("replay")
    write_pictures(folder, asyncio.run(relayed(family, family_folder)))
    flip_bit(copy_family(family_folder, folder / "other", digests=False) / UNET)
    environment = clean_environment(folder, BATON_DEVICE_FAMILY=str(family_folder))
    draw = ["generate", "a red cat", "--steps", "2", "--seed", "3", "--arm", "device"]
    lines = {name: line for name, (line, _, _) in WRONG.items()} | {
        "draw": [*draw, "--out", "drawn.png"],
        "drawn": ["replay", "drawn.png"],
        "relayed": ["replay", "a.png", "--out", "again.png"],
        "again": ["replay", "again.png", "--json", "--out", "third.png"],
        "another seed": ["replay", "seed.png"],
        "another seed, for programs": ["replay", "seed.png", "--json"],
        "another build": ["replay", "build.png"],
    }
    told = run_many("baton.device_client.cli.main", lines, environment, folder)
    assert (folder / "again.png").read_bytes() == (folder / "a.png").read_bytes()
    assert (folder / "third.png").read_bytes() == (folder / "a.png").read_bytes()
    return told


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_replayed_is_refused_in_one_line(what: str, baton: dict[str, Told]) -> None:
    _, code, words = WRONG[what]
    line = baton[what].refused(code)
    for word in words:
        assert word in line


def test_what_baton_draws_it_can_draw_again(baton: dict[str, Told]) -> None:
    told = baton["drawn"]
    assert (told.code, told.err) == (0, "")
    assert told.out == "drawn.png: identical (2 steps, small, seed 3)\n"


def test_a_relay_is_drawn_again_like_any_picture(baton: dict[str, Told]) -> None:
    told = baton["relayed"]
    assert (told.code, told.err) == (0, "")
    assert told.out == "a.png: identical (4 steps, large>small, seed 7)\n"


def test_another_build_is_named_with_the_tolerance(baton: dict[str, Told]) -> None:
    told = baton["another build"]
    assert told.code == 0
    assert told.err.startswith("warning: torch 1.0 on edge e1, ")
    assert "tolerance" in told.err
    assert told.err.count("\n") == 1


def test_a_replay_for_programs_is_json(baton: dict[str, Told]) -> None:
    told = baton["again"].json()
    assert told == {
        "path": "again.png",
        "verdict": "identical",
        "steps": 4,
        "members": ["large", "small"],
        "seed": 7,
        "levels": 0,
        "share": 0.0,
        "psnr": None,
        "reasons": [],
        "out": "third.png",
    }


def test_another_picture_is_a_failure_that_says_how_far_apart(baton: dict[str, Told]) -> None:
    told = baton["another seed"]
    assert told.code == 5
    assert told.out.startswith("seed.png: different: up to ")
    assert told.out.endswith(" dB (4 steps, large>small, seed 8)\n")
    programs = baton["another seed, for programs"]
    assert (programs.code, programs.err) == (5, "")
    found = json.loads(programs.out)
    assert found["verdict"] == "different"
    assert found["levels"] > 4
    assert 0 < found["share"] <= 1
    assert found["psnr"] > 0
