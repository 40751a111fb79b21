"""Replays of what an engine or this process drew, to the last bit of the latent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baton.common.build import NodeBuild, this_build
from baton.common.errors import Incompatible, InvalidRequest, WeightsError
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.plan import Plan
from baton.device_client.events import Stepped
from baton.device_client.provenance import Provenance
from baton.device_client.replaying import (
    TOLERANCE_LEVELS,
    TOLERANCE_SHARE,
    Difference,
    Replay,
    replay,
    replay_provenance,
)
from baton.edge_server.engine.job import Drawn
from tests.support.engines import run_together
from tests.support.families import copy_family, edit_json, flip_bit
from tests.support.replays import Undecoded, drawn, record, saved
from tests.support.tasks import PROMPTS, plan, task, work

UNET = "small/unet/diffusion_pytorch_model.safetensors"
FREE = (False, True, True, False, True)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def moved(made: Provenance, to: Sequence[str], origins: Mapping[str, NodeBuild]) -> Provenance:
    """The same steps, said to have run on the edges ``to``, one after the other."""
    executed = tuple(
        replace(step, location="edge", node_id=node_id)
        for step, node_id in zip(made.executed, to, strict=True)
    )
    return replace(made, executed=executed, nodes=origins)


#: By number of threads. Two wait for each other in every operation, and on a busy machine for
#: their turn each time, so that they get as few model calls as show all there is to see.
MIXED: dict[int, list[Plan]] = {
    1: [
        plan("edge/large", 5, "ddim", 3.0, FREE),
        plan("edge/large", 7, "euler", 7.5),
        plan("edge/large", 4, "dpmpp_2m", 1.0),
        plan("edge/large", 6, "dpmpp_2m", 2.0),
        plan("edge/small", 3, "ddim", 2.0),
    ],
    2: [
        plan("edge/large", 2, "ddim", 3.0, (True, False)),
        plan("edge/large", 1, "dpmpp_2m", 1.0),
        plan("edge/large", 2, "euler", 7.5),
        plan("edge/large", 1, "ddim", 1.0),
    ],
}


@pytest.mark.timeout(600)
def test_neighbours_in_a_batch_are_not_needed_to_replay(family: LoadedFamily, threads: int) -> None:
    """Requests of all kinds, so that a row's place in its batch and the batch's size change."""
    exact, plans = Undecoded(family), MIXED[threads]
    works = [work(f"r{i}", task(of, PROMPTS[i], seed=i)) for i, of in enumerate(plans)]
    seen = set()
    for item, listener in zip(works, run_together(exact, works), strict=True):
        outcome = listener.outcome()
        assert isinstance(outcome, Drawn)
        seen |= {(step.rows, step.row) for step in outcome.executed}
        assert {step.threads for step in outcome.executed} == {threads}
        made = record(family, item.task, outcome.executed)
        np.testing.assert_array_equal(replay_provenance(exact, made), outcome.picture)
    assert {rows % 2 for rows, _ in seen} == {0, 1}
    assert len({row for _, row in seen}) > 3


def test_batch_size_and_threads_are_those_of_the_record(family: LoadedFamily) -> None:
    """They show in the last bits, so a replay that ignored one of them would not be exact."""
    exact = Undecoded(family)
    _, made = drawn(exact, task(plan("device/large", 4), size=32))
    plain = replay_provenance(exact, made)
    for change in ({"rows": 6}, {"threads": 2}):
        executed = tuple(replace(step, **change) for step in made.executed)
        other = replay_provenance(exact, replace(made, executed=executed))
        assert (plain != other).any()
        apart = plain.view(np.float32) - other.view(np.float32)
        assert np.abs(apart).max() < 1e-3


def test_the_number_of_threads_is_put_back(family: LoadedFamily) -> None:
    _, made = drawn(family)
    many = replace(made, executed=tuple(replace(step, threads=3) for step in made.executed))
    before = torch.get_num_threads()
    seen = []
    replay_provenance(family, many, lambda event: seen.append(torch.get_num_threads()))
    assert set(seen) == {3}
    assert torch.get_num_threads() == before
    with pytest.raises(InvalidRequest):
        replay_provenance(family, replace(many, task=replace(made.task, size=17)))
    assert torch.get_num_threads() == before


def test_progress_is_told_step_by_step(family: LoadedFamily) -> None:
    _, made = drawn(family)
    events: list[Stepped] = []
    replay_provenance(family, made, events.append)
    assert events == [Stepped(step, 4, "device", "small") for step in (1, 2, 3, 4)]


def test_a_file_is_replayed_and_written_again_as_it_was(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.png", *drawn(family))
    found = replay(path, str(family_folder))
    assert (found.verdict, found.reasons) == ("identical", ())
    assert found.difference == Difference(0, 0.0, float("inf"))
    assert found.save(tmp_path / "b.png").read_bytes() == path.read_bytes()


def test_without_a_reason_one_level_of_one_pixel_is_another_picture(
    family: LoadedFamily, tmp_path: Path
) -> None:
    picture, made = drawn(family)
    picture[0, 0, 0] ^= 1
    found = replay(saved(tmp_path / "a.png", picture, made), family)
    assert (found.verdict, found.difference.levels) == ("different", 1)
    assert found.difference.share == 1 / (16 * 16)


def test_another_build_is_named_and_let_pass_within_the_tolerance(
    family: LoadedFamily, tmp_path: Path
) -> None:
    picture, made = drawn(family)
    other = replace(this_build(), torch="2.0", processor="arm64")
    elsewhere = replace(made, nodes={"device": replace(made.nodes["device"], build=other)})
    assert replay(saved(tmp_path / "a.png", picture, elsewhere), family).verdict == "identical"
    off = picture.copy()
    off[0, :4, 0] ^= TOLERANCE_LEVELS
    found = replay(saved(tmp_path / "b.png", off, elsewhere), family)
    assert found.verdict == "within tolerance"
    assert found.reasons == (
        f"torch 2.0 on the device, {this_build().torch} here",
        f"processor arm64 on the device, {this_build().processor} here",
    )
    off[0, 0, 0] = picture[0, 0, 0] ^ 128
    assert replay(saved(tmp_path / "c.png", off, elsewhere), family).verdict == "different"
    many = picture ^ 1
    assert many.shape[0] * TOLERANCE_SHARE < many.shape[0]
    assert replay(saved(tmp_path / "d.png", many, elsewhere), family).verdict == "different"


def test_an_edge_of_this_build_and_these_weights_is_no_reason(
    family: LoadedFamily, tmp_path: Path
) -> None:
    picture, made = drawn(family)
    made = moved(made, ["e1"] * 4, {"e1": made.nodes["device"]})
    picture[0, 0, 0] ^= 1
    found = replay(saved(tmp_path / "a.png", picture, made), family)
    assert (found.verdict, found.reasons) == ("different", ())


def test_every_edge_of_another_build_is_named(family: LoadedFamily, tmp_path: Path) -> None:
    picture, made = drawn(family)
    same = made.nodes["device"]
    builds = {"e1": same.build, "e2": replace(same.build, numpy="1.0")}
    builds["e3"] = replace(same.build, diffusers="0.1")
    origins = {name: replace(same, build=build) for name, build in builds.items()}
    made = moved(made, ["e1", "e2", "e2", "e3"], origins)
    picture[0, 0, 0] ^= 1
    found = replay(saved(tmp_path / "a.png", picture, made), family)
    assert found.verdict == "within tolerance"
    assert found.reasons == (
        f"numpy 1.0 on edge e2, {this_build().numpy} here",
        f"diffusers 0.1 on edge e3, {this_build().diffusers} here",
    )


def test_other_weights_at_any_node_are_refused_with_its_name(
    family: LoadedFamily, tmp_path: Path
) -> None:
    """Also where two nodes had different ones under the member's name: one of them differs."""
    picture, made = drawn(family)
    same, here = made.nodes["device"], family.member_fingerprints["small"]
    other = replace(same, members={"small": "0123456789abcdef" * 2})
    for origins, node_id in (
        ({"e1": same, "e2": other}, "e2"),
        ({"e1": other, "e2": same}, "e1"),
        ({"e1": other, "e2": other}, "e1"),
    ):
        path = saved(tmp_path / "a.png", picture, moved(made, ["e1"] * 2 + ["e2"] * 2, origins))
        with pytest.raises(Incompatible) as caught:
            replay(path, family)
        for word in (f"edge {node_id} ", "'small'", "0123456789ab", here[:12]):
            assert word in str(caught.value)
        assert "0123456789abc" not in str(caught.value)
        assert caught.value.exit_code == 4


def altered(family_folder: Path, to: Path, part: str) -> Path:
    """The family with one bit of its weights changed, and no digest that would notice."""
    folder = copy_family(family_folder, to, digests=False)
    flip_bit(folder / part)
    return folder


@pytest.mark.parametrize(
    ("part", "word"),
    [
        (UNET, "member 'small' on the device"),
        ("shared/text_encoder/model.safetensors", "member 'small'"),
        ("shared/vae/diffusion_pytorch_model.safetensors", "latent space"),
    ],
)
def test_other_weights_are_refused_with_both_fingerprints(
    family: LoadedFamily, family_folder: Path, tmp_path: Path, part: str, word: str
) -> None:
    path = saved(tmp_path / "a.png", *drawn(family))
    folder = altered(family_folder, tmp_path / "other", part)
    with pytest.raises(Incompatible, match=word) as caught:
        replay(path, str(folder))
    other = load_family(str(folder), ["small"])
    pairs = [
        (family.fingerprint, other.fingerprint),
        (family.member_fingerprints["small"], other.member_fingerprints["small"]),
    ]
    there, here = next(pair for pair in pairs if pair[0][:12] in str(caught.value))
    assert here[:12] in str(caught.value)
    assert there != here
    assert caught.value.exit_code == 4


def test_weights_that_did_not_draw_it_do_not_matter(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    folder = altered(family_folder, tmp_path / "other", UNET.replace("small", "large"))
    path = saved(tmp_path / "a.png", *drawn(family))
    assert replay(path, str(folder)).verdict == "identical"


def test_a_family_without_the_member_or_of_another_name_is_refused(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.png", *drawn(family))
    lesser = copy_family(family_folder, tmp_path / "lesser")
    edit_json(lesser / "family.json", lambda manifest: manifest["members"].pop("small"))
    renamed = copy_family(family_folder, tmp_path / "renamed")
    edit_json(renamed / "family.json", lambda manifest: manifest.update(name="other"))
    gone = copy_family(family_folder, tmp_path / "gone")
    (gone / UNET).unlink()
    for name, word in (
        (lesser, "'small'"),
        (renamed, "'other'"),
        ("scenes", "'scenes'"),
        (None, "--family"),
    ):
        with pytest.raises(Incompatible, match=word) as caught:
            replay(path, name and str(name))
        assert caught.value.exit_code == 4
    with pytest.raises(Incompatible, match="'small'"):
        replay(path, load_family(str(family_folder), ["large"]))
    with pytest.raises(WeightsError, match=UNET):
        replay(path, str(gone))


def test_the_family_of_a_file_is_never_taken_for_a_folder(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    """The file's author may not choose what is loaded here."""
    picture, made = drawn(family)
    path = replace(made.task.plan, family=str(family_folder)[:64])
    made = replace(made, task=replace(made.task, plan=path))
    with pytest.raises(Incompatible, match="--family"):
        replay(saved(tmp_path / "a.png", picture, made))


def test_a_difference_is_measured_per_pixel() -> None:
    one = np.zeros((10, 10, 3), np.uint8)
    other = one.copy()
    other[0, 0] = (255, 1, 0)
    found = Difference.between(one, other)
    assert (found.levels, found.share) == (255, 0.01)
    assert found.psnr == pytest.approx(10 * np.log10(255**2 / ((255**2 + 1) / 300)))


def test_the_verdict_needs_both_limits(family: LoadedFamily) -> None:
    picture, made = drawn(family)
    within = Difference(TOLERANCE_LEVELS, TOLERANCE_SHARE, 50.0)
    for difference, verdict in (
        (within, "within tolerance"),
        (replace(within, levels=TOLERANCE_LEVELS + 1), "different"),
        (replace(within, share=TOLERANCE_SHARE * 1.01), "different"),
    ):
        found = Replay(Path("a.png"), made, picture, 1, difference, ("another processor",))
        assert found.verdict == verdict
        assert replace(found, reasons=()).verdict == "different"
