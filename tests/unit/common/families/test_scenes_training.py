"""The stages of the training at toy size: they resume exactly, travel, and give a family."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from baton.common.errors import ExecutionFailed, InvalidRequest, WeightsError
from baton.common.families.scenes.training import card
from baton.common.families.scenes.training import pack as packing
from baton.common.families.scenes.training.device import Machine, find_device
from baton.common.families.scenes.training.export import export_family
from baton.common.families.scenes.training.loop import (
    Allowance,
    Optimisation,
    Position,
    TrainState,
    read_averages,
    read_position,
)
from baton.common.families.scenes.training.pack import read_pack, write_pack
from baton.common.families.scenes.training.stages import STAGES, Recipe, Training, check_stages
from baton.common.families.scenes.worlds import DETAIL
from tests.support.training import CPU, checkpoint

OPTIONS = Optimisation(lr=0.05, batch=4, warmup=2)


class Line:
    """A stage that fits a line: what every stage does, in no time."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.state = TrainState(folder / "line", {"line": self.model}, OPTIONS)

    def run(self, allowance: Allowance) -> TrainState:
        self.state.resume()
        self.state.run(self.loss, allowance)
        return self.state

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x = torch.randn(4, 3, generator=CPU.generator(step))
        value = (self.model(x)[:, 0] - x.sum(dim=1)).square().mean()
        return value, {"loss": value}


def test_a_stage_with_fixed_steps_that_is_interrupted_ends_bit_for_bit_alike(
    tmp_path: Path,
) -> None:
    Line(tmp_path / "one").run(Allowance(steps=9))
    for stop in (3, 4, 8, None):
        Line(tmp_path / "two").run(Allowance(steps=9, stop_after=stop))
    one, two = checkpoint(tmp_path / "one", "line"), checkpoint(tmp_path / "two", "line")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    position = read_position(tmp_path / "two/line.safetensors")
    assert (position.step, position.samples, position.progress) == (9, 36, 1.0)


def test_from_averages_alone_a_stage_goes_on_where_it_stood(tmp_path: Path) -> None:
    whole = Line(tmp_path / "one").run(Allowance(steps=200))
    Line(tmp_path / "two").run(Allowance(steps=200, stop_after=100))
    (tmp_path / "two/line.pt").unlink()
    later = Line(tmp_path / "two")
    assert later.state.resume()
    assert later.state.position.step == 100
    assert later.state.position.progress == pytest.approx(0.5)
    averages = read_averages(tmp_path / "two/line.safetensors", "line")
    assert all(torch.equal(value, averages[key]) for key, value in later.model.state_dict().items())
    later.run(Allowance(steps=200))
    for key, value in whole.averages.items():
        assert torch.allclose(value, later.state.averages[key], atol=0.02)


def test_a_stage_with_seconds_ends_by_itself_over_all_its_runs(tmp_path: Path) -> None:
    first = Line(tmp_path).run(Allowance(seconds=0.2, stop_after=5))
    assert not first.position.finished
    last = Line(tmp_path).run(Allowance(seconds=0.2)).position
    assert last.finished
    assert last.step > 5
    assert last.seconds >= first.position.seconds
    assert Line(tmp_path).run(Allowance(seconds=0.2)).position == last  # it is done


class Cluster(Machine):
    """A machine of another name."""

    @property
    def name(self) -> str:
        return "a cluster"


def test_a_stage_tells_every_machine_that_it_trained_on(tmp_path: Path) -> None:
    Line(tmp_path).run(Allowance(steps=4, stop_after=2))
    assert read_position(tmp_path / "line.safetensors").machines == (CPU.name,)
    for _ in range(2):  # the second finds it finished
        line = Line(tmp_path)
        line.state.machine = Cluster(torch.device("cpu"))
        assert line.run(Allowance(steps=4)).position.machines == (CPU.name, "a cluster")


def test_averages_that_know_no_machine_are_of_an_unknown_one() -> None:
    assert Position(step=3).machines == ()
    assert Position(step=3).on("here").machines == ("unknown", "here")
    assert Position().on("here").machines == ("here",)


def test_the_card_names_the_machine_of_each_stage_where_it_is_known() -> None:
    stages = {
        "vae": asdict(Position(8, 256, 1.0, 90.0)),
        "large": asdict(Position(9, 1152, 1.0, 414.0, ("a cluster", "a laptop"))),
    }
    assert card._training_table(stages)[2:] == [
        "| vae | 256 | 1.5 |  |",
        "| large | 1,152 | 6.9 | a cluster, then a laptop |",
    ]
    assert card._training_table({"vae": stages["vae"]})[2:] == ["| vae | 256 | 1.5 |"]


def test_a_finished_stage_leaves_its_averages_in_the_modules(tmp_path: Path) -> None:
    line = Line(tmp_path)
    state = line.run(Allowance(steps=5))
    assert torch.equal(line.model.weight, state.averages["line.weight"])


def test_the_log_tells_steps_samples_and_means(tmp_path: Path) -> None:
    Line(tmp_path).run(Allowance(steps=150))
    rows = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [(row["step"], row["samples"]) for row in rows] == [(100, 400), (150, 600)]
    assert rows[1]["loss"] < rows[0]["loss"]


def test_averages_travel_in_a_few_small_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    for stage in ("one", "two"):
        state = Line(run / stage).run(Allowance(steps=3))
        state.path.with_name("line.safetensors").rename(run / f"{stage}.safetensors")
    (run / "tokenizer").mkdir()
    (run / "tokenizer/tokenizer.json").write_text("{}")
    monkeypatch.setattr(packing, "_SHARD", 8)  # every tensor by itself
    write_pack(run, tmp_path / "pack")
    write_pack(run, tmp_path / "pack")  # again, over the first
    files = list((tmp_path / "pack").iterdir())
    assert 1 <= len(files) <= packing.MOST_FILES
    assert all(file.stat().st_size <= packing.LIMIT for file in files)
    read_pack(tmp_path / "pack", tmp_path / "there")
    for stage in ("one", "two"):
        here, there = run / f"{stage}.safetensors", tmp_path / f"there/{stage}.safetensors"
        assert read_position(there) == read_position(here)
        expected, found = read_averages(here, "line"), read_averages(there, "line")
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert (tmp_path / "there/tokenizer/tokenizer.json").read_text() == "{}"


def test_a_folder_without_packed_averages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="averages"):
        read_pack(tmp_path, tmp_path / "run")


def test_stages_are_run_in_their_order_and_unknown_ones_refused() -> None:
    assert check_stages(["small", "vae"]) == ["vae", "small"]
    assert check_stages([]) == list(STAGES)
    with pytest.raises(ValueError, match="unknown stage 'smal'"):
        check_stages(["smal"])


def test_a_device_that_is_not_there_is_refused() -> None:
    assert find_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        find_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA"):
            find_device("cuda")
        assert find_device("auto").type == "cpu"


def test_a_stage_gets_its_share_of_what_is_left(tmp_path: Path) -> None:
    training = Training(Recipe(tmp_path, DETAIL, CPU, minutes=100))
    assert training.allowance("large").seconds == pytest.approx(6000 * STAGES["large"], rel=0.01)
    Line(tmp_path).run(Allowance(steps=1))
    (tmp_path / "line.safetensors").rename(tmp_path / "vae.safetensors")
    share = STAGES["large"] / (1 - STAGES["vae"])
    assert training.allowance("large").seconds == pytest.approx(6000 * share, rel=0.01)


def test_no_denoiser_is_trained_on_an_autoencoder_that_smears(tmp_path: Path) -> None:
    training = Training(Recipe(tmp_path, DETAIL, CPU, 1, steps=1, scenes=4, pictures=8, judged=1))
    training.run("vae")
    with pytest.raises(ExecutionFailed, match="smears"):
        training.run("meaning")
    assert not (tmp_path / "data.pt").exists()


def test_a_stage_that_was_not_trained_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"large\.safetensors is not there"):
        export_family(tmp_path, tmp_path / "family", DETAIL, 3.0)
    assert not (tmp_path / "family").exists()
