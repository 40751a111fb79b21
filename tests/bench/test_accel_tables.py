"""The accelerations' benchmark as Markdown."""

from __future__ import annotations

from typing import Any

from tests.bench.accel_tables import markdown

LARGE: dict[str, Any] = {
    "member": "large",
    "kind": "claimed",
    "prompts": "headline",
    "steps": 50,
    "macs": 2e9,
    "seconds": 0.5,
    "seconds_8": 4.0,
    "speedup": 2.0,
    "speedup_8": 1.5,
    "graded": 0.9,
    "strict": 0.8,
    "n": 10,
    "ci95": [0.85, 0.95],
    "graded_minus_reference": -0.01,
    "graded_minus_reference_low": -0.02,
    "graded_minus_reference_high": 0.0,
}
RATIOS: dict[str, Any] = {
    "propagate_serial": 2.0,
    "propagate_parallel": 3.0,
    "masks": 1.25,
    "full": 3.0,
    "relay_full": None,
    "propagate_serial_of_ceiling": 0.95,
    "at_equal_time": {
        "large": {
            "masks": {
                "seconds": 0.5,
                "graded": 0.9,
                "fewer_steps": {"name": "ddim-10", "seconds": 0.4, "graded": 0.91},
                "minus_fewer_steps": {"mean": -0.01, "low": -0.03, "high": 0.01},
            },
            "full": {"seconds": 0.1, "graded": 0.9, "fewer_steps": None},
        }
    },
}


def line(page: str, start: str) -> list[str]:
    (found,) = (text for text in page.splitlines() if text.startswith(f"| {start}"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def page() -> str:
    full = LARGE | {"name": "full", "graded_minus_reference_low": -0.04}
    relay = LARGE | {"name": "small>large@0.5, masks", "kind": "relay"}
    return markdown([LARGE | {"name": "masks"}, full], [relay], RATIOS)


def test_a_missed_goal_says_by_how_much() -> None:
    told = page()
    assert line(told, "masks over diffusers")[1:] == ["1.5", "1.250", "missed by 0.25"]
    assert line(told, "full over diffusers")[1:] == ["2", "3.000", ""]
    assert line(told, "relay, both sides")[2:] == ["none within the margin", "missed"]


def test_the_worst_interval_and_the_best_at_equal_time_are_named() -> None:
    told = page()
    assert line(told, "worst end")[0].endswith("large full")
    assert line(told, "worst end")[3] == "missed by 0.01"
    assert line(told, "graded minus fewer steps")[0].endswith("large masks")
    assert line(told, "large full")[3] == "none is as fast"


def test_every_row_has_as_many_cells_as_its_table() -> None:
    widths = [text.count("|") for text in page().splitlines()]
    tables: list[set[int]] = [set()]
    for width in widths:
        if width:
            tables[-1].add(width)
        else:
            tables.append(set())
    assert all(len(found) <= 1 for found in tables)
    assert line(page(), "small>large@0.5, masks")[1:3] == ["0.500", "2.00"]
