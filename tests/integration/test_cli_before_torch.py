"""What the command lines refuse without a model library: wrong arguments, places and ports."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from baton.device_client.png import save_png
from tests.support.commands import Told, clean_environment, run_many
from tests.support.saved import IMAGE, MADE

_DRAW = ["baton", "generate", "x", "--arm", "device"]
_ARM = ["baton", "generate", "x", "--arm"]
_MASK = ["baton", "train-masks", "--member", "small", "--steps", "4", "--count", "1"]
_ANALYZE = ["baton", "analyze", "--steps", "4", "--count", "1"]
_SPACING = ["baton", "analyze", "--spacing"]
_DIVERGENCE = ["baton", "analyze", "--divergence"]
_EDGE = ["baton-edge", "serve", "--port", "0"]
_PROFILE = ["baton-edge", "profile"]
_GUIDANCE = [*_PROFILE, "--guidance"]

#: The command line, the exit code, and a word of the reason. TAKEN stands for a port in use.
WRONG: dict[str, tuple[list[str], int, str]] = {
    "no steps": ([*_DRAW, "--steps", "0"], 2, "steps"),
    "an empty prompt": (["baton", "generate", ""], 2, "prompt"),
    "no time": ([*_DRAW, "--timeout", "0"], 2, "timeout"),
    "no pictures": ([*_DRAW, "--n", "0"], 2, "--n"),
    "an unknown sampler": ([*_DRAW, "--sampler", "magic"], 2, "magic"),
    "an unknown acceleration": ([*_DRAW, "--accel", "magic"], 2, "magic"),
    "an unknown preference": ([*_DRAW, "--prefer", "magic"], 2, "magic"),
    "a negative seed": ([*_DRAW, "--seed", "-1"], 2, "seed"),
    "a small size": ([*_DRAW, "--size", "7"], 2, "size"),
    "an unknown arm": ([*_ARM, "magic"], 2, "magic"),
    "an arm of an unknown member": ([*_ARM, "edge/giant"], 2, "giant"),
    "a relay of an unknown member": ([*_ARM, "relay:large>giant@0.5"], 2, "giant"),
    "an arm nowhere": ([*_ARM, "moon/large"], 2, "moon/large"),
    "an arm that ends early": ([*_ARM, "edge/large@0.5"], 2, "last stretch"),
    "an arm without a cut": ([*_ARM, "edge/large>device/small"], 2, "cut or steps of its own"),
    "an arm whose shares fall": (
        [*_ARM, "edge/large@0.5>device/small@0.5>edge/large"],
        2,
        "rise",
    ),
    "an arm whose levels rise": (
        [*_ARM, "edge/large*1@s1>device/small*1@s2>edge/large*1"],
        2,
        "fall",
    ),
    "an arm at a share of its own steps": ([*_ARM, "edge/large*2@0.5>device/small*2"], 2, "share"),
    "an arm that counts half its steps": ([*_ARM, "edge/large*2@s1>device/small"], 2, "of none"),
    "an arm of too many steps": ([*_ARM, "edge/large*199>device/small*2"], 2, "201"),
    "an arm of no steps": ([*_ARM, "edge/large*0>device/small*2"], 2, "steps"),
    "an arm with steps, and --steps": ([*_ARM, "edge/large*5", "--steps", "5"], 2, "--steps"),
    "an arm with steps and cuts, and --steps": (
        [*_ARM, "edge/large*3@s2.2>device/small*4", "--steps", "7"],
        2,
        "--steps",
    ),
    "a member of the middle not held": (
        [*_ARM, "edge/large@0.3>device/medium@0.7>edge/large"],
        5,
        "medium",
    ),
    "a member not held": ([*_ARM, "device/large"], 5, "large"),
    "no member": ([*_DRAW, "--members", ""], 4, "member"),
    "an unknown member": ([*_DRAW, "--members", "giant"], 2, "giant"),
    "an unknown family": ([*_DRAW, "--family", "magic"], 2, "magic"),
    "a family that is none": ([*_DRAW, "--family", "none"], 5, "family.json"),
    "an edge that is none": ([*_DRAW, "--edge", "nowhere"], 2, "HOST:PORT"),
    "a coordinator that is none": ([*_DRAW, "--coordinator", "nowhere"], 2, "HOST:PORT"),
    "a picture of another kind": ([*_DRAW, "--out", "pic.jpg"], 2, "pic.jpg"),
    "pictures of another kind": ([*_DRAW, "--n", "2", "--out", "new/pic.webp"], 2, "pic.webp"),
    "a picture nowhere": ([*_DRAW, "--out", "/dev/null/a.png"], 2, "/dev/null/a.png"),
    "pictures nowhere": ([*_DRAW, "--out", "/dev/null/folder"], 2, "/dev/null/folder"),
    "a folder that is a file": ([*_DRAW, "--out", "file"], 2, "cannot write file"),
    "a name that no file has": ([*_DRAW, "--out", f"{'x' * 300}.png"], 2, "xxx"),
    "a picture at nobody's": ([*_DRAW, "--out", "~nobody-here/a.png"], 2, "nobody-here"),
    "a replay of nothing": (["baton", "replay", "missing.png"], 2, "missing.png"),
    "a replay of no picture": (["baton", "replay", "file"], 2, "file"),
    "a replay of nobody's": (["baton", "replay", "a.png"], 4, "--family"),
    "a replay by another": (["baton", "replay", "a.png", "--family", "scenes"], 4, "'tiny'"),
    "no analysis": (["baton", "analyze", "--steps", "0"], 2, "steps"),
    "an analysis of a part": (["baton", "analyze", "--member", "finisher"], 2, "from 0 to 1.6"),
    "a mask of a part": (["baton", "train-masks", "--member", "finisher"], 2, "from 0 to 1.6"),
    "an analysis without keys": ([*_ANALYZE, "--keys", "0"], 2, "from 1 to 4"),
    "an analysis of nothing": ([*_ANALYZE, "--prompts", "missing.txt"], 2, "missing.txt"),
    "an analysis nowhere": ([*_ANALYZE, "--out", "/dev/null/a.json"], 2, "/dev/null/a.json"),
    "an analysis of another kind": ([*_ANALYZE, "--out", "a.csv"], 2, "a.csv"),
    "two analyses": ([*_SPACING, "--divergence"], 2, "ask for one"),
    "an analysis of blocks by an arm": ([*_ANALYZE, "--arm", "device/small*4"], 2, "--spacing"),
    "a grid of one step": ([*_SPACING, "--steps", "1"], 2, "no level to search"),
    "a grid of too many steps": ([*_SPACING, "--steps", "201"], 2, "200"),
    "a grid for an arm without steps": ([*_SPACING, "--arm", "device/small"], 2, "open"),
    "a grid for an unknown member": ([*_SPACING, "--arm", "edge/giant*4"], 2, "giant"),
    "a grid by nothing": ([*_SPACING, "--prompts", "missing.txt"], 2, "missing.txt"),
    "a grid with keys": ([*_SPACING, "--keys", "3"], 2, "--keys"),
    "a grid nowhere": ([*_SPACING, "--out", "/dev/null/a.json"], 2, "/dev/null/a.json"),
    "a divergence from an unknown member": ([*_DIVERGENCE, "--member", "giant"], 2, "giant"),
    "a divergence of one step": ([*_DIVERGENCE, "--steps", "1"], 2, "at least 2 steps"),
    "a divergence by nothing": ([*_DIVERGENCE, "--prompts", "missing.txt"], 2, "missing.txt"),
    "a divergence within nothing": ([*_DIVERGENCE, "--tolerance", "0"], 2, "above 0"),
    "a divergence with keys": ([*_DIVERGENCE, "--keys", "3"], 2, "--keys"),
    "no mask": ([*_MASK[:4], "--steps", "0"], 2, "steps"),
    "a mask for nobody": ([*_MASK, "--member", "giant"], 2, "giant"),
    "a mask of no family": ([*_MASK, "--family", "magic"], 2, "magic"),
    "a mask by magic": ([*_MASK, "--estimator", "magic"], 2, "magic"),
    "a mask at a cost": ([*_MASK, "--cost", "magic"], 2, "magic"),
    "a slow mask": ([*_MASK, "--target-speed", "1"], 2, "target speed"),
    "a mask faster than its refresh": ([*_MASK, "--target-speed", "3"], 2, "below 2, got 3"),
    "a mask faster than its keys": ([*_MASK, "--propagated", "--target-speed", "3"], 2, "below 2"),
    "a mask of no prompts": ([*_MASK, "--count", "0"], 2, "prompts"),
    "a mask with a negative seed": ([*_MASK, "--seed", "-1"], 2, "seed"),
    "a mask nowhere": ([*_MASK, "--out", "/dev/null/a.json"], 2, "/dev/null/a.json"),
    "a mask of another kind": ([*_MASK, "--out", "a.png"], 2, "a.png"),
    "a doctor of an edge nowhere": (["baton", "doctor", "--edge", "nowhere"], 2, "HOST:PORT"),
    "a doctor of one edge of two": (["baton", "doctor", "--edge", "h:1,h:70000"], 2, "h:70000"),
    "a doctor of no coordinator": (["baton", "doctor", "--coordinator", "h"], 2, "HOST:PORT"),
    "no demo": (["baton", "demo", "--steps", "0"], 2, "steps"),
    "a demo of nothing": (["baton", "demo", " "], 2, "prompt"),
    "a demo nowhere": (["baton", "demo", "--out", "/dev/null/demo"], 2, "/dev/null/demo"),
    "an edge without rows": ([*_EDGE, "--max-rows", "1"], 2, "max_rows"),
    "an edge of a profile by name": ([*_EDGE, "--profile", "mine"], 2, "profile"),
    "an edge on a taken port": ([*_EDGE[:2], "--port", "TAKEN"], 3, "127.0.0.1:TAKEN"),
    "an open edge": ([*_EDGE, "--host", "0.0.0.0"], 2, "--insecure"),
    "an edge of no family": ([*_EDGE, "--family", "magic"], 2, "magic"),
    "an edge of an unknown member": ([*_EDGE, "--members", "giant"], 2, "giant"),
    "an edge of no coordinator": ([*_EDGE, "--coordinator", "nowhere"], 2, "HOST:PORT"),
    "an edge to be found nowhere": ([*_EDGE, "--advertise", "nowhere"], 2, "HOST:PORT"),
    "a profile of no family": ([*_PROFILE, "--family", "magic"], 2, "magic"),
    "a profile of an unknown member": ([*_PROFILE, "--member", "giant"], 2, "giant"),
    "a profile of a small size": ([*_PROFILE, "--size", "7"], 2, "size"),
    "a profile of no size": ([*_PROFILE, "--size", "wide"], 2, "wide"),
    "a profile without rows": ([*_PROFILE, "--max-rows", "1"], 2, "max_rows"),
    "a profile drawn nowhere": ([*_PROFILE, "--plot", "/dev/null/a.png"], 2, "/dev/null/a.png"),
    "a profile drawn to another kind": ([*_PROFILE, "--plot", "a.json"], 2, "a.json"),
    "a profile of rounds by prompts": ([*_PROFILE, "--prompts", "4"], 2, "--prompts"),
    "guidance left out of rows": ([*_GUIDANCE, "--max-rows", "4"], 2, "--max-rows"),
    "guidance left out of no pictures": ([*_GUIDANCE, "--prompts", "0"], 2, "prompts"),
    "guidance left out of no steps": ([*_GUIDANCE, "--steps", "0"], 2, "steps"),
    "guidance left out of a finisher": ([*_GUIDANCE, "--member", "finisher"], 2, "finisher"),
    "a coordinator on a taken port": (
        ["baton-coordinator", "serve", "--port", "TAKEN", "--db", "c.db"],
        3,
        "127.0.0.1:TAKEN",
    ),
    "a coordinator without a port": (["baton-coordinator", "serve", "--port", "70000"], 2, "port"),
    "a coordinator kept nowhere": (
        ["baton-coordinator", "serve", "--port", "0", "--db", "/dev/null/c.db"],
        2,
        "/dev/null/c.db",
    ),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Told], str, Path]:
    """What was said, the taken port, and the folder that nothing was to be written to."""
    folder = tmp_path_factory.mktemp("before-torch")
    (folder / "file").write_text("not a picture")
    (folder / "none").mkdir()
    (folder / "none" / "family.json").write_text("{}")
    save_png(IMAGE, folder / "a.png", MADE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        lines = {
            name: [port if word == "TAKEN" else word for word in line]
            for name, (line, _, _) in WRONG.items()
        }
        environment = clean_environment(folder)
        return run_many("tests.support.without_torch", lines, environment, folder), port, folder


@pytest.mark.parametrize("what", WRONG)
def test_it_is_refused_before_torch_is_imported(
    what: str, told: tuple[dict[str, Told], str, Path]
) -> None:
    done, port, _ = told
    _, code, word = WRONG[what]
    assert word.replace("TAKEN", port) in done[what].refused(code)


def test_nothing_is_left_behind(told: tuple[dict[str, Told], str, Path]) -> None:
    _, _, folder = told
    left = {path.name for path in folder.iterdir()}
    assert left - {"c.db", "c.db.ticket-key", "state"} == {"a.png", "file", "none"}
