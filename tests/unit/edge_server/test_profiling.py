"""Measuring rounds with the runner that serves them."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
import torch

from baton.common.families.loaded import LoadedFamily
from baton.common.size import Size
from baton.edge_server.engine.latency import Pace
from baton.edge_server.profile_report import age, serving_line
from baton.edge_server.profiled import profile_for, with_rows
from baton.edge_server.profiling import Effort, cells_of, conditions_of, measured, seeds
from baton.edge_server.scheduling.profile import Profile
from baton.edge_server.scheduling.profile_file import REMEDY, Profiles
from baton.edge_server.settings import EdgeSettings
from tests.support.engines import Counter, WatchedFamily
from tests.support.families import SIZE
from tests.support.profiles import profile

FULL = Effort(rows=(1, 2, 3), decodes=(1, 2), repeats=1)
SMALL = [("small", Size.of(32))]


def test_calls_alone_are_measured_at_the_rows_that_are_asked_for(family: LoadedFamily) -> None:
    counter = Counter()
    effort = Effort(rows=(1, 2, 5), decodes=(), repeats=2)
    conditions = conditions_of(family, 1)
    found = measured(WatchedFamily(family, counter), conditions, effort, SMALL)
    assert counter.rows == [1, 2, 5] * 3
    (of,) = found.members
    assert [call.rows for call in of.calls] == [1, 2, 5]
    assert (of.member, of.size) == SMALL[0]
    assert (found.quick, of.beside) == (True, ())
    assert found.conditions.members == {"small": family.member_fingerprints["small"]}


def test_calls_beside_chunks_are_measured_on_one_lane_and_on_two(family: LoadedFamily) -> None:
    cells: list[None] = []
    found = measured(
        family, conditions_of(family, 1), FULL, SMALL, on_cell=lambda: cells.append(None)
    )
    assert len(cells) == cells_of(family, FULL, SMALL)
    (of,), (decoder,) = found.members, found.decoders
    assert {(one.lanes, one.decodes, one.rows, one.chunks) for one in of.beside} == set(
        product((1, 2), (1, 2), (1, 3), (1, 2, 4, 8, len(decoder.pieces)))
    )
    assert len(decoder.pieces) == len(family.models.decoder())
    assert [one.decodes for one in decoder.together] == [1, 2]
    assert not found.quick
    table = found.latencies("small", Size.of(32), 3, 2)
    assert table is not None
    assert table.unet(1, 2, 0) is not None


def test_out_of_time_what_every_profile_holds_is_measured_once(family: LoadedFamily) -> None:
    counter = Counter()
    effort = Effort(rows=(1, 4), repeats=50, seconds=0.0)
    conditions = conditions_of(family, 1)
    found = measured(WatchedFamily(family, counter), conditions, effort, SMALL)
    assert counter.rows == [1, 4] * 2
    assert found.members[0].beside == ()


def test_calls_whose_activations_have_no_room_are_not_measured(family: LoadedFamily) -> None:
    room = 3 * family.row_bytes("small", Size.of(32))
    effort = Effort(rows=(1, 2, 3, 4), decodes=(), repeats=1, activation_bytes=room)
    found = measured(family, conditions_of(family, 1), effort, SMALL)
    assert [call.rows for call in found.members[0].calls] == [1, 2, 3]


def test_the_conditions_are_those_of_this_process(family: LoadedFamily) -> None:
    here = conditions_of(family, 3)
    assert (here.device, here.dtype, here.threads) == ("cpu", "float32", 3)
    assert (here.family, here.fingerprint) == (family.name, family.fingerprint)
    assert here.members == family.member_fingerprints


def test_latency_models_begin_with_what_was_measured() -> None:
    size = Size.of(64)
    models = seeds(profile())
    assert set(models) == {Pace("large", size), Pace.decoding(size)}
    for rows in (1, 3, 8):
        expected = pytest.approx(0.01 + 0.005 * rows)
        assert models[Pace("large", size)].round_seconds(rows) == expected
    decoding = models[Pace.decoding(size)]
    assert (decoding.load, decoding.round_seconds(2)) == (2, pytest.approx(0.12))


def settings(folder: Path, **more: object) -> EdgeSettings:
    return EdgeSettings.model_validate({"state_folder": folder, "node_id": "edge-test", **more})


def kept(folder: Path, of: LoadedFamily, **changed: object) -> Profile:
    """A made-up profile in the state folder, measured under these conditions but for changes."""
    here = conditions_of(of, 1)
    there = here.model_copy(update={"members": {"large": here.members["large"]}, **changed})
    made = profile(conditions=there)
    Profiles(folder / "profiles").save(made)
    return made


def test_without_a_profile_a_quick_one_stands_in_and_a_line_says_so(
    family: LoadedFamily, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = profile_for(settings(tmp_path), family)
    assert found is not None
    assert found.quick
    assert {of.member for of in found.members} == set(family.members)
    assert found.round_seconds("large", Size.of(SIZE), 16) is not None
    (line,) = caplog.messages
    assert line == f"there is no profile of tiny on this machine; {REMEDY}; a quick one stands in"


def test_a_profile_that_fits_is_taken_and_what_it_lacks_is_told(
    family: LoadedFamily, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = kept(tmp_path, family)
    assert profile_for(settings(tmp_path), family) == made
    assert caplog.messages == [f"the profile lacks small; {REMEDY}"]


def test_a_stale_profile_is_refused_in_a_line_that_says_what_differs(
    family: LoadedFamily, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path, family, device="cuda:0")
    found = profile_for(settings(tmp_path), family)
    assert found is not None
    assert found.quick
    (line,) = caplog.messages
    assert "stale (device cuda:0 then, cpu here)" in line
    assert line.endswith(f"{REMEDY}; a quick one stands in")


def test_a_damaged_profile_is_refused_in_a_line(
    family: LoadedFamily, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path, family)
    (path,) = (tmp_path / "profiles").iterdir()
    path.write_text("{")
    found = profile_for(settings(tmp_path), family)
    assert found is not None
    assert found.quick
    (line,) = caplog.messages
    assert str(path) in line
    assert "damaged" in line


def test_where_the_settings_want_none_nothing_is_measured(
    family: LoadedFamily, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    counter = Counter()
    assert profile_for(settings(tmp_path, profile="off"), WatchedFamily(family, counter)) is None
    assert counter.calls == 0
    assert len(caplog.messages) == 1


def test_measuring_leaves_the_process_its_threads(family: LoadedFamily, tmp_path: Path) -> None:
    """Others of the process may take another number than the model, here one more."""
    torch.set_num_threads(2)
    try:
        found = profile_for(settings(tmp_path, threads=1), family)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(1)
    assert found is not None
    assert found.conditions.threads == 1


def test_rows_are_those_of_the_plateau_where_nobody_says(tmp_path: Path) -> None:
    auto = settings(tmp_path, max_rows="auto")
    assert with_rows(auto, profile()).max_rows == 8
    assert with_rows(auto, None).max_rows == 16
    assert with_rows(settings(tmp_path, max_rows=4), profile()).max_rows == 4


@pytest.mark.parametrize(("told", "rows"), [("auto", "auto"), ("24", 24), (2, 2), (512, 512)])
def test_rows_are_a_number_or_left_to_the_measurement(told: object, rows: object) -> None:
    assert EdgeSettings.model_validate({"max_rows": told}).max_rows == rows


@pytest.mark.parametrize("told", [1, 513, "many", "", None, 2.5, True])
def test_other_rows_are_refused(told: object) -> None:
    with pytest.raises(ValueError, match="2 to 512, or auto"):
        EdgeSettings.model_validate({"max_rows": told})


def test_a_line_says_how_rounds_are_run() -> None:
    size = Size.of(64)
    assert serving_line(16, size, None) == "up to 16 rows a call, no profile"
    made = profile(measured=0.0)
    line = serving_line(8, size, made, skip_after=0.6)
    assert line.startswith("up to 8 rows a call, decodes in 2 chunks, profile of ")
    assert line.endswith(" ago, guidance skipped from 60% of the steps on as the queue grows")
    assert "quick profile" in serving_line(8, size, profile(quick=True))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, "0 seconds"),
        (1.0, "1 second"),
        (119.0, "1 minute"),
        (7300.0, "2 hours"),
        (9e5, "10 days"),
    ],
)
def test_an_age_is_told_in_its_greatest_unit(seconds: float, told: str) -> None:
    assert age(seconds) == told
