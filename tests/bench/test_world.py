"""What each step decides: the bookkeeping of the benchmark on the built-in family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from baton.common.diffusion.run import Run
from baton.common.families.loaded import LoadedFamily
from baton.common.families.scenes.cases import seeded_cases
from baton.common.families.scenes.evaluate import draw, member_plan, world_drawn_by
from tests.bench import world
from tests.bench.world import Mix, Studio, late_gains


@pytest.fixture
def studio(scenes: LoadedFamily) -> Studio:
    return Studio(scenes, seeded_cases(world_drawn_by(scenes), 2, 3))


def test_one_member_in_two_stretches_draws_what_it_draws_alone(studio: Studio) -> None:
    alone = draw(studio.family, member_plan(studio.family, "small", 4), studio.cases)
    told = [item.verdict for item in alone]
    assert studio.draw(Mix(4, (("small", True, 4),))) == told
    assert studio.draw(Mix(4, (("small", True, 1), ("small", True, 4)))) == told


def test_the_clean_prediction_of_the_last_step_is_the_picture(studio: Studio) -> None:
    latents: list[list[torch.Tensor]] = []

    def watch(start: int, runs: list[Run]) -> None:
        latents.append([run.x for run in runs])
        if runs[0].step == 4:
            for run, before in zip(runs, latents[-2], strict=True):
                assert torch.allclose(world._clean(run, before, 3), run.x, atol=1e-5)

    studio.draw(Mix(4, (("small", True, 4),)), watch)
    assert len(latents) == 4


def test_levels_fall_and_end_with_the_scores_of_the_pictures(studio: Studio) -> None:
    levels = studio.levels(4)
    sigmas = [row["sigma"] for row in levels]
    assert sigmas == sorted(sigmas, reverse=True)
    verdicts = studio.draw(Mix(4, ((studio.first, True, 4),)))
    shapes = [held for verdict in verdicts for held in verdict.of_kind("shape")]
    assert levels[-1]["shape"] == pytest.approx(sum(shapes) / len(shapes))


def test_late_gains_are_from_the_first_level_below_one_to_the_last() -> None:
    rows = [
        {"sigma": 2.0, **dict.fromkeys(world.KINDS, 0.1)},
        {"sigma": 0.9, **dict.fromkeys(world.KINDS, 0.5), "surface": None},
        {"sigma": 0.2, **dict.fromkeys(world.KINDS, 0.75), "surface": None},
    ]
    gains = late_gains(rows)
    assert gains["shape"] == pytest.approx(0.25)
    assert "surface" not in gains


def test_a_family_compared_with_is_told_by_its_name_and_its_levels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "FEWER", (2,))
    monkeypatch.setattr(world, "SHARES", (0.5,))
    arguments = ["--family", "new=scenes", "--beside", "old=scenes", "--count", "1", "--steps", "2"]
    world.main([*arguments, "--out", str(tmp_path)])
    told = json.loads((tmp_path / "world.json").read_text())
    tables = {
        name: {row["table"] for row in told["rows"] if row["family"] == name}
        for name in ("new", "old")
    }
    assert tables["new"] > tables["old"] == {"levels"}
    assert set(told["ratios"]["late"]) == {"new", "old"}


def test_the_command_writes_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "FEWER", (2, 3))
    monkeypatch.setattr(world, "SHARES", (0.5,))
    world.main(["--count", "1", "--steps", "2", "--out", str(tmp_path)])
    told = json.loads((tmp_path / "world.json").read_text())
    assert {row["table"] for row in told["rows"]} >= {"levels", "steps", "alone", "shares"}
    assert [row["name"] for row in told["rows"] if row["table"] == "shares"] == [
        "large 1 > small 1",
        "small 1 > large 1",
    ]
    assert (tmp_path / "world.png").is_file()
