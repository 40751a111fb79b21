"""What ``baton generate`` and ``baton demo`` print and paint, without drawing anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InvalidRequest
from common.plan import ExecutedStep
from common.quality.verifier import Quality
from device_client.cli.contact_sheet import contact_sheet
from device_client.cli.generating import MAX_PICTURES, describe, pick_seed, summary, verdict
from device_client.png import Provenance
from device_client.result import Result, Seconds, Traffic
from tests.support.tasks import task

EXECUTED = (
    ExecutedStep(0, "large", "edge", "e1", True, 2, 1),
    ExecutedStep(1, "small", "device", "device", True, 2, 1),
    ExecutedStep(2, "small", "device", "device", True, 2, 1),
)


@pytest.fixture
def result() -> Result:
    made = task(seed=4)
    return Result(
        request_id="r1",
        picture=np.zeros((16, 16, 3), np.uint8),
        task=made,
        arm="relay:large>small@0.4",
        decision_id="d1",
        executed=EXECUTED,
        seconds=Seconds(1.5, 1.0, 0.5),
        traffic=Traffic(100, 2000),
        provenance=Provenance(made, EXECUTED, "f", "fp16", (), {}),
        quality=Quality(0.5, False, {"red": True, "cat": False}),
        notes=("edge a:1 lost at step 1: gone",),
    )


def test_the_summary_says_where_and_how_and_what_went_wrong(result: Result) -> None:
    first, note = summary(result, Path("a.png")).splitlines()
    assert first == (
        "a.png  relay:large>small@0.4  1 edge + 2 device steps  1.50 s  2100 bytes  seed 4"
        "  not verified ✗ (cat)  request r1"
    )
    assert note == "  note: edge a:1 lost at step 1: gone"


def test_a_verdict_is_never_better_than_the_score(result: Result) -> None:
    held = replace(result, quality=Quality(1.0, True, {"red": True}))
    assert verdict(held) == "verified ✓"
    assert verdict(replace(result, quality=None)) == "not verifiable"


def test_the_description_for_programs_is_json(result: Result) -> None:
    told = json.loads(json.dumps(describe(result, Path("a.png")), allow_nan=False))
    assert told["steps"] == {"edge": 1, "device": 2}
    assert told["bytes"] == {"sent": 100, "received": 2000}
    assert told["facts"] == {"red": True, "cat": False}
    assert told["verified"] is False
    unknown = describe(replace(result, quality=None), Path("a.png"))
    assert (unknown["verified"], unknown["facts"]) == (None, None)


def test_a_seed_is_kept_or_drawn() -> None:
    assert pick_seed(7) == 7
    drawn = {pick_seed(None) for _ in range(5)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**31 for seed in drawn)
    for bad in (-1, 2**63 - MAX_PICTURES, 2**70):
        with pytest.raises(InvalidRequest):
            pick_seed(bad)


def test_a_contact_sheet_shows_every_picture_in_its_place() -> None:
    colors = ["red", "lime", "blue", "yellow", "cyan", "magenta"]
    images = [Image.new("RGB", (64, 64), color) for color in colors]
    sheet = contact_sheet(["a red cat", "x" * 500], ["device", "relay@0.4", "edge"], images)
    found = sheet.getcolors(maxcolors=1 << 20)
    assert found is not None
    counts = {color: count for count, color in found}
    for image in images:
        pixel = image.getpixel((0, 0))
        assert counts[pixel] == 64 * 64
