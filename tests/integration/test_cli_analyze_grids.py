"""``baton analyze --spacing`` and ``--divergence`` as their users run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baton.common.families.manifest import MANIFEST_NAME
from tests.support.commands import Told, clean_environment, run_many
from tests.support.families import NAME, copy_family, edit_json
from tests.support.tasks import PROMPTS

_SPACING = ["analyze", "--spacing", "--count", "1"]
_DIVERGENCE = ["analyze", "--divergence", "--count", "1", "--steps", "3"]
_RELAY = "edge/large*1>device/small*1"

#: What is refused: the command line, the exit code, and words of the reason.
WRONG: dict[str, tuple[list[str], int, list[str]]] = {
    "both analyses": (["analyze", "--spacing", "--divergence"], 2, ["--spacing", "--divergence"]),
    "an arm for blocks": (["analyze", "--arm", _RELAY], 2, ["--arm is for --spacing"]),
    "a tolerance for blocks": (["analyze", "--tolerance", "1"], 2, ["for --divergence"]),
    "an arm without steps": ([*_SPACING, "--arm", "device/small"], 2, ["device/small", "open"]),
    "a member of no arm": ([*_SPACING, "--arm", _RELAY, "--member", "small"], 2, ["--member"]),
    "keys of a member": ([*_DIVERGENCE, "--keys", "2"], 2, ["--keys"]),
    "an unwritable file": ([*_SPACING, "--out", "/dev/null/a.json"], 2, ["/dev/null/a.json"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("grids")
    copy_family(family_folder, folder / "family")
    edit_json(folder / "family" / MANIFEST_NAME, lambda manifest: manifest.update(default_steps=3))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


@pytest.fixture(scope="module")
def baton(folder: Path) -> dict[str, Told]:
    environment = clean_environment(folder, BATON_DEVICE_FAMILY=str(folder / "family"))
    asked = ["--prompts", "prompts.txt", "--out"]
    lines = {name: line for name, (line, _, _) in WRONG.items()} | {
        "spaced": [*_SPACING, "--arm", "device/small*2", "--arm", _RELAY, "--json", "--out", "a"],
        "spaced and told": [*_SPACING, *asked, "b.json", "--member", "small", "--steps", "2"],
        "diverged": [*_DIVERGENCE, "--tolerance", "0.5", "--json", *asked, "c"],
        "diverged and told": [*_DIVERGENCE, *asked, "d.json"],
    }
    return run_many("baton.device_client.cli.main", lines, environment, folder)


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_analyzed_is_refused_in_one_line(what: str, baton: dict[str, Told]) -> None:
    _, code, words = WRONG[what]
    line = baton[what].refused(code)
    for word in words:
        assert word in line


def test_a_grid_is_found_for_all_arms_that_are_named(baton: dict[str, Told], folder: Path) -> None:
    told = baton["spaced"].json()
    assert told["path"] == f"a/spacing-{NAME}-ddim-2.json"
    assert json.loads((folder / told["path"]).read_text()) == told
    assert [found["arm"] for found in told["confirmed"]] == ["device/small*2", _RELAY]
    assert len(told["grid"]["timesteps"]) == told["steps"] == 2


def test_people_get_a_table_and_a_grid_to_copy(baton: dict[str, Told], folder: Path) -> None:
    told, stored = baton["spaced and told"], json.loads((folder / "b.json").read_text())
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines()
    assert lines[0].split() == ["arm", "grid", "distance", "gain", "low", "high"]
    assert [line.split()[1] for line in lines[1:4]] == ["found", "start", "plain"]
    assert ("does not beat the plain grid" in told.out) == (not stored["beats_plain"])
    assert json.loads(lines[-2]) == stored["grid"]
    assert lines[-1] == "b.json"


def test_a_divergence_is_told_by_level_and_plotted(baton: dict[str, Told], folder: Path) -> None:
    found = baton["diverged"].json()
    assert found["path"] == f"c/divergence-{NAME}-large-ddim-3.json"
    assert (folder / found["plot"]).exists()
    assert (found["tolerance"], len(found["levels"])) == (0.5, 3)
    told = baton["diverged and told"]
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines()
    assert " ".join(lines[0].split()) == "level large, one branch small small, one branch"
    assert float(lines[1].split()[0]) == pytest.approx(found["levels"][0], rel=0.01)
    assert lines[-1] == "d.json, d.png"


def test_no_prompt_is_told(baton: dict[str, Told]) -> None:
    for told in baton.values():
        assert not any(prompt in told.out + told.err for prompt in PROMPTS)
