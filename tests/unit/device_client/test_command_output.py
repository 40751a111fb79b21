"""What ``baton generate`` and ``baton demo`` print and paint, without drawing anything."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baton.common.arm import Arm
from baton.common.decision import Decision
from baton.common.errors import InvalidRequest
from baton.common.quality.verifier import Quality
from baton.common.record import ExecutedStep
from baton.common.request import GenerationRequest
from baton.device_client.cli.contact_sheet import contact_sheet
from baton.device_client.cli.generating import (
    MAX_PICTURES,
    Display,
    Request,
    describe,
    generate,
    pick_seed,
    summary,
    verdict,
)
from baton.device_client.events import Decided, EdgeLost, Event, Stepped
from baton.device_client.png import read_png
from baton.device_client.provenance import Provenance
from baton.device_client.result import Result, Seconds, Traffic
from baton.device_client.settings import DeviceSettings
from tests.support.tasks import plan, task

EXECUTED = (
    ExecutedStep(0, "large", "edge", "e1", "both", 2, 1),
    ExecutedStep(1, "small", "device", "device", "both", 2, 1),
    ExecutedStep(2, "small", "device", "device", "both", 2, 1),
)


@pytest.fixture
def result() -> Result:
    made = task(seed=4)
    return Result(
        request_id="r1",
        picture=np.zeros((16, 16, 3), np.uint8),
        task=made,
        arm="edge/large@0.4>device/small",
        planned=plan("edge/large@0.4>device/small", 3),
        decision_id="d1",
        executed=EXECUTED,
        seconds=Seconds(1.5, edge=1.0, device=0.5),
        traffic=Traffic(100, 2000),
        provenance=Provenance(made, EXECUTED, "f", "fp16", (), {}),
        quality=Quality(0.5, False, {"red": True, "cat": False}),
        notes=("edge a:1 lost at step 1: gone",),
    )


def test_the_summary_says_where_and_how_and_what_went_wrong(result: Result) -> None:
    first, note = summary(result, Path("a.png")).splitlines()
    assert first == (
        "a.png  edge/large@0.4>device/small  1 edge + 2 device steps"
        "  1.50 s (1.00 at the edge)  2100 bytes  seed 4  not verified ✗ (cat)  request r1"
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


def begun(picture: str, steps: int) -> Decided:
    decision = Decision("d1", Arm.parse("device/small"), ())
    return Decided(decision, plan("device/small", steps), request_id=picture)


def at(picture: str, step: int, steps: int) -> Stepped:
    return Stepped(step, steps, "device", "small", request_id=picture)


def test_the_bar_shows_the_newest_step_however_many_ran_in_one_call() -> None:
    with Display(quiet=True) as display:
        display.on_event(begun("a", 50))
        for step in (1, 2, 3, 5, 10, 15, 25, 35, 50):
            display.on_event(at("a", step, 50))
            assert (display.done, display.planned) == (step, 50)


def test_the_bar_goes_back_with_a_lost_edge_and_never_past_its_end() -> None:
    events: list[Event] = [at("a", step, 60) for step in range(1, 38)]
    events += [EdgeLost("a:1", "gone", 35, request_id="a")]
    events += [at("a", step, 60) for step in range(36, 61)]
    with Display(quiet=True) as display:
        display.on_event(begun("a", 60))
        for event in events:
            display.on_event(event)
            assert display.done <= display.planned
    assert (display.done, display.planned) == (60, 60)


def test_the_bar_adds_up_the_pictures() -> None:
    with Display(quiet=True) as display:
        for picture in "abc":
            display.on_event(begun(picture, 20))
        for event in (at("a", 20, 20), at("b", 7, 20), at("c", 3, 20), at("b", 5, 20)):
            display.on_event(event)
    assert (display.done, display.planned) == (28, 60)


@pytest.mark.parametrize("word", ["[/]", "[/x]", "[red]gone", "[::1]:7701 [bold"])
def test_what_a_node_says_is_text_not_markup(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    decision = Decision("d1", Arm.parse("device/small"), (), word)
    with Display(quiet=False) as display:
        display.on_event(Decided(decision, plan("device/small", 3)))
        display.on_event(EdgeLost("a:1", word, 2))
        display.on_event(Stepped(1, 3, "edge", word))
    assert terminal.getvalue().count(word) >= 3


def request(seed: int, out: Path, count: int = 1, **options: object) -> Request:
    asked = {"prompt": "a red cat", "arm": "device", "steps": 1, "seed": seed}
    return Request(GenerationRequest(**(asked | options)), count, out, metadata=True)


@pytest.fixture
def settings(family_folder: Path) -> DeviceSettings:
    return DeviceSettings(family=str(family_folder), members="small")


def drawn(
    settings: DeviceSettings, of: Request, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, object]]:
    generate(settings, of, as_json=True)
    return list(json.loads(capsys.readouterr().out))


def test_names_that_baton_chooses_take_nobodys_place(
    settings: DeviceSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole.png"
    prompts = ["a red cat", "two blue cars", "a green tree"]
    for prompt in prompts:
        drawn(settings, request(7, out, prompt=prompt), capsys)
    names = ["baton-7.png", "baton-7-2.png", "baton-7-3.png"]
    for name, prompt in zip(names, prompts, strict=True):
        assert read_png(out / name).provenance.task.prompt == prompt
    (tmp_path / "whole-2.png").write_text("a diary")
    told = drawn(settings, request(3, whole, count=2), capsys)
    assert [one["path"] for one in told] == [
        str(tmp_path / name) for name in ("whole-1.png", "whole-2-2.png")
    ]
    assert (tmp_path / "whole-2.png").read_text() == "a diary"
    for prompt in prompts:  # the user has chosen this one
        drawn(settings, request(3, whole, prompt=prompt), capsys)
    assert read_png(whole).provenance.task.prompt == prompts[-1]
    assert {path.name for path in tmp_path.iterdir()} >= {"out", "whole.png", "whole-1.png"}


def test_a_folder_may_be_called_anything_once_it_is_there(
    settings: DeviceSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pic.jpg", "pic.png"):
        (tmp_path / name).mkdir()
        (told,) = drawn(settings, request(1, tmp_path / name), capsys)
        assert told["path"] == str(tmp_path / name / "baton-1.png")
    with pytest.raises(InvalidRequest, match=r"other\.jpg"):
        generate(settings, request(1, tmp_path / "other.jpg"), as_json=True)
    assert not (tmp_path / "other.jpg").exists()


def test_a_home_folder_in_a_place_is_the_users(
    settings: DeviceSettings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for out in ("~/a.png", "~/folder"):
        (told,) = drawn(settings, request(1, Path(out)), capsys)
        assert Path(str(told["path"])).is_relative_to(tmp_path)
        assert Path(str(told["path"])).exists()


def test_pictures_that_are_done_are_kept_and_listed_after_an_interrupt(
    settings: DeviceSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, main = tmp_path / "baton-0.png", threading.main_thread().ident
    assert main is not None
    over = threading.Event()

    def interrupt() -> None:
        while not over.is_set():
            if first.exists() and first.stat().st_size:
                signal.pthread_kill(main, signal.SIGINT)
                return
            over.wait(0.001)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            generate(settings, request(0, tmp_path, count=20, steps=30), as_json=False)
    finally:
        over.set()
        watcher.join()
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith(f"{first}  device/small  30 device steps")
    assert 1 <= len(lines) < 20
    assert f"{len(lines)} of 20 pictures are done" in told.err
    assert len(list(tmp_path.glob("*.png"))) == len(lines)
    assert read_png(first).provenance.task.seed == 0
