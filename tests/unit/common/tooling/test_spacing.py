"""Grids of noise levels found for the arms of a family."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baton.common.arm import Arm
from baton.common.errors import Incompatible, InvalidRequest
from baton.common.expansion import Terms, expand
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.local import begin, run_here
from baton.common.families.manifest import MANIFEST_NAME
from baton.common.families.spec import read_spec
from baton.common.plan import Guidance
from baton.common.request import Task
from baton.common.tooling.analysis import AnalyzeRequest
from baton.common.tooling.spacing import SpacingTerms, place_of, terms_of
from baton.common.tooling.spacing_found import Spacing, find_spacing
from tests.support.families import copy_family, edit_json
from tests.support.tasks import PROMPTS

RELAY = "edge/large*1>device/small*1"


def request(*arms: str, **changed: Any) -> AnalyzeRequest:
    asked = {"member": None, "sampler": None, "steps": None, "guidance": None, "prompts": None}
    asked |= {"count": 2, "seed": 3, "keys": None, "out": Path(), "arms": arms}
    return AnalyzeRequest(**(asked | changed))


def family_of(
    folder: Path, to: Path, change: Callable[[dict[str, Any]], object] = lambda _: None
) -> LoadedFamily:
    """The tiny family with a few default steps, and what else is changed in its manifest."""
    copy = copy_family(folder, to)
    edit_json(copy / MANIFEST_NAME, lambda manifest: manifest.update(default_steps=4))
    edit_json(copy / MANIFEST_NAME, change)
    return load_family(str(copy))


def scored(manifest: dict[str, Any]) -> None:
    """With a scorer and prompts, of pictures that they know."""
    manifest["sizes"]["default"] = 32
    manifest.update(scorer="scenes", prompts="scenes")


@pytest.fixture(scope="module")
def plain(family_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    return family_of(family_folder, tmp_path_factory.mktemp("plain") / "family")


@pytest.fixture(scope="module")
def terms(plain: LoadedFamily) -> SpacingTerms:
    return terms_of(plain.spec, request(RELAY))


@pytest.fixture(scope="module")
def found(plain: LoadedFamily, terms: SpacingTerms) -> Spacing:
    return find_spacing(plain, terms, lambda stage, done, total: None)


def test_without_a_scorer_grids_are_judged_by_where_many_steps_lead(found: Spacing) -> None:
    assert found.terms.objective == "distance"
    assert {len(trial.means) for trial in found.trail} == {1}
    (confirmed,) = found.confirmed
    assert confirmed.arm == RELAY
    assert confirmed.gains["plain"].mean == pytest.approx(
        confirmed.means["plain"] - confirmed.means["found"]
    )


def test_the_distance_is_to_the_first_member_s_latents_in_the_family_s_steps(
    plain: LoadedFamily, terms: SpacingTerms, found: Spacing
) -> None:
    sample, spec = terms.confirm, plain.spec
    aims, ends = [], []
    for index, prompt in enumerate(sample.prompts):
        for plan, latents in ((terms.reference, aims), (terms.plans[0], ends)):
            run = begin(plain, Task(prompt, "", plan, sample.seed + index, spec.default_size))
            run_here(plain, run, plan.steps)
            latents.append(run.x.numpy())
    assert terms.reference.steps == spec.default_steps
    distance = np.mean((np.array(aims) - np.array(ends)) ** 2)
    assert found.confirmed[0].means["plain"] == pytest.approx(distance, rel=1e-4)


def test_it_is_confirmed_on_other_prompts_and_other_noise(
    family_folder: Path, tmp_path: Path
) -> None:
    copy = copy_family(family_folder, tmp_path / "family")
    edit_json(copy / MANIFEST_NAME, scored)
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    for changed in ({}, {"count": 5}, {"prompts": file}, {"prompts": file, "count": 9}):
        for folder in (copy, family_folder):
            of = terms_of(read_spec(folder), request(RELAY, **changed))
            assert not set(of.search.prompts) & set(of.confirm.prompts)
            assert len(of.confirm.prompts) > len(of.search.prompts)
            assert of.search.seed + len(of.search.prompts) <= of.confirm.seed


def test_with_a_scorer_grids_are_judged_by_it(family_folder: Path, tmp_path: Path) -> None:
    family = family_of(family_folder, tmp_path / "family", scored)
    arms = ("device/small*2", RELAY)
    of = terms_of(family.spec, request(*arms))
    made = find_spacing(family, of, lambda stage, done, total: None)
    assert (of.objective, [one.arm for one in made.confirmed]) == ("score", list(arms))
    told = made.describe()
    assert set(told["trail"][0]["means"]) == {"score", "distance"}
    assert all(0 <= one["means"]["found"] <= 1 for one in told["confirmed"])


def test_prompts_beyond_the_scorer_are_judged_by_distance(
    family_folder: Path, tmp_path: Path
) -> None:
    copy, file = copy_family(family_folder, tmp_path / "family"), tmp_path / "prompts.txt"
    edit_json(copy / MANIFEST_NAME, scored)
    file.write_text("a red cat\nan oil painting of a mountain lake")
    assert terms_of(read_spec(copy), request(RELAY, prompts=file)).objective == "distance"


def test_the_grid_can_be_named_by_the_family_and_drawn_with(
    found: Spacing, family_folder: Path, tmp_path: Path
) -> None:
    entry = json.loads(json.dumps(found.describe()["grid"]))
    named = family_of(
        family_folder, tmp_path / "family", lambda manifest: manifest.update(grids=[entry])
    )
    spec = named.spec
    known = Terms(spec.name, "ddim", 9, Guidance(3.0), named=spec.named_grids)
    plan = expand(Arm.parse(RELAY), known)
    assert plan.grids[0].name == "spaced-2"
    assert named.course(plan).ratios[1:] == pytest.approx(found.levels)
    run = begin(named, Task(PROMPTS[0], "", plan, 0, spec.default_size))
    run_here(named, run, plan.steps)
    assert np.isfinite(run.x.numpy()).all()


def test_a_grid_that_the_family_names_is_tried_and_compared_with(
    plain: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    grid = asdict(plain.level_grid("old", "ddim", (3.33,)))
    named = family_of(
        family_folder, tmp_path / "family", lambda manifest: manifest.update(grids=[grid])
    )
    made = find_spacing(named, terms_of(named.spec, request(RELAY)), lambda *step: None)
    assert (3.33,) in {trial.levels for trial in made.trail}
    assert set(made.confirmed[0].means) == {"found", "start", "named", "plain"}


def test_the_same_request_finds_the_same_and_progress_ends_at_its_total(
    plain: LoadedFamily,
) -> None:
    told = list[tuple[str, int, int]]()
    of = terms_of(plain.spec, request("device/small*2"))
    made = find_spacing(plain, of, lambda *step: told.append(step))
    assert made.describe() == find_spacing(plain, of, lambda *step: None).describe()
    stages = {stage for stage, _, _ in told}
    assert {"reference", "coarse", "sweep 1", "confirmation"} <= stages
    assert all(one[1] < two[1] for one, two in pairwise(told))
    assert all(done <= total for _, done, total in told)
    assert told[-1][1] == told[-1][2]
    assert max(total for _, _, total in told) == told[0][2]


def test_members_run_at_levels_that_they_know(family_folder: Path, tmp_path: Path) -> None:
    family = family_of(
        family_folder,
        tmp_path / "family",
        lambda manifest: manifest["members"]["small"].update(levels=[0.1, 1.6]),
    )
    of = terms_of(family.spec, request(RELAY))
    assert of.ranges == ((0.0, float("inf")), (0.1, 1.6))
    made = find_spacing(family, of, lambda stage, done, total: None)
    for trial in made.trail:
        assert all(0.1 <= level <= 1.6 for level in trial.levels[1:])
    with pytest.raises(Incompatible, match="levels that it knows"):
        find_spacing(family, terms_of(family.spec, request("device/small*2")), lambda *step: None)


def test_what_is_written_holds_the_trail_and_no_prompt(
    found: Spacing, terms: SpacingTerms, tmp_path: Path
) -> None:
    told = found.write(place_of(tmp_path, terms))
    text = Path(told["path"]).read_text()
    assert Path(told["path"]).name == "spacing-tiny-ddim-2.json"
    assert json.loads(text) == told
    assert len(told["trail"]) == len(found.trail)
    assert (told["levels"], told["start"]) == (list(found.levels), list(found.start))
    assert not any(prompt in text for prompt in (*terms.search.prompts, *terms.confirm.prompts))


WRONG: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "an arm without steps": (("device/small",), {}, "leaves its steps open"),
    "one step": ((), {"steps": 1}, "no level to search"),
    "an arm of one step": (("device/small*1",), {}, "no level to search"),
    "too many steps": ((), {"steps": 201}, "200"),
    "no arm": (("magic",), {}, "magic"),
    "an unknown member": (("device/giant*3",), {}, "giant"),
    "a cut of its own": (("edge/large*2@s1>device/small*2",), {}, "leave the cuts out"),
    "arms of different steps": (("device/small*3", "device/small*4"), {}, "equally many"),
    "an arm and a member": ((RELAY,), {"member": "small"}, "--member"),
    "an arm and steps": ((RELAY,), {"steps": 2}, "--steps"),
    "keys": ((), {"keys": 3}, "--keys"),
    "a tolerance": ((), {"tolerance": 0.1}, "--tolerance"),
    "no pictures": ((), {"count": 0}, "pictures"),
    "too many pictures": ((), {"count": 801}, "800"),
    "an unknown sampler": ((), {"sampler": "magic"}, "magic"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_can_never_be_searched_is_refused(what: str, family: LoadedFamily) -> None:
    arms, changed, word = WRONG[what]
    with pytest.raises(InvalidRequest, match=word):
        terms_of(family.spec, request(*arms, **changed))


def test_one_prompt_cannot_be_confirmed(family: LoadedFamily, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a red cat\na red cat")
    with pytest.raises(InvalidRequest, match="other prompts"):
        terms_of(family.spec, request(RELAY, prompts=tmp_path / "one.txt"))
