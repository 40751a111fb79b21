"""The accelerations' benchmark as Markdown: goals with what was measured, then every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tests.bench.accel_results import Result
from tests.bench.ratios import GRADED_MARGIN

_TITLES = {
    "headline": "What is claimed, and fewer steps beside it",
    "selection": "Everything",
    "ablation": "Masks trained otherwise",
}
_COLUMNS = (
    "",
    "steps",
    "GMACs",
    "s",
    "times diffusers",
    "s for 8",
    "times diffusers",
    "graded",
    "minus plain",
    "strict",
)


def markdown(rows: Sequence[Result], relays: Sequence[Result], ratios: Result) -> str:
    """The whole page; rows of every member and set of prompts."""
    parts = ["# Accelerations against diffusers on the same weights", _ABOUT, *_goals(rows, ratios)]
    parts += _equal_time(ratios["at_equal_time"])
    for prompts, title in _TITLES.items():
        for member in dict.fromkeys(row["member"] for row in rows):
            chosen = [r for r in rows if (r["member"], r["prompts"]) == (member, prompts)]
            if chosen:
                parts += [f"## {title}: {member}", _table(_COLUMNS, map(_cells, chosen))]
    names = ("", "s", "times diffusers' large", "graded", "minus plain large", "strict")
    told = ([r["name"], _seconds(r), _speed(r), *_scores(r)] for r in relays)
    parts += ["## Relays, both sides accelerated, over a gRPC loopback", _table(names, told)]
    return "\n\n".join(parts) + "\n"


_ABOUT = (
    "Written by `make bench-accel`; [accel.json](accel.json) has every figure,"
    " [accel.png](accel.png) the plot. Times are medians of one interleaved run, speeds medians of"
    " ratios within its rounds. Intervals are 95% bootstrap; differences are paired on prompts and"
    " seeds."
)


def _goals(rows: Sequence[Result], ratios: Result) -> Iterator[str]:
    claimed = [row for row in rows if row["prompts"] == "headline" and row["kind"] == "claimed"]
    worst = min(claimed, key=lambda row: float(row["graded_minus_reference_low"]))
    parallel = ratios["propagate_parallel"] / ratios["propagate_serial"]
    equal = [
        (told["minus_fewer_steps"]["mean"], f"{member} {name}")
        for member, of in ratios["at_equal_time"].items()
        for name, told in of.items()
        if "minus_fewer_steps" in told
    ]
    gain, best = max(equal, default=(float("nan"), "nothing"))
    lines = [
        ("serial propagation, share of its ceiling", 0.9, ratios["propagate_serial_of_ceiling"]),
        ("parallel over serial propagation, batch 1", 1.0, parallel),
        ("masks over diffusers", 1.5, ratios["masks"]),
        ("full over diffusers", 2.0, ratios["full"]),
        ("relay, both sides accelerated, over diffusers' large", 3.5, ratios["relay_full"]),
        (
            f"worst end of an interval of graded minus plain: {worst['member']} {worst['name']}",
            -GRADED_MARGIN,
            worst["graded_minus_reference_low"],
        ),
        (f"graded minus fewer steps' at equal time, best: {best}", 0.0, gain),
    ]
    yield "## Goals"
    yield _table(("", "goal", "measured", ""), (_goal(*line) for line in lines))


def _goal(name: str, goal: float, measured: float | None) -> list[str]:
    if measured is None:
        return [name, f"{goal:g}", "none within the margin", "missed"]
    missed = "" if measured >= goal else f"missed by {goal - measured:.3g}"
    return [name, f"{goal:g}", f"{measured:.3f}", missed]


def _equal_time(equal: Mapping[str, Mapping[str, Result]]) -> Iterator[str]:
    yield "## At equal time: acceleration, and the best run of fewer steps that takes no longer"
    names = ("", "s", "graded", "fewer steps", "s", "graded", "difference")
    yield _table(
        names, (_equal(member, *item) for member, of in equal.items() for item in of.items())
    )


def _equal(member: str, name: str, told: Result) -> list[str]:
    cells = [f"{member} {name}", _seconds(told), f"{told['graded']:.3f}"]
    fewer = told["fewer_steps"]
    if fewer is None:
        return [*cells, "none is as fast", "", "", ""]
    difference = told["minus_fewer_steps"]
    cells += [fewer["name"], _seconds(fewer), f"{fewer['graded']:.3f}"]
    return [*cells, f"{difference['mean']:+.3f} {_interval(difference, '{}')}"]


def _cells(row: Result) -> list[str]:
    told = [row["name"], str(row["steps"]), f"{row['macs'] / 1e9:.2f}", _seconds(row), _speed(row)]
    told += [f"{row['seconds_8']:.3f}", f"{row['speedup_8']:.2f}"]
    return told + _scores(row)


def _scores(row: Result) -> list[str]:
    low, high = row["ci95"]
    loss = f"{row['graded_minus_reference']:+.3f}"
    return [
        f"{row['graded']:.3f} [{low:.3f}, {high:.3f}] n={row['n']}",
        f"{loss} {_interval(row, 'graded_minus_reference_{}')}",
        f"{row['strict']:.3f}",
    ]


def _interval(told: Mapping[str, float], key: str) -> str:
    return f"[{told[key.format('low')]:+.3f}, {told[key.format('high')]:+.3f}]"


def _seconds(row: Result) -> str:
    return f"{row['seconds']:.3f}"


def _speed(row: Result) -> str:
    return f"{row['speedup']:.2f}"


def _table(names: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = [list(names), ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
