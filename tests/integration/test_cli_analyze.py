"""``baton analyze`` as its users run it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from baton.common.accel.features import Features, measure, propose_keys
from baton.common.accel.propagation import Propagation
from baton.common.errors import InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from baton.common.families.manifest import Manifest, read_manifest
from baton.common.tooling.analysis import AnalyzeRequest
from baton.device_client.cli.analyzing import analyze
from baton.device_client.settings import DeviceSettings
from tests.support.commands import Told, clean_environment, run_many
from tests.support.families import NAME, copy_family, flip_bit
from tests.support.tasks import PROMPTS, plan, task

ROOT = Path(__file__).resolve().parents[2]
UNET = "large/unet/diffusion_pytorch_model.safetensors"
STEPS, SEED = 6, 11

_SHORT = ["analyze", "--steps", "4", "--count", "1"]

#: What is refused: the command line, the exit code, and words of the reason.
WRONG: dict[str, tuple[list[str], int, list[str]]] = {
    "an unknown family": ([*_SHORT, "--family", "nonsense"], 2, ["nonsense"]),
    "an unknown member": ([*_SHORT, "--member", "giant"], 2, ["giant", "large, small"]),
    "an unknown sampler": ([*_SHORT, "--sampler", "magic"], 2, ["magic", "ddim"]),
    "no steps": (["analyze", "--steps", "0"], 2, ["steps"]),
    "a single step": (["analyze", "--steps", "1"], 2, ["at least 2 steps"]),
    "too many steps": (["analyze", "--steps", "201"], 2, ["200"]),
    "guidance that is no number": ([*_SHORT, "--guidance", "nan"], 2, ["guidance"]),
    "a negative seed": ([*_SHORT, "--seed", "-1"], 2, ["seed"]),
    "no pictures": (["analyze", "--count", "0"], 2, ["prompts", "0"]),
    "too many pictures": (["analyze", "--count", "100000"], 2, ["4096"]),
    "no keys": ([*_SHORT, "--keys", "0"], 2, ["4 steps", "from 1 to 4"]),
    "too many keys": ([*_SHORT, "--keys", "5"], 2, ["4 steps", "from 1 to 4"]),
    "keys that are no number": ([*_SHORT, "--keys", "some"], 2, ["--keys"]),
    "too few keys": (["analyze", "--steps", "50", "--keys", "3"], 2, ["from 4 to 50"]),
    "missing prompts": (["analyze", "--prompts", "missing.txt"], 2, ["missing.txt", "No such"]),
    "prompts that are a folder": (["analyze", "--prompts", "."], 2, ["directory"]),
    "no prompts": (["analyze", "--prompts", "empty.txt"], 2, ["empty.txt", "0 prompts"]),
    "prompts that are no text": (["analyze", "--prompts", "bytes.txt"], 2, ["bytes.txt"]),
    "too few prompts": (
        ["analyze", "--prompts", "prompts.txt", "--count", "9"],
        2,
        ["prompts.txt has 5 prompts, 9"],
    ),
    "an unwritable file": ([*_SHORT, "--out", "/dev/null/a.json"], 2, ["/dev/null/a.json"]),
    "an unwritable folder": ([*_SHORT, "--out", "prompts.txt"], 2, ["prompts.txt"]),
    "damaged weights": ([*_SHORT, "--family", "flipped"], 5, ["damaged"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("analyze")
    flip_bit(copy_family(family_folder, folder / "flipped") / UNET)
    (folder / "prompts.txt").write_text("\n\n".join(PROMPTS) + "\n  \n")
    (folder / "empty.txt").write_text("\n \n")
    (folder / "bytes.txt").write_bytes(b"\xff\xfe a cat")
    return folder


@pytest.fixture(scope="module")
def baton(folder: Path, family_folder: Path) -> dict[str, Told]:
    environment = clean_environment(folder, BATON_DEVICE_FAMILY=str(family_folder))
    asked = ["analyze", "--prompts", "prompts.txt", "--steps", str(STEPS), "--seed", str(SEED)]
    small = ["--member", "small", "--sampler", "euler", "--guidance", "1", "--count", "2"]
    lines = {name: line for name, (line, _, _) in WRONG.items()} | {
        "asked": [*asked, "--keys", "3", "--json", "--out", "found/one.json"],
        "again": [*asked, "--keys", "3", "--json", "--out", "found/two.json"],
        "small": [*asked, *small, "--json", "--out", "found"],
        "told": [*_SHORT, "--out", "told"],
        "told by default": ["analyze", "--steps", "2", "--count", "1", "--json"],
    }
    return run_many("baton.device_client.cli.main", lines, environment, folder)


@pytest.fixture(scope="module")
def measured(family: LoadedFamily) -> Features:
    """As the command measures, in batches of four."""
    of = plan("device/large", STEPS)
    runs = [begin(family, task(of, prompt, seed=SEED + i)) for i, prompt in enumerate(PROMPTS)]
    graph = family.denoiser("large").graph
    assert graph is not None
    return measure(graph, [runs[:4], runs[4:]])


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_analyzed_is_refused_in_one_line(what: str, baton: dict[str, Told]) -> None:
    _, code, words = WRONG[what]
    line = baton[what].refused(code)
    for word in words:
        assert word in line


def test_the_json_holds_what_was_measured(
    baton: dict[str, Told], measured: Features, family: LoadedFamily
) -> None:
    told = baton["asked"].json()
    assert (told["family"], told["member"], told["sampler"]) == (NAME, "large", "ddim")
    assert (told["steps"], told["guidance"], told["seed"]) == (STEPS, 3.0, SEED)
    assert (told["pictures"], told["rows"]) == (len(PROMPTS), 2 * len(PROMPTS))
    assert told["fingerprint"] == family.member_fingerprints["large"]
    assert [block["block"] for block in told["blocks"]] == list(measured.graph.names)
    for index, block in enumerate(told["blocks"]):
        for measure_of in ("squared", "relative"):
            expected = getattr(measured, measure_of)[:, index]
            assert block[measure_of][0] is None
            np.testing.assert_allclose(block[measure_of][1:], expected[1:], 1e-4, 1e-9)
    assert told["keys"] == list(propose_keys(measured, 3))


def test_the_stages_are_means_over_their_blocks_most_changed_first(
    baton: dict[str, Told],
) -> None:
    told = baton["asked"].json()
    stages = told["stages"]
    assert {"down.0", "down.1", "mid", "up.0", "up.1", "conv_in"} <= {s["stage"] for s in stages}
    assert not any("embedding" in stage["stage"] for stage in stages)
    changes = [stage["relative"] for stage in stages]
    assert changes == sorted(changes, reverse=True)
    (middle,) = [stage for stage in stages if stage["stage"] == "mid"]
    blocks = [block for block in told["blocks"] if block["block"].startswith("mid.")]
    relative = np.array([block["relative"][1:] for block in blocks])
    assert middle["blocks"] == len(blocks)
    assert middle["relative"] == pytest.approx(relative.mean(), rel=1e-4)
    assert middle["most"] == relative.mean(axis=0).argmax() + 1


def test_the_proposal_is_one_that_a_manifest_takes(
    baton: dict[str, Told], family: LoadedFamily
) -> None:
    told = baton["asked"].json()
    values = read_manifest(family.spec.folder).model_dump() | {"propagation": told["propagation"]}
    taken = Manifest.model_validate(values).propagation["large"]
    assert list(taken.keys) == told["keys"]
    assert Propagation(taken.keys, taken.steps).keys_for(STEPS) == tuple(told["keys"])


def test_the_same_command_measures_the_same(baton: dict[str, Told], folder: Path) -> None:
    one, two = baton["asked"].json(), baton["again"].json()
    for told, name in ((one, "one"), (two, "two")):
        assert (told.pop("path"), told.pop("plot")) == (f"found/{name}.json", f"found/{name}.png")
        stored: dict[str, Any] = json.loads((folder / "found" / f"{name}.json").read_text())
        assert {key: stored[key] for key in told} == told
    assert one == two


def test_the_plot_lies_beside(baton: dict[str, Told], folder: Path) -> None:
    for name in ("asked", "small"):
        with Image.open(folder / baton[name].json()["plot"]) as image:
            assert image.format == "PNG"
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100


def test_any_member_sampler_and_guidance_can_be_asked_for(baton: dict[str, Told]) -> None:
    told = baton["small"].json()
    assert told["path"] == f"found/analyze-{NAME}-small-euler-{STEPS}.json"
    assert (told["member"], told["guidance"], told["rows"]) == ("small", 1.0, 2)
    assert list(told["propagation"]) == ["small"]


def test_defaults_are_the_largest_member_and_the_family_s_own(baton: dict[str, Told]) -> None:
    told = baton["told by default"].json()
    assert (told["member"], told["guidance"], told["seed"]) == ("large", 3.0, 0)
    assert told["path"] == f"analyze-{NAME}-large-ddim-2.json"
    assert told["keys"] == list(range(len(Propagation().keys_for(2))))


def test_people_get_a_table_and_keys_to_copy(baton: dict[str, Told], folder: Path) -> None:
    told = baton["told"]
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines()
    assert lines[0].split() == ["stage", "part", "blocks", "squared", "relative", "most"]
    assert f"{lines[1].split()[0]} changes most, by " in told.out
    (keys,) = [line.strip() for line in lines if line.startswith('  "large": ')]
    assert json.loads("{" + keys + "}")["large"]["steps"] == 4
    assert (
        lines[-1] == f"told/analyze-{NAME}-large-ddim-4.json, told/analyze-{NAME}-large-ddim-4.png"
    )
    assert (folder / "told" / f"analyze-{NAME}-large-ddim-4.png").exists()


def test_no_prompt_is_told_or_stored(baton: dict[str, Told], folder: Path) -> None:
    stored = (folder / "found" / "one.json").read_text()
    for text in (stored, *(told.out + told.err for told in baton.values())):
        assert not any(prompt in text for prompt in PROMPTS)


def test_without_matplotlib_everything_but_the_plot_is_there(
    family_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)  # as the import system marks what is not there
    request = AnalyzeRequest("small", "ddim", 2, None, None, 1, 0, None, tmp_path)
    analyze(DeviceSettings(family=str(family_folder)), request, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["plot"] is None
    assert ["pip install matplotlib" in note for note in told["notes"]] == [True]
    assert Path(told["path"]).exists()
    assert not list(tmp_path.glob("*.png"))


def test_a_name_that_baton_chooses_replaces_no_analysis(
    family_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = DeviceSettings(family=str(family_folder))

    def measured(seed: int, out: Path) -> Path:
        request = AnalyzeRequest("small", "ddim", 2, None, None, 1, seed, None, out)
        analyze(settings, request, as_json=True)
        told = json.loads(capsys.readouterr().out)
        assert Path(told["plot"]) == Path(told["path"]).with_suffix(".png")
        return Path(told["path"])

    first, second = measured(1, tmp_path / "folder"), measured(2, tmp_path / "folder")
    assert (first.stem, second.stem) == (f"analyze-{NAME}-small-ddim-2", f"{first.stem}-2")
    assert [json.loads(path.read_text())["seed"] for path in (first, second)] == [1, 2]
    assert first.with_suffix(".png").exists()
    named = [measured(seed, tmp_path / "named.json") for seed in (1, 2)]
    assert named[0] == named[1]
    assert json.loads(named[1].read_text())["seed"] == 2


def test_a_place_for_the_plot_is_looked_at_before(family_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    family = copy_family(family_folder, tmp_path / "family")
    (family / UNET).unlink()  # which is not even looked for
    request = AnalyzeRequest("large", "ddim", 2, None, None, 1, 0, None, tmp_path / "a.json")
    with pytest.raises(InvalidRequest, match=r"a\.png"):
        analyze(DeviceSettings(family=str(family)), request, as_json=True)
    assert not (tmp_path / "a.json").exists()
