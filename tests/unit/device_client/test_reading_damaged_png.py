"""Files that only look like pictures with a plan in them: each is refused in one line."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from baton.common.size import Size
from baton.device_client.png import save_png
from tests.support.saved import (
    IMAGE,
    MADE,
    REUSING,
    TASK,
    Change,
    moved_behind,
    refusal,
    third,
    written,
)


def test_a_plan_behind_the_pixels_is_checked_before_any_of_them_is_decoded(
    tmp_path: Path,
) -> None:
    path = moved_behind(written(tmp_path / "a.png", MADE.chunk().replace("euler", "x")[:-1]))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(data)
    assert "plan is damaged" in refusal(path)


def test_a_text_behind_the_pixels_that_is_damaged_or_cut_off_is_refused(tmp_path: Path) -> None:
    path = moved_behind(written(tmp_path / "a.png", MADE.chunk()))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"fingerprint", b"fingerprinT", 1))
    refusal(path)
    for length in range(whole.index(b"iTXt") - 4, len(whole) - 12, 97):
        path.write_bytes(whole[:length])
        refusal(path)


DAMAGED_REUSE: dict[str, Change] = {
    "more blocks than there are": lambda c: c["executed"][1].update(blocks=2**1024),
    "far more blocks": lambda c: c["executed"][1].update(blocks=10**4000),
    "negative blocks": lambda c: c["executed"][1].update(blocks=-1),
    "blocks in words": lambda c: c["executed"][1].update(blocks="6"),
    "a truth for blocks": lambda c: c["executed"][1].update(blocks=True),
    "more ahead than there are": lambda c: c["executed"][5].update(ahead=1, rows=4, row=0),
    "far ahead": lambda c: c["executed"][0].update(ahead=17),
    "back": lambda c: c["executed"][0].update(ahead=-1),
    "ahead of its rows": lambda c: c["executed"][0].update(ahead=4),
    "ahead into another process": lambda c: c["executed"][2].update(ahead=1, row=5),
    "a group within a group": lambda c: c["executed"][1].update(ahead=1),
    "a transfer within a group": lambda c: c.update(transfers=[1]),
    "other rows within a group": lambda c: c["executed"][1].update(row=1),
    "another batch within a group": lambda c: c["executed"][1].update(neighbours=[[9, 6]]),
    "other threads within a group": lambda c: c["executed"][1].update(threads=7),
    "much noise": lambda c: c["executed"][3].update(prior_noise=1.0),
    "noise that is no number": lambda c: c["executed"][3].update(prior_noise=float("nan")),
    "too few neighbours": lambda c: c["executed"][3].update(neighbours=[[1, None]]),
    "fewer than no neighbours": lambda c: c["executed"][3].update(neighbours=[[-2, 1], [10, 1]]),
    "no rows of a neighbour": lambda c: c["executed"][3].update(neighbours=[[0, 1], [8, 1]]),
    "a neighbour without blocks": lambda c: c["executed"][3].update(neighbours=[[8]]),
    "thousands of neighbours": lambda c: c["executed"][3].update(neighbours=[[1, 1]] * 9000),
}


@pytest.mark.parametrize("damage", DAMAGED_REUSE)
def test_a_damaged_record_of_blocks_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    chunk = json.loads(REUSING.chunk())
    DAMAGED_REUSE[damage](chunk)
    refusal(written(tmp_path / "a.png", json.dumps(chunk)))


def _of_steps(chunk: dict[str, Any], steps: int) -> None:
    chunk["segments"][-1].update(stop=steps)
    for segment in chunk["segments"]:
        segment["grid"].update(stop=steps)


DAMAGED: dict[str, Change] = {
    "a field too many": lambda c: c.update(more=1),
    "a field that prints badly": lambda c: c.update({"\x1b[31m\n" * 90: 1}),
    "a field too few": lambda c: c.pop("seed"),
    "a text for a number": lambda c: c.update(seed="7"),
    "a fraction for a number": lambda c: c.update(seed=7.5),
    "a truth for a number": lambda c: c["executed"][0].update(rows=True),
    "a negative seed": lambda c: c.update(seed=-1),
    "a huge seed": lambda c: c.update(seed=10**4000),
    "an empty prompt": lambda c: c.update(prompt=" "),
    "a long prompt": lambda c: c.update(prompt="x" * 4001),
    "an unknown sampler": lambda c: c["segments"][0]["grid"].update(sampler="heun"),
    "no segments": lambda c: c.update(segments=[]),
    "segments that leave steps out": lambda c: c["segments"].pop(),
    "segments out of order": lambda c: c["segments"].reverse(),
    "a segment beyond its grid": lambda c: c["segments"][1]["grid"].update(stop=5),
    "a grid that ends early": lambda c: c["segments"][1]["grid"].update(until=0.5),
    "a grid without a digest": lambda c: c["segments"][0]["grid"].update(name="tuned"),
    "an unknown kind of guidance": lambda c: c["segments"][0]["guidance"].update(kind="some"),
    "unknown branches": lambda c: c["executed"][0].update(branches="negative"),
    "a runtime that prints badly": lambda c: c["executed"][0].update(runtime={"device": "\x1b"}),
    "thousands of adapters": lambda c: c.update(
        adapters=[{"member": "small", "digest": "d", "weight": 1.0}] * 5000
    ),
    "a safety check by nobody": lambda c: c.update(safety={"flagged": False}),
    "an unknown codec": lambda c: c.update(codec="fp8"),
    "huge guidance": lambda c: c["segments"][0]["guidance"].update(scale=1e9),
    "no size": lambda c: c["size"].update(width=0),
    "a huge size": lambda c: c["size"].update(height=2**40),
    "no steps": lambda c: c.update(executed=[]),
    "more steps than ran": lambda c: _of_steps(c, 7),
    "far more steps than ran": lambda c: _of_steps(c, 10**15),
    "a step too few": lambda c: c["executed"].pop(),
    "too many steps": lambda c: c.update(executed=c["executed"] * 50),
    "steps out of order": lambda c: c["executed"].reverse(),
    "an unknown place": lambda c: c["executed"][0].update(location="moon"),
    "a nameless member": lambda c: c["executed"][0].update(member=""),
    "a member with a long name": lambda c: c["executed"][0].update(member="x" * 65),
    "a node that prints badly": lambda c: c["executed"][0].update(node_id="\x1b[2J"),
    "a node with a long name": lambda c: c["executed"][0].update(node_id="x" * 10_000),
    "an edge called device": lambda c: c["executed"][0].update(node_id="device"),
    "a device called otherwise": lambda c: c["executed"][5].update(node_id="e"),
    "no nodes": lambda c: c.update(nodes={}),
    "no edge": lambda c: c["nodes"].pop("e"),
    "no device": lambda c: c["nodes"].pop("device"),
    "a node that ran nothing": lambda c: c["nodes"].update(other=c["nodes"]["e"]),
    "thousands of nodes": lambda c: c.update(
        nodes={str(number): c["nodes"]["e"] for number in range(5000)}
    ),
    "a node without a build": lambda c: c["nodes"]["e"].pop("build"),
    "a node without members": lambda c: c["nodes"]["e"].pop("members"),
    "a node with more": lambda c: c["nodes"]["e"].update(more=1),
    "a build that prints badly": lambda c: c["nodes"]["e"]["build"].update(torch="\x1b[2J"),
    "a build that goes on": lambda c: c["nodes"]["e"]["build"].update(torch="x" * 257),
    "a build without a field": lambda c: c["nodes"]["device"]["build"].pop("torch"),
    "a build with a field too many": lambda c: c["nodes"]["device"]["build"].update(more="1"),
    "a number in a build": lambda c: c["nodes"]["e"]["build"].update(torch=2),
    "thousands of members": lambda c: c["nodes"]["e"].update(
        members=dict.fromkeys(map(str, range(5000)), "a" * 32) | {"large": "a" * 32}
    ),
    "a member that prints badly": lambda c: c["nodes"]["e"]["members"].update({"\n": "a" * 32}),
    "weights that are no fingerprint": lambda c: c["nodes"]["e"]["members"].update(large="large"),
    "no threads": lambda c: c["executed"][0].update(threads=0),
    "thousands of threads": lambda c: c["executed"][0].update(threads=10_000),
    "no rows": lambda c: c["executed"][0].update(rows=0),
    "one row for both branches": lambda c: c["executed"][0].update(rows=1),
    "millions of rows": lambda c: c["executed"][0].update(rows=10**7),
    "a row before the first": lambda c: c["executed"][0].update(row=-1),
    "a row behind the last": lambda c: c["executed"][0].update(row=7),
    "a transfer before the first step": lambda c: c.update(transfers=[0]),
    "a transfer behind the last step": lambda c: c.update(transfers=[7]),
    "transfers out of order": lambda c: c.update(transfers=[3, 2]),
    "a transfer twice": lambda c: c.update(transfers=[3, 3]),
    "thousands of transfers": lambda c: c.update(transfers=[3] * 10_000),
    "a fingerprint that is none": lambda c: c.update(fingerprint="../../etc/passwd"),
    "no fingerprint of what ran here": lambda c: c["nodes"]["device"].update(members={}),
    "no fingerprint of what ran there": lambda c: c["nodes"]["e"]["members"].pop("large"),
    "steps that alternate": lambda c: (
        _of_steps(c, 40),
        c.update(
            executed=[
                {**c["executed"][i % 2 * 3], "step": i, "row": 0, "rows": 2} for i in range(40)
            ]
        ),
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_plan_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    chunk = json.loads(MADE.chunk())
    DAMAGED[damage](chunk)
    refusal(written(tmp_path / "a.png", json.dumps(chunk)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "[" * 100_000,
        '{"version": NaN}',
        MADE.chunk()[:-20],
        " " * 600_000,
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    refusal(written(tmp_path / "a.png", text))


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.update(more=1),
        lambda c: c.pop("sampler"),
        lambda c: c.update(sampler="heun"),
        lambda c: c.update(steps=7),
        lambda c: c.update(steps=0),
        lambda c: c.update(size=0),
        lambda c: c.update(guidance_scale=1e9),
        lambda c: c["executed"][0].update(guided="yes"),
        lambda c: c["executed"][0].update(branches="both"),
        lambda c: c["executed"][0].update(blocks=-1),
        lambda c: c["executed"][0].update(neighbours=[[-8, -1]]),
    ],
)
def test_a_damaged_plan_of_version_3_is_refused_in_one_line(tmp_path: Path, damage: Change) -> None:
    chunk = third(MADE)
    damage(chunk)
    refusal(written(tmp_path / "a.png", json.dumps(chunk)))


def test_what_is_no_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    IMAGE.save(tmp_path / "jpeg.png", format="JPEG")
    for name in ("text", "empty", "jpeg"):
        assert "not a PNG" in refusal(tmp_path / f"{name}.png")
    assert "No such file" in refusal(tmp_path / "missing.png")
    assert "directory" in refusal(tmp_path)


def test_a_png_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = save_png(IMAGE, tmp_path / "a.png", MADE).read_bytes()
    end = whole.index(b"IDAT") + 40  # behind it nothing but the end of the pixels is lost
    for length in range(0, end, 29):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        refusal(tmp_path / "cut.png")


def test_a_flipped_bit_in_the_plan_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(save_png(IMAGE, tmp_path / "a.png", MADE).read_bytes())
    whole[whole.index(b'"seed"') + 9] ^= 1
    (tmp_path / "flipped.png").write_bytes(whole)
    refusal(tmp_path / "flipped.png")


@pytest.mark.parametrize("size", [(24, 24), (32, 16), (8, 8), (16, 32)])
def test_a_picture_that_was_resized_or_cropped_is_refused(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    assert "resized" in refusal(written(tmp_path / "a.png", MADE.chunk(), IMAGE.resize(size)))


def test_bombs_are_not_unpacked(tmp_path: Path) -> None:
    """A header that promises a huge picture, and a text that would swell to one."""
    path = save_png(IMAGE, tmp_path / "huge.png", MADE)
    for side in (9_600, 60_000):
        data = bytearray(path.read_bytes())
        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        (tmp_path / f"{side}.png").write_bytes(data)
        refusal(tmp_path / f"{side}.png")
    info = PngInfo()
    info.add_text("baton", " " * 2**27, zip=True)
    IMAGE.save(tmp_path / "text.png", pnginfo=info)
    refusal(tmp_path / "text.png")


@pytest.mark.parametrize("size", [Size(8, 2_048), Size(2_048, 8)])
def test_neither_side_is_longer_than_a_picture_may_be(tmp_path: Path, size: Size) -> None:
    """Though both are enlarged alike."""
    made = replace(MADE, task=replace(TASK, size=size))
    image = Image.new("RGB", (size.width * 5, size.height * 5))
    assert "pixels" in refusal(written(tmp_path / "long.png", made.chunk(), image))
