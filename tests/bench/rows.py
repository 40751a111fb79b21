"""From drawings and timings to the rows of ``bench/relay.json``.

Fields of a row, where they apply:

- ``prompts``: the set that it was drawn on, ``selection`` or ``headline``; ``n`` of them.
- ``graded``, ``strict`` with their intervals (`Score`), and ``*_minus_reference`` with its paired
  bootstrap interval: the difference to `large` alone at the full number of steps on the same
  prompts and seeds.
- ``seconds``: median over rounds at batch 1 over loopback; ``edge_seconds`` (as the device sees
  them) and ``device_seconds`` are its parts; ``bytes_sent``, ``bytes_received``: by the device.
- ``speedup``: median over rounds of the reference's seconds to this one's.
- ``handoff_steps``: steps before which the latent is handed over. For each of them, then a tenth of
  the steps later, then at the end: ``intensity_l2`` (mean ``||x||_2``), ``channel_variance``, and
  ``intensity_ratio``: mean over prompts of ``||x||_2`` to that of the unbroken run of the relay's
  first member. RISE's premise is that the ratio stays near 1 after the handoff.
- ``strata``: scores by the number of facts that a prompt states, and by task.
- ``alternative``: the best single member at fewer steps, its best sampler, within the same seconds;
  ``alternative_seconds``: the least in which one reaches the same graded score, interpolated
  (`seconds_to_reach`); null if none does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from baton.common.families.scenes.evaluate import Case
from baton.common.plan import OpenPlan
from tests.bench.configs import RELAYS, Config
from tests.bench.curves import Drawing, complexity
from tests.bench.ratios import (
    Loss,
    Point,
    best_within,
    paired_difference,
    paired_ratio,
    seconds_to_reach,
)
from tests.bench.timing import Timing, typical

_COMPLEXITY = {"1 or 2 facts": (1, 2), "3 facts": (3, 3), "4 facts or more": (4, 99)}


@dataclass(frozen=True)
class Measured:
    """Everything that was measured on one set of prompts; reference: `large` alone, all steps."""

    prompts: str
    cases: Sequence[Case]
    configs: Sequence[Config]
    drawings: Mapping[OpenPlan, Drawing]
    timings: Mapping[str, Sequence[Timing]]
    reference: Config

    def drawing(self, config: Config) -> Drawing:
        return self.drawings[config.plan]

    def loss(self, config: Config, confidence: float = 0.95) -> Loss:
        one, other = self.drawing(config), self.drawing(self.reference)
        return Loss(
            paired_difference(one.graded, other.graded, confidence),
            paired_difference(one.strict, other.strict, confidence),
        )

    def seconds(self, config: Config) -> float:
        return typical(self.timings[config.name]).total

    def totals(self, config: Config) -> list[float]:
        return [timing.total for timing in self.timings[config.name]]

    def points(self, of: Sequence[Config]) -> list[Point]:
        """Of those that were drawn and timed."""
        return [
            Point(config.name, self.seconds(config), float(self.drawing(config).graded.mean()))
            for config in of
            if config.name in self.timings and config.plan in self.drawings
        ]

    def alternatives(self) -> dict[str, list[Point]]:
        """Per member: itself at fewer steps, and at all of them."""
        alone = [c for c in self.configs if c.kind in ("alone", "fewer steps")]
        members = dict.fromkeys(config.members[0] for config in alone)
        return {
            member: self.points([config for config in alone if config.members[0] == member])
            for member in members
        }

    def seconds_of_alternative(self, graded: float) -> float | None:
        """The least seconds in which any single member reaches a score."""
        reached = [seconds_to_reach(points, graded) for points in self.alternatives().values()]
        return min((seconds for seconds in reached if seconds is not None), default=None)


def rows_of(measured: Measured) -> list[dict[str, Any]]:
    return [_row(measured, config) for config in measured.configs]


def _row(measured: Measured, config: Config) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": config.name,
        "kind": config.kind,
        "prompts": measured.prompts,
        "members": config.members,
        "steps": config.plan.steps,
        "sampler": config.sampler,
        "handoff_steps": config.cuts,
    }
    row |= measured.drawing(config).score().as_dict()
    row |= measured.loss(config).as_dict()
    if config.name in measured.timings:
        row |= _times(measured, config)
    if config.kind in RELAYS or config.kind == "foreign":
        row |= _latents(measured, config)
    if config.kind != "fewer steps":
        row["strata"] = _strata(measured, config)
    return row


def _times(measured: Measured, config: Config) -> dict[str, Any]:
    timing = typical(measured.timings[config.name])
    row: dict[str, Any] = {
        "seconds": timing.total,
        "edge_seconds": timing.edge,
        "device_seconds": timing.device,
        "bytes_sent": timing.sent,
        "bytes_received": timing.received,
        "rounds": len(measured.timings[config.name]),
        "speedup": paired_ratio(
            measured.totals(measured.reference), measured.totals(config)
        ).median,
    }
    if config.kind in RELAYS:
        points = [point for of in measured.alternatives().values() for point in of]
        best = best_within(points, timing.total)
        graded = float(measured.drawing(config).graded.mean())
        row["alternative"] = asdict(best) if best else None
        row["alternative_seconds"] = measured.seconds_of_alternative(graded)
    return row


def _latents(measured: Measured, config: Config) -> dict[str, Any]:
    steps = config.plan.steps
    drawing, unbroken = measured.drawing(config), _unbroken(measured, config)
    at = [*config.cuts, *(min(cut + max(1, steps // 10), steps) for cut in config.cuts), steps]
    row: dict[str, Any] = {
        "latent_steps": at,
        "intensity_l2": drawing.intensity[:, at].mean(axis=0),
        "channel_variance": drawing.variance[:, at].mean(axis=0),
    }
    if unbroken is not None:
        ratio = drawing.intensity[:, at] / unbroken.intensity[:, at]
        row["intensity_ratio"] = ratio.mean(axis=0)
        row["unbroken_channel_variance"] = unbroken.variance[:, at].mean(axis=0)
    return row


def _unbroken(measured: Measured, config: Config) -> Drawing | None:
    """The run of the relay's first member without a handoff."""
    for other in measured.configs:
        whole = other.kind in ("alone", "foreign") and other.plan.steps == config.plan.steps
        if whole and other.members == config.members[:1]:
            return measured.drawing(other)
    return None


def _strata(measured: Measured, config: Config) -> dict[str, Any]:
    drawing, facts = measured.drawing(config), np.array([complexity(c) for c in measured.cases])
    tasks = np.array([case.spec.task for case in measured.cases])
    chosen = {name: (facts >= low) & (facts <= high) for name, (low, high) in _COMPLEXITY.items()}
    chosen |= {task: tasks == task for task in sorted(set(tasks.tolist()))}
    return {name: _short(drawing, where) for name, where in chosen.items() if where.any()}


def _short(drawing: Drawing, where: Any) -> dict[str, Any]:
    score = drawing.score(where)
    return {"graded": score.graded, "strict": score.strict, "n": score.n, "ci95": score.ci95}
