"""The relay's benchmark in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.figures import DEFAULT, LOOPBACK

_WIDTH = 50
_LONG = ("losses", "arms_left_out")


def short_table(rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> str:
    """What went through the product over loopback, beside its score and its time in process."""
    scored = {row["name"]: row for row in rows if row.get("prompts") == "refined"}
    scored |= {row["name"]: row for row in rows if row.get("prompts") == "headline"}
    default = figures["default"]
    lines = [f"{'arm':<{_WIDTH}} graded  in process  product  edge s  trips"]
    for row in rows:
        if row.get("setting") != LOOPBACK:
            continue
        score = scored.get(default if row["name"] == DEFAULT else row["name"], {})
        lines.append(
            f"{row['name']:<{_WIDTH}} {score.get('graded', 0.0):6.3f}"
            f"  {score.get('seconds', 0.0):10.4f}  {row['total_seconds']:7.4f}"
            f"  {row['edge_seconds']:6.4f}  {row['round_trips']:5g}"
        )
    return "\n".join([*lines, "", *_told(figures)])


def _told(figures: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {_short(value)}" for name, value in figures.items() if name not in _LONG]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return f"{len(value)}: {', '.join(map(str, value[:4]))}"
    return str(value)
