"""The benchmark itself, as a toy, so that it cannot rot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import relay
from tests.bench.configs import RELAYS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_toy_run_leaves_a_whole_report(tmp_path: Path) -> None:
    path = relay.run(relay.QUICK, seed=1, folder=tmp_path, cache=tmp_path / "cache")
    written = json.loads(path.read_text())
    assert (tmp_path / "relay.png").stat().st_size > 10_000
    assert (tmp_path / "relay-intensity.png").stat().st_size > 10_000
    rows = {(row.get("prompts"), row["name"]): row for row in written["rows"]}
    assert len(rows) == len(written["rows"])
    kinds = {row["kind"] for row in rows.values()}
    assert kinds == {"alone", "fewer steps", "foreign", "platform overhead", *RELAYS}
    for (prompts, name), row in rows.items():
        if prompts == "headline" or row["kind"] in RELAYS:
            assert row["seconds"] == pytest.approx(
                row["edge_seconds"] + row["device_seconds"], rel=0.05
            ), name
        if row["kind"] in RELAYS:
            assert row["bytes_received"] > 500, name
            assert row["intensity_ratio"][0] == pytest.approx(1.0), name
    ratios = written["ratios"]
    assert {"relay_speedup", "relay_vs_fewer_steps", "platform_overhead"} <= set(ratios)
    assert (ratios["relay_speedup"] is None) == (not ratios["relay_confirmed_within_margins"])
    assert {"large 5", "medium 5", "small 5"} <= set(written["scores"])
