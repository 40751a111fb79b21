from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baton.common.build import NodeBuild, this_build
from baton.common.errors import InvalidRequest
from baton.common.record import ExecutedStep
from baton.common.request import Task
from baton.common.rpc import PROTOCOL_VERSION
from baton.device_client.provenance import CHUNK_VERSION, Provenance
from baton.device_client.result import Result, Seconds, Traffic
from tests.support.tasks import plan, task

PROMPT = "a red cat"
NODES = {
    "e1": NodeBuild(this_build(), {"large": "d" * 32}),
    "device": NodeBuild(this_build(), {"small": "e" * 32}),
}


NODE_IDS = {"edge": "e1", "device": "device"}


def result(of: Task, scale: int = 1) -> Result:
    """A picture of noise that says that it was relayed."""
    places = [of.plan.segment_at(step) for step in range(of.plan.steps)]
    executed = tuple(
        ExecutedStep(
            step,
            place.member,
            place.location,
            NODE_IDS[place.location],
            branches="both",
            rows=2,
            threads=1,
        )
        for step, place in enumerate(places)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Result(
        request_id="r1",
        picture=pixels,
        task=of,
        arm="edge/large@0.5>device/small",
        planned=of.plan,
        decision_id="d1",
        executed=executed,
        seconds=Seconds(),
        traffic=Traffic(),
        provenance=Provenance(of, executed, "f" * 32, "fp16", (3,), NODES),
        save_scale=scale,
    )


def texts(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        image.load()
        return dict(image.text)


def test_other_tools_find_the_parameters_where_they_look_for_them(tmp_path: Path) -> None:
    made = task(plan("edge/large@0.5>device/small", 6, "dpmpp_2m", 3.5), PROMPT, "a dog", seed=7)
    path = result(made).save(tmp_path / "a.png")
    assert texts(path)["parameters"] == (
        "a red cat\n"
        "Negative prompt: a dog\n"
        "Steps: 6, Sampler: DPM++ 2M, CFG scale: 3.5, Seed: 7, Size: 16x16,"
        " Model: tiny/large>small"
    )


def test_without_a_negative_prompt_there_is_no_line_for_it(tmp_path: Path) -> None:
    lines = texts(result(task()).save(tmp_path / "a.png"))["parameters"].splitlines()
    assert len(lines) == 2


def test_the_chunk_holds_what_really_ran(tmp_path: Path) -> None:
    made = result(task(seed=2**63 - 1))
    chunk = json.loads(texts(made.save(tmp_path / "a.png"))["baton"])
    assert [ExecutedStep(**step) for step in chunk.pop("executed")] == list(made.executed)
    grid = {"sampler": "ddim", "start": 0, "stop": 6, "until": None, "name": "", "digest": ""}
    guidance = {"scale": 3.0, "kind": "two_branches"}
    assert chunk == {
        "version": CHUNK_VERSION,
        "protocol": PROTOCOL_VERSION,
        "family": "tiny",
        "fingerprint": "f" * 32,
        "nodes": {
            "e1": {"build": asdict(this_build()), "members": {"large": "d" * 32}},
            "device": {"build": asdict(this_build()), "members": {"small": "e" * 32}},
        },
        "prompt": PROMPT,
        "negative_prompt": "",
        "seed": 2**63 - 1,
        "size": {"width": 16, "height": 16},
        "segments": [
            {"start": start, "stop": start + 3, "grid": grid, "guidance": guidance}
            for start in (0, 3)
        ],
        "codec": "fp16",
        "transfers": [3],
        "adapters": [],
        "safety": None,
    }


@pytest.mark.parametrize(
    "prompt", ['a "red" cat', "猫と家 🐈", "two\nlines", "a\tb\\n", "nul \0 byte", "x" * 4000]
)
def test_any_prompt_comes_back_as_it_was(tmp_path: Path, prompt: str) -> None:
    found = texts(result(task(prompt=prompt, negative=prompt)).save(tmp_path / "a.png"))
    chunk = json.loads(found["baton"])
    assert chunk["prompt"] == chunk["negative_prompt"] == prompt
    assert found["parameters"].startswith(prompt)


def test_without_metadata_the_file_says_nothing(tmp_path: Path) -> None:
    path = result(task()).save(tmp_path / "a.png", metadata=False)
    assert texts(path) == {}
    assert PROMPT.encode() not in path.read_bytes()
    with Image.open(path) as image:
        assert image.info == {}


@pytest.mark.parametrize("scale", [1, 8])
def test_the_picture_is_enlarged_without_smoothing(tmp_path: Path, scale: int) -> None:
    made = result(task(), scale)
    with Image.open(made.save(tmp_path / "a.png")) as image:
        saved = np.asarray(image)
    expected = made.picture.repeat(scale, axis=0).repeat(scale, axis=1)
    np.testing.assert_array_equal(saved, expected)


def test_missing_folders_are_made_and_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.png"
    assert result(task(seed=1)).save(str(path)) == path
    result(task(seed=2)).save(path)
    assert json.loads(texts(path)["baton"])["seed"] == 2


def test_what_cannot_be_written_is_named_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    places = [tmp_path / "file" / "a.png", tmp_path / "folder.png", tmp_path / ("x" * 300)]
    if Path("/dev/full").exists():
        places.append(Path("/dev/full"))
    for place in places:
        with pytest.raises(InvalidRequest, match="cannot write") as caught:
            result(task()).save(place)
        assert str(place) in str(caught.value)


def test_steps_are_counted_by_place() -> None:
    made = result(task(plan("edge/large@0.5>device/small", 6)))
    assert (made.steps_at("edge"), made.steps_at("device")) == (3, 3)
    assert asdict(made.executed[3])["location"] == "device"
