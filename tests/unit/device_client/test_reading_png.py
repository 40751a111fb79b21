"""Pictures read back with the plan in them, and files that only look like it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from baton.common.build import Build, NodeBuild
from baton.common.errors import BatonError, Incompatible, InvalidRequest
from baton.common.record import ExecutedStep
from baton.common.size import Size
from baton.device_client.png import read_png, save_png
from baton.device_client.provenance import CHUNK_VERSION, Provenance
from tests.support.tasks import plan, task

BUILD = Build("0.1.0", "2.13.0+cpu", "0.42.1", "5.0", "2.4", "x86_64 AVX512 A Processor")
TASK = task(
    plan("edge/large@0.5>device/small", 6, "dpmpp_2m", 3.5), "猫 \0 and\n\ta 'dog'", "x", 2**63 - 1
)
EXECUTED = tuple(
    ExecutedStep(step, *place, "both", 8, 2, step)
    for step, place in enumerate([("large", "edge", "e")] * 3 + [("small", "device", "device")] * 3)
)
NODES = {
    "e": NodeBuild(replace(BUILD, torch="2.12.0"), {"large": "d" * 32, "small": "c" * 32}),
    "device": NodeBuild(BUILD, {"small": "e" * 32}),
}
MADE = Provenance(TASK, EXECUTED, "f" * 32, "int8", (2, 3), NODES)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def written(path: Path, chunk: str, image: Image.Image = IMAGE) -> Path:
    info = PngInfo()
    info.add_itxt("baton", chunk)
    image.save(path, pnginfo=info)
    return path


def refusal(path: Path, kind: type[BatonError] = InvalidRequest) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(kind) as caught:
        read_png(path)
    text = str(caught.value)
    assert str(path) in text
    assert text.isprintable()
    assert len(text) < len(str(path)) + 300
    assert TASK.prompt not in text
    return text


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and whole of every chunk of a PNG."""
    found, place = [], 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        whole = data[place : place + length + 12]
        found.append((whole[4:8], whole))
        place += length + 12
    return found


def moved_behind(path: Path) -> Path:
    """The same PNG with its texts between its pixels and its end."""
    data = path.read_bytes()
    chunks = chunks_of(data)
    texts = [whole for kind, whole in chunks if kind in (b"tEXt", b"zTXt", b"iTXt")]
    others = [whole for kind, whole in chunks if kind not in (b"tEXt", b"zTXt", b"iTXt")]
    assert texts
    path.write_bytes(data[:8] + b"".join([*others[:-1], *texts, others[-1]]))
    return path


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


#: A key step among others' rows, two decoded ahead with it, and a step that one call ran alone.
_ALONE = (
    *(
        replace(
            EXECUTED[0], step=i, rows=9, row=1 + 2 * i, blocks=bits, neighbours=((1, None), (8, 6))
        )
        for i, bits in enumerate((2**70 - 1, 6, 6))
    ),
    replace(EXECUTED[3], blocks=0, prior_noise=0.003),
    *EXECUTED[4:],
)
ACCELERATED = (replace(_ALONE[0], ahead=2), *_ALONE[1:])
REUSING = replace(MADE, executed=ACCELERATED, transfers=(3,))


def test_what_ran_with_blocks_is_read_back(tmp_path: Path) -> None:
    read = read_png(save_png(IMAGE, tmp_path / "a.png", REUSING)).provenance
    assert read.executed == ACCELERATED
    for step in ACCELERATED:
        assert read.task.plan.directive_at(step.step) == step.directive


def test_steps_that_ran_as_usual_say_nothing_of_blocks() -> None:
    first, *_, last = json.loads(REUSING.chunk())["executed"]
    assert {"blocks", "ahead", "neighbours"} <= first.keys()
    assert not {"blocks", "ahead", "neighbours", "prior_noise"} & last.keys()


Change = Callable[[dict[str, Any]], object]
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


def fourth(made: Provenance) -> dict[str, Any]:
    """What version 4 of the chunk holds of such a picture."""
    return json.loads(made.chunk()) | {"version": 4}


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


def third(made: Provenance) -> dict[str, Any]:
    """What version 3 of the chunk holds of such a picture."""
    chunk, plan = json.loads(made.chunk()), made.task.plan
    for name in ("segments", "adapters", "safety"):
        del chunk[name]
    for step in chunk["executed"]:
        step["guided"] = step.pop("branches") == "both"
        pairs = step.pop("neighbours", [])
        if pairs:
            step["neighbours"] = [[rows, -1 if bits is None else bits] for rows, bits in pairs]
    return chunk | {
        "version": 3,
        "protocol": 1,
        "size": made.task.size.width,
        "sampler": plan.samplers[0],
        "steps": plan.steps,
        "guidance_scale": plan.segments[0].guidance.scale,
    }


@pytest.mark.parametrize("made", [MADE, REUSING], ids=["plain", "accelerated"])
def test_a_picture_of_version_3_is_read_as_it_ran(tmp_path: Path, made: Provenance) -> None:
    read = read_png(written(tmp_path / "a.png", json.dumps(third(made)))).provenance
    again = read_png(save_png(IMAGE, tmp_path / "b.png", made)).provenance
    assert read == again


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


def test_a_picture_without_a_plan_says_so(tmp_path: Path) -> None:
    assert "no plan" in refusal(save_png(IMAGE, tmp_path / "a.png", None))


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


def test_another_mode_of_the_same_pixels_is_read_alike(tmp_path: Path) -> None:
    """As optimisers rewrite a file."""
    flat = Image.new("RGB", (16, 16), (10, 20, 30))
    for image in (flat.quantize(2), flat.convert("RGBA")):
        saved = read_png(written(tmp_path / f"{image.mode}.png", MADE.chunk(), image))
        np.testing.assert_array_equal(saved.pixels, np.asarray(flat))
