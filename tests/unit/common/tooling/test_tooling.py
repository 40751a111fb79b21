"""What is measured and trained can be had without a command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baton.common.accel.mask_settings import Settings
from baton.common.accel.masks import load_mask
from baton.common.errors import InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.tooling import mask_request
from baton.common.tooling.analysis import AnalyzeRequest, place_of, terms_of
from baton.common.tooling.mask_request import MaskRequest
from baton.common.tooling.mask_training import train_mask
from baton.common.tooling.measuring import measured


def analyze_request(out: Path, **changed: object) -> AnalyzeRequest:
    asked = {"member": "small", "sampler": "ddim", "steps": 4, "guidance": None, "prompts": None}
    asked |= {"count": 5, "seed": 3, "keys": 2, "out": out}
    return AnalyzeRequest(**(asked | changed))  # type: ignore[arg-type]


def test_an_analysis_calls_back_for_every_step_and_can_be_written(
    family: LoadedFamily, tmp_path: Path
) -> None:
    terms, calls = terms_of(family.spec, analyze_request(tmp_path)), list[None]()
    made = measured(family, terms, lambda: calls.append(None))
    assert len(calls) == terms.calls == 2 * 4  # five pictures are two batches
    assert (len(made.keys), made.fingerprint) == (2, family.member_fingerprints["small"])
    assert {stage.part for stage in made.stages} >= {"encoder", "decoder"}
    found = made.write(place_of(tmp_path, terms))
    assert json.loads(Path(found["path"]).read_text()) == found
    assert Path(found["plot"]).exists()


def test_what_can_never_be_measured_is_refused_before_anything_is_loaded(
    family: LoadedFamily, tmp_path: Path
) -> None:
    for changed in ({"member": "giant"}, {"steps": 1}, {"keys": 9}, {"count": 0}):
        with pytest.raises(InvalidRequest):
            terms_of(family.spec, analyze_request(tmp_path, **changed))


def test_a_mask_is_trained_stored_and_described(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mask.json"
    request = MaskRequest(str(family_folder), "small", "ddim", 4, 2, None, "blocks", out)
    settings = Settings(iterations=2)
    terms, heard = mask_request.terms_of(request, settings), list[int]()
    made = train_mask(family, request, terms, settings, lambda settled, _: heard.append(settled))
    assert heard == [1, 2, 3, 4]
    stored = load_mask(made.path)
    assert (made.path, stored.run) == (out, made.mask.run)
    assert made.describe()["speed"] == stored.settings["speed"] == round(made.speed, 4)
    assert list(tmp_path.glob("*.partial")) == []
