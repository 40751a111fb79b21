"""The training of the built-in family at toy size: from its command to a family that draws."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from baton.common.families.loaded import load_family
from baton.common.families.scenes.training.loop import read_position
from baton.common.families.scenes.training.stages import STAGES

COMMAND = [sys.executable, "-m", "baton.common.families.scenes.training"]
TOY = ["--scenes", "40", "--pictures", "40", "--gate", "0", "--threads", "1", "--device", "cpu"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_toy_family_is_trained_interrupted_packed_resumed_exported_and_draws(
    tmp_path: Path,
) -> None:
    first, second, pack, out = (str(tmp_path / name) for name in ("a", "b", "pack", "family"))
    trained = run("train", "--run-dir", first, "--minutes", "0.2", *TOY, "--pack", pack)
    assert trained.returncode == 0, trained.stderr
    for stage in STAGES:
        assert read_position(tmp_path / f"a/{stage}.safetensors").finished, stage
    resumed = run(
        *["train", "--run-dir", second, "--minutes", "0.2", *TOY, "--start", pack],
        *["--stage", "small", "--stage", "large"],
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "large is trained" in resumed.stdout
    assert read_position(tmp_path / "b/vae.safetensors").finished
    exported = run("export", "--run-dir", first, "--out", out)
    assert exported.returncode == 0, exported.stderr
    family = load_family(out)
    assert family.members == ("large", "medium", "small", "finisher")
    assert family.spec.for_devices == ("small", "finisher")
    pipe = family.pipeline("small")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a striped red cat", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    card = run(
        *["card", "--folder", out, "--bench", str(tmp_path / "bench"), "--run-dir", first],
        *["--count", "2", "--steps", "2"],
    )
    assert card.returncode == 0, card.stderr
    told = (tmp_path / "family/README.md").read_text()
    assert "| surface |" in told
    for stage in STAGES:
        (machine,) = read_position(tmp_path / f"a/{stage}.safetensors").machines
        assert re.search(rf"^\| {stage} \|.* {re.escape(machine)} \|$", told, re.MULTILINE)
    assert (tmp_path / "bench/scenes.json").is_file()
    finish = ["finisher", "--folder", out, "--run-dir", str(tmp_path / "c"), "--steps", "2"]
    finished = run(*finish, "--scenes", "40", "--threads", "1", "--device", "cpu")
    assert finished.returncode == 0, finished.stderr
    family = load_family(out)
    assert family.members == ("large", "medium", "small", "finisher")
    assert family.spec.members["finisher"].guidance == "none"
    assert family.spec.members["finisher"].levels == (0.0, 1.6)


def test_a_wrong_stage_or_device_is_one_line_with_code_2(tmp_path: Path) -> None:
    for option in (["--stage", "smal"], ["--device", "tpu"]):
        refused = run("train", "--run-dir", str(tmp_path), *option)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
