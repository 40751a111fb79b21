"""How far members' predictions part, and the cuts that follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from baton.common.errors import InvalidRequest
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.local import begin, run_here
from baton.common.families.manifest import MANIFEST_NAME
from baton.common.limits import SAMPLERS, SamplerName
from baton.common.request import Task
from baton.common.tooling.analysis import AnalyzeRequest
from baton.common.tooling.divergence import Cuts, place_of, propose_cuts, terms_of
from baton.common.tooling.diverging import Divergence, diverged
from tests.support.families import copy_family, edit_json
from tests.support.tasks import plan

STEPS = 4


def request(**changed: Any) -> AnalyzeRequest:
    asked = {"member": None, "sampler": "ddim", "steps": STEPS, "guidance": None, "prompts": None}
    asked |= {"count": 3, "seed": 3, "keys": None, "out": Path(), "tolerance": None}
    return AnalyzeRequest(**(asked | changed))


def measured(family: LoadedFamily, **changed: Any) -> Divergence:
    return diverged(family, terms_of(family.spec, request(**changed)), lambda pictures: None)


def family_with(folder: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> LoadedFamily:
    copy = copy_family(folder, to)
    edit_json(copy / MANIFEST_NAME, lambda manifest: change(manifest["members"]))
    return load_family(str(copy))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_member_does_not_part_from_its_twin(
    sampler: SamplerName, family_folder: Path, tmp_path: Path
) -> None:
    twins = family_with(
        family_folder,
        tmp_path / "family",
        lambda members: members.update(twin=dict(members["large"])),
    )
    made = measured(twins, sampler=sampler)
    names = [one.name for one in made.terms.contenders]
    assert names == [
        *("large, one branch", "small", "small, one branch"),
        *("twin", "twin, one branch"),
    ]
    rows = dict(zip(names, made.distances, strict=True))
    assert (rows["twin"] == 0.0).all()
    np.testing.assert_array_equal(rows["twin, one branch"], rows["large, one branch"])
    for name in ("small", "small, one branch", "large, one branch"):
        assert (rows[name] > 0.0).all()


def test_a_prediction_is_where_one_step_to_no_noise_leads(family: LoadedFamily) -> None:
    """At the first level, where all states are alike, one whole step of DDIM is the same."""
    made = measured(family)
    ends = []
    for member in ("large", "small"):
        found = []
        for index, prompt in enumerate(made.terms.prompts):
            of = plan(f"device/{member}", 1)
            run = begin(family, Task(prompt, "", of, 3 + index, family.spec.default_size))
            run_here(family, run, 1)
            found.append(run.x.numpy().ravel())
        ends.append(np.array(found))
    away = np.linalg.norm(ends[1] - ends[0], axis=1) / np.linalg.norm(ends[0], axis=1)
    (small,) = [i for i, one in enumerate(made.terms.contenders) if one.name == "small"]
    assert made.distances[small, 0] == pytest.approx(away.mean(), rel=0.02)


def test_members_are_compared_at_levels_that_they_know(
    family_folder: Path, tmp_path: Path, family: LoadedFamily
) -> None:
    def limited(members: dict[str, Any]) -> None:
        members["small"].update(levels=[0.5, 4.0], guidance="none")

    made = measured(family_with(family_folder, tmp_path / "family", limited))
    known = [0.5 <= level <= 4.0 for level in made.levels]
    assert 0 < sum(known) < STEPS
    assert [one.name for one in made.terms.contenders] == ["large, one branch", "small"]
    small = made.distances[1]
    assert [not np.isnan(value) for value in small] == known
    names = [one.name for one in terms_of(family.spec, request()).contenders]
    alone = measured(family).distances[names.index("small, one branch")]
    np.testing.assert_allclose(small[known], alone[known], rtol=1e-6)
    assert made.cuts[1].begins is None


def test_any_member_is_the_reference_and_guidance_may_be_off(family: LoadedFamily) -> None:
    made = measured(family, member="small", guidance=1.0)
    assert made.terms.reference == "small"
    assert [one.name for one in made.terms.contenders] == ["large"]


def test_what_was_measured_does_not_depend_on_how_pictures_are_batched(
    family: LoadedFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(family)
    monkeypatch.setattr("baton.common.tooling.drawing.BATCH", 2)
    np.testing.assert_allclose(measured(family).distances, whole.distances, rtol=1e-5)


def test_it_is_written_with_a_plot_and_without_prompts(
    family: LoadedFamily, tmp_path: Path
) -> None:
    made = measured(family, tolerance=0.5)
    told = made.write(place_of(tmp_path, made.terms))
    text = Path(told["path"]).read_text()
    assert Path(told["path"]).name == f"divergence-tiny-large-ddim-{STEPS}.json"
    assert json.loads(text) == told
    assert told["levels"] == pytest.approx(made.levels, rel=1e-3)
    assert [len(member["distances"]) for member in told["members"]] == [STEPS] * 3
    assert not any(prompt in text for prompt in made.terms.prompts)
    with Image.open(told["plot"]) as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_a_cut_lies_where_the_distance_crosses_the_tolerance() -> None:
    levels = (16.0, 4.0, 1.0, 0.25)
    assert propose_cuts(levels, (0.1, 0.3, 0.3, 0.1), 0.2) == Cuts(
        takes_over=pytest.approx(0.5), begins=pytest.approx(8.0)
    )


@pytest.mark.parametrize(
    ("distances", "cuts"),
    [
        ((0.3, 0.3, 0.3), Cuts(None, None)),
        ((0.1, 0.1, 0.1), Cuts(4.0, 1.0)),
        ((0.3, 0.1, 0.3), Cuts(None, None)),
        ((None, 0.1, 0.1), Cuts(2.0, None)),
        ((0.1, 0.1, None), Cuts(4.0, 2.0)),
        ((None, None, None), Cuts(None, None)),
    ],
)
def test_without_a_crossing_a_cut_is_at_the_end_or_nowhere(
    distances: tuple[float | None, ...], cuts: Cuts
) -> None:
    assert propose_cuts((4.0, 2.0, 1.0), distances, 0.2) == cuts


def test_a_level_without_any_signal_is_no_place_to_cut_at() -> None:
    cuts = propose_cuts((float("inf"), 2.0), (0.1, 0.3), 0.2)
    assert cuts == Cuts(takes_over=None, begins=2.0)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown member": ({"member": "giant"}, "giant"),
    "one step": ({"steps": 1}, "at least 2 steps"),
    "too many steps": ({"steps": 201}, "200"),
    "keys": ({"keys": 3}, "--keys"),
    "an arm": ({"arms": ("device/small*3",)}, "--arm"),
    "no tolerance": ({"tolerance": 0.0}, "above 0"),
    "a tolerance that is no number": ({"tolerance": float("nan")}, "tolerance"),
    "an unknown sampler": ({"sampler": "magic"}, "magic"),
    "no pictures": ({"count": 0}, "prompts"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_can_never_be_measured_is_refused(what: str, family: LoadedFamily) -> None:
    changed, word = WRONG[what]
    with pytest.raises(InvalidRequest, match=word):
        terms_of(family.spec, request(**changed))


def test_a_member_of_few_levels_is_no_reference(family_folder: Path, tmp_path: Path) -> None:
    limited = family_with(
        family_folder,
        tmp_path / "family",
        lambda members: members["small"].update(levels=[0.5, 4.0]),
    )
    with pytest.raises(InvalidRequest, match=r"noise levels from 0\.5 to 4"):
        terms_of(limited.spec, request(member="small"))


def test_a_family_of_one_unguided_member_has_nothing_to_compare(
    family_folder: Path, tmp_path: Path
) -> None:
    lone = family_with(family_folder, tmp_path / "family", lambda members: members.pop("small"))
    with pytest.raises(InvalidRequest, match="no other member"):
        terms_of(lone.spec, request(guidance=1.0))
