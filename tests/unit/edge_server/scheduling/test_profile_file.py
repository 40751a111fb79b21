"""Profiles on disk: found under the conditions of their measurement, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.common.errors import Incompatible, InvalidRequest
from baton.edge_server.scheduling.profile import Beside, Conditions
from baton.edge_server.scheduling.profile_file import REMEDY, Profiles, read_profile
from tests.support.families import edit_json
from tests.support.profiles import CONDITIONS, SIZE, member, profile

BESIDE = Beside(lanes=2, rows=8, chunks=1, decodes=1, alone=0.05, unet=0.06, vae=0.1)
PROFILE = profile([member(beside=[BESIDE]), member("small")])


def saved(folder: Path) -> Path:
    path, _ = Profiles(folder).save(PROFILE)
    assert path is not None
    return path


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_profile(saved(tmp_path)) == PROFILE
    assert Profiles(tmp_path).find(CONDITIONS) == PROFILE


def test_without_a_folder_or_a_file_there_is_none(tmp_path: Path) -> None:
    assert Profiles(tmp_path / "none").find(CONDITIONS) is None
    assert Profiles(None).find(CONDITIONS) is None
    assert Profiles(None).save(PROFILE) == (None, PROFILE)


#: What is different here, and the words that tell so.
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "device": ({"device": "cuda:0"}, "device cpu then, cuda:0 here"),
    "dtype": ({"dtype": "bfloat16"}, "dtype float32 then, bfloat16 here"),
    "threads": ({"threads": 2}, "threads 1 then, 2 here"),
    "fingerprint": ({"fingerprint": "0" * 32}, "fingerprint fff"),
    "weights": ({"members": {"large": "0" * 32}}, "other weights of large here"),
} | {
    name: (
        {"build": replace(CONDITIONS.build, **{name: "another"})},
        f"{name} {getattr(CONDITIONS.build, name)} then, another here",
    )
    for name in vars(CONDITIONS.build)
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_profile_of_other_conditions_is_stale_and_says_what_differs(
    what: str, tmp_path: Path
) -> None:
    saved(tmp_path)
    changed, words = CHANGES[what]
    with pytest.raises(Incompatible) as caught:
        Profiles(tmp_path).find(CONDITIONS.model_copy(update=changed))
    told = str(caught.value)
    assert words in told
    assert REMEDY in told
    assert "\n" not in told


def test_another_familys_profile_is_none_of_this_one(tmp_path: Path) -> None:
    saved(tmp_path)
    assert Profiles(tmp_path).find(CONDITIONS.model_copy(update={"family": "other"})) is None


def test_an_edge_of_some_of_the_members_takes_the_profile(tmp_path: Path) -> None:
    saved(tmp_path)
    for names in (["small"], ["large", "third"]):
        held = {name: CONDITIONS.members.get(name, "c" * 32) for name in names}
        assert Profiles(tmp_path).find(CONDITIONS.model_copy(update={"members": held})) == PROFILE


def test_what_was_measured_before_under_the_same_conditions_is_kept(tmp_path: Path) -> None:
    saved(tmp_path)
    path, whole = Profiles(tmp_path).save(profile([member(calls={1: 1.0})]))
    assert path is not None
    assert read_profile(path) == whole
    assert whole.round_seconds("large", SIZE, 1) == 1.0
    assert whole.round_seconds("small", SIZE, 1) == pytest.approx(0.015)


def test_other_weights_leave_nothing_of_what_was_measured_before(tmp_path: Path) -> None:
    saved(tmp_path)
    retrained: Conditions = CONDITIONS.model_copy(update={"members": {"large": "0" * 32}})
    _, whole = Profiles(tmp_path).save(profile([member()], conditions=retrained))
    assert [of.member for of in whole.members] == ["large"]


def test_a_file_cut_short_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    refused(path, "is damaged")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.update(version=2), "is not of version 1"),
        (lambda told: told.pop("version"), "is not of version 1"),
        (lambda told: told.update(more=1), "more: Extra inputs"),
        (lambda told: told["members"].clear(), "members: Tuple should have at least 1"),
        (lambda told: told["members"][0]["calls"][0].update(rows="1"), "members.0.calls.0.rows"),
        (lambda told: told["members"][0]["calls"][0].update(seconds=1e999), "seconds"),
        (lambda told: told["members"][0]["beside"][0].update(lanes=3), "beside.0.lanes"),
        (lambda told: told["decoders"][0]["size"].update(width=-1), "decoders.0.size"),
        (lambda told: told["conditions"]["build"].pop("torch"), "conditions.build.torch"),
    ],
)
def test_a_file_with_anything_wrong_is_refused_as_a_whole(
    change: Any, words: str, tmp_path: Path
) -> None:
    path = saved(tmp_path)
    edit_json(path, change)
    refused(path, words)
    assert Profiles(tmp_path).save(PROFILE)[1] == PROFILE


def test_a_file_that_no_profile_can_be_is_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(b" " * (5 << 20))
    refused(path, "bytes")


def refused(path: Path, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Profiles(path.parent).find(CONDITIONS)
    told = str(caught.value)
    assert words in told
    assert REMEDY in told
    assert str(path) in told
    assert "\n" not in told
