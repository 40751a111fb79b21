"""The benchmark itself, as a toy, so that it cannot rot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.figures import DEFAULT, LOOPBACK
from tests.bench.product import Setting
from tests.bench.relay import Run, run
from tests.bench.stages import QUICK

TOY = replace(QUICK, count=1, refine=1, headline=2, settings=(Setting(LOOPBACK, 1),), most_steps=5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_toy_run_leaves_a_whole_report(tmp_path: Path, finishing_folder: Path) -> None:
    toy = Run(family=str(finishing_folder), size=TOY, folder=tmp_path, cache=tmp_path / "cache")
    assert run(replace(toy, scores_only=True)) is None
    path = run(replace(toy, times_only=True))
    assert path is not None
    written = json.loads(path.read_text())
    for plot in ("relay.png", "relay-edge.png", "relay-intensity.png"):
        assert (tmp_path / plot).stat().st_size > 10_000
    drawn = [row for row in written["rows"] if "setting" in row]
    assert DEFAULT in {row["name"] for row in drawn}
    for row in drawn:
        parts = ("deciding", "queue", "edge", "transfer", "device", "decode")
        told = sum(row[f"{part}_seconds"] for part in parts)
        assert row["total_seconds"] == pytest.approx(told, rel=0.05), row["name"]
    ratios = written["ratios"]
    (default,) = (row for row in drawn if row["name"] == DEFAULT)
    assert [ratios["default"].split()[0]] == default["arms_drawn"]
    assert {"relay_vs_fewer_steps", "edge_seconds_saved", "control_plane_ms"} <= {*ratios}
    assert ratios["nodes_draw_alike"]["pictures"] > 0
    assert {row["family"] for row in written["rows"] if "family" in row} == {"tiny"}
