"""What a benchmark leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.bench import report


def test_a_report_is_plain_json_with_five_digits(tmp_path: Path) -> None:
    path = report.write(
        "name",
        rows=[{"value": 1 / 3, "many": np.array([[1.23456789, 2.0]]), "ok": np.bool_(True)}],
        ratios={"speedup": 1234567.0, "unknown": float("nan"), "none": None, "count": 123456789},
        scores={"large": {"ci95": (0.0, 1.0)}},
        folder=tmp_path / "new",
    )
    assert path == tmp_path / "new" / "name.json"
    written = json.loads(path.read_text())
    assert list(written) == ["machine", "commit", "rows", "ratios", "scores"]
    assert written["rows"] == [{"value": 0.33333, "many": [[1.2346, 2.0]], "ok": True}]
    assert written["ratios"] == {
        "speedup": 1234600.0,
        "unknown": None,
        "none": None,
        "count": 123456789,
    }
    assert written["scores"] == {"large": {"ci95": [0.0, 1.0]}}
    assert written["machine"]["cpus"] >= 1
