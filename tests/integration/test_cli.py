"""``baton`` as its users run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baton.common.families.loaded import LoadedFamily
from tests.support.commands import Told, run_many
from tests.support.families import copy_family, flip_bit
from tests.support.nodes import closed_port, differ, drawn_here
from tests.support.served import Process
from tests.support.tasks import PROMPTS, plan, task

VAE = "shared/vae/diffusion_pytorch_model.safetensors"


_DRAW = ["generate", "a red cat", "--steps", "1", "--arm", "device"]
_EDGE = ["generate", "a red cat", "--steps", "1", "--arm", "edge"]
COUNTED = "edge/large*2@s2.2>device/small*1>edge/large*2"

#: What ``baton`` refuses: the command line, the exit code, and a word of the reason.
WRONG: dict[str, tuple[list[str], int, str]] = {
    "no request yet": (["explain", "last"], 2, "no request is known"),
    "an empty prompt": (["generate", ""], 2, "prompt"),
    "a blank prompt": (["generate", " "], 2, "prompt"),
    "a prompt that is no text": (["generate", "a \udcff cat", *_DRAW[2:]], 2, "prompt"),
    "a prompt that is too long": (["generate", "x" * 4001], 2, "4000"),
    "no prompt": (["generate"], 2, "prompt"),
    "no steps": (["generate", "x", "--steps", "0"], 2, "steps"),
    "too many steps": (["generate", "x", "--steps", "201"], 2, "200"),
    "steps that are no number": (["generate", "x", "--steps", "many"], 2, "--steps"),
    "a size that is too small": ([*_DRAW, "--size", "7"], 2, "size"),
    "an unknown arm": (["generate", "x", "--arm", "nonsense"], 2, "nonsense"),
    "an impossible fraction": (["generate", "x", "--arm", "relay@2"], 2, "fraction"),
    "an unknown preference": (["generate", "x", "--prefer", "foo"], 2, "foo"),
    "no pictures": (["generate", "x", "--n", "0"], 2, "--n"),
    "too many pictures": (["generate", "x", "--n", "65"], 2, "64"),
    "a negative seed": (["generate", "x", "--seed", "-1"], 2, "seed"),
    "guidance that is no number": (["generate", "x", "--guidance", "nan"], 2, "guidance"),
    "an unknown sampler": (["generate", "x", "--sampler", "magic"], 2, "magic"),
    "an unknown option": (["generate", "x", "--colour", "red"], 2, "--colour"),
    "an unknown command": (["paint"], 2, "paint"),
    "an unknown family": ([*_DRAW, "--family", "nonsense"], 2, "nonsense"),
    "an unknown member": ([*_DRAW, "--members", "giant"], 2, "giant"),
    "an edge that is no address": ([*_EDGE, "--edge", "nowhere"], 2, "HOST:PORT"),
    "a coordinator that is no address": ([*_DRAW, "--coordinator", "nowhere"], 2, "HOST:PORT"),
    "no edge for the edge arm": (_EDGE, 4, "--edge"),
    "no member for the device arm": ([*_DRAW, "--members", ""], 4, "member"),
    "a member that is not held": ([*_DRAW[:-1], "device/large"], 5, "large"),
    "a file that cannot be written": ([*_DRAW, "--out", "/dev/null/a.png"], 2, "/dev/null/a.png"),
    "a family without its weights": ([*_DRAW, "--family", "broken"], 5, "damaged"),
}


@pytest.fixture(scope="module")
def baton(
    environment: dict[str, str], folder: Path, family_folder: Path, served: Process
) -> dict[str, Told]:
    nobody = closed_port()
    flip_bit(copy_family(family_folder, folder / "broken") / VAE)
    here = ["--edge", served.address, "--json", "--out", "out"]
    lines = {name: line for name, (line, _, _) in WRONG.items()} | {
        "nobody": [*_EDGE, "--members", "", "--edge", nobody],
        "nobody, but a member": [*_EDGE, "--edge", nobody, "--json", "--fallback"],
        "nobody, and an arm": [*_EDGE, "--edge", nobody, "--json"],
        "nobody, and no fallback": ["generate", "x", "--edge", nobody, "--no-fallback"],
        "device": [*_DRAW, "--steps", "2", "--n", "2", "--seed", "7", "--json", "--out", "dev"],
        "told": [*_DRAW, "--seed", "7", "--out", "told.png", "--no-metadata"],
        "relay": ["generate", PROMPTS[1], "--arm", "relay@0.5", "--steps", "4", *here],
        "edge": ["generate", PROMPTS[0], "--arm", "edge", "--steps", "3", "--seed", "3", *here],
        "explained": ["explain", "last", "--json"],
        "another request": ["explain", "zz"],
        "counted": ["generate", PROMPTS[2], "--arm", COUNTED, "--seed", "4", *here],
        "counted, explained": ["explain", "last", "--json"],
        "counted, again": ["replay", "out/baton-4.png"],
        "config": ["config", "show", "--json"],
        "doctor": ["doctor", "--json", "--edge", served.address],
        "doctor, nobody": ["doctor", "--json", "--edge", nobody],
        "help": ["generate", "--help"],
    }
    return run_many("baton.device_client.cli.main", lines, environment, folder)


@pytest.mark.parametrize("what", WRONG)
def test_baton_refuses_in_one_line_with_an_exit_code(what: str, baton: dict[str, Told]) -> None:
    _, code, word = WRONG[what]
    assert word in baton[what].refused(code)


def test_nobody_at_the_edge_is_not_reachable(baton: dict[str, Told]) -> None:
    assert "no answer from 127.0.0.1:" in baton["nobody"].refused(3)


def test_a_member_stands_in_for_an_edge_that_is_not_there(baton: dict[str, Told]) -> None:
    (told,) = baton["nobody, but a member"].json()
    assert told["steps"] == {"edge": 0, "device": 1}
    assert (told["arm"], told["arm_executed"]) == ("edge/large", "device/small")
    assert len(told["notes"]) == 2


def test_no_member_stands_in_for_an_edge_where_that_is_not_wanted(baton: dict[str, Told]) -> None:
    for asked in ("nobody, and an arm", "nobody, and no fallback"):
        assert "--fallback" in baton[asked].refused(3)


def test_pictures_for_programs_are_json_and_files(
    baton: dict[str, Told], folder: Path, family: LoadedFamily
) -> None:
    for number, told in enumerate(baton["device"].json()):
        assert told["path"] == f"dev/baton-{7 + number}.png"
        assert (told["arm"], told["seed"]) == ("device/small", 7 + number)
        assert told["steps"] == {"edge": 0, "device": 2}
        assert told["seconds"]["total"] > 0
        expected = drawn_here(family, task(plan("device/small", 2), "a red cat", seed=7 + number))
        with Image.open(folder / told["path"]) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)
            assert image.text["parameters"].startswith("a red cat\nSteps: 2, ")


def test_a_picture_for_people_is_one_line(baton: dict[str, Told], folder: Path) -> None:
    told = baton["told"]
    assert told.code == 0
    assert told.out.startswith("told.png  device/small  1 device steps  ")
    assert told.out.count("\n") == 1
    with Image.open(folder / "told.png") as image:
        assert image.info == {}


def test_a_relay_and_an_edge_picture_come_from_another_process(
    baton: dict[str, Told], folder: Path, family: LoadedFamily
) -> None:
    (relayed,) = baton["relay"].json()
    assert relayed["steps"] == {"edge": 2, "device": 2}
    assert relayed["bytes"]["received"] > relayed["bytes"]["sent"] > 0
    assert relayed["notes"] == []
    (drawn,) = baton["edge"].json()
    expected = drawn_here(family, task(plan("edge/large", 3), PROMPTS[0], seed=3))
    with Image.open(folder / drawn["path"]) as image:
        assert differ(np.asarray(image), expected) <= 1


def test_a_request_is_explained_afterwards(baton: dict[str, Told], served: Process) -> None:
    told = baton["explained"].json()
    (drawn,) = baton["edge"].json()
    assert (told["request_id"], told["ending"]) == (drawn["request_id"], "picture")
    assert [attempt["address"] for attempt in told["attempts"]] == [served.address]
    assert told["coordinator"] is None
    assert drawn["request_id"] in baton["another request"].refused(2)


def test_an_arm_of_many_stretches_is_drawn_explained_and_replayed(baton: dict[str, Told]) -> None:
    (drawn,), told = baton["counted"].json(), baton["counted, explained"].json()
    assert drawn["arm"] == drawn["arm_executed"] == told["decision"]["arm"] == COUNTED
    assert (drawn["notes"], drawn["request_id"]) == ([], told["request_id"])
    parts = [(part["location"], part["stop"]) for part in told["executed"]]
    assert parts == [("edge", 2), ("device", 3), ("edge", 5)]
    assert baton["counted, again"].out.startswith("out/baton-4.png: identical (5 steps, large>")


def test_settings_are_shown_with_their_origin(baton: dict[str, Told], family_folder: Path) -> None:
    rows = {row["setting"]: row for row in baton["config"].json()}
    assert rows["family"]["value"] == str(family_folder)
    assert rows["family"]["origin"] == "environment"
    assert rows["codec"] == {"setting": "codec", "value": "fp16", "origin": "default"}


def test_the_doctor_finds_an_edge_that_fits(baton: dict[str, Told]) -> None:
    findings = {row["check"]: row for row in baton["doctor"].json()}
    assert all(row["ok"] is not False for row in findings.values())
    assert "0 running, 0 waiting" in findings["edge"]["detail"]
    assert "tiny: small" in findings["weights"]["detail"]


def test_the_doctor_finds_nobody(baton: dict[str, Told]) -> None:
    told = baton["doctor, nobody"]
    assert (told.code, told.err) == (3, "")
    findings = {row["check"]: row for row in json.loads(told.out)}
    assert findings["edge"]["ok"] is False
    assert "no answer" in findings["edge"]["detail"]


def test_help_names_every_option(baton: dict[str, Told]) -> None:
    told = baton["help"]
    assert told.code == 0
    for option in ("--arm", "--edge", "--coordinator", "--seed", "--json", "--metadata"):
        assert option in told.out
