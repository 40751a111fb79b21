"""``baton-edge profile --guidance``: what pictures lose where a busy edge leaves guidance out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton.common.arm import Arm
from baton.common.cli import print_json, print_rows
from baton.common.errors import InvalidRequest
from baton.common.expansion import plan_of
from baton.common.families.prompts import sample_prompts
from baton.common.families.registry import find_scorer
from baton.common.families.spec import FamilySpec, read_spec
from baton.common.files import saving
from baton.common.plan import OpenPlan
from baton.common.progress import Bar
from baton.common.quiet import quiet_libraries
from baton.common.tooling.members import whole_member
from baton.edge_server.profile_report import COLOURS, check_plot
from baton.edge_server.settings import EdgeSettings

if TYPE_CHECKING:
    from baton.common.tooling.skipping import Skipped

_PROMPTS = 100
_SEED = 1_000_000  # no picture of a benchmark


@dataclass(frozen=True)
class GuidanceRequest:
    """None stands for the first member, a hundred prompts, the family's own steps."""

    member: str | None = None
    prompts: int | None = None
    steps: int | None = None
    plot: Path | None = None


def measure_guidance(settings: EdgeSettings, request: GuidanceRequest, as_json: bool) -> None:
    """Draw over the family's plain grid, in full and with each budget, and tell what that costs.

    Raises BatonError; for what can never work, before any model code is imported.
    """
    spec = read_spec(settings.family)
    member = _guided(spec, request.member)
    steps = spec.default_steps if request.steps is None else request.steps
    own = spec.default_sampler, steps, spec.default_guidance
    plan = plan_of(Arm.edge(member), spec.name, *own)
    count = _PROMPTS if request.prompts is None else request.prompts
    prompts = sample_prompts(spec, count, _SEED)
    picture = None if request.plot is None else check_plot(request.plot)
    quiet_libraries()
    found = _measured(settings, spec, plan, prompts, as_json)
    if picture is not None:
        _plot(found, f"{spec.name}/{member}, {steps} steps, {count} pictures", picture)
    _tell(found, member, picture, as_json)


def _guided(spec: FamilySpec, member: str | None) -> str:
    """Raises InvalidRequest for a member that has no branch to leave out."""
    chosen = whole_member(spec, member)
    if chosen in spec.own_guidance:
        raise InvalidRequest(f"{chosen} takes guidance without a branch that could be left out")
    return chosen


def _measured(
    settings: EdgeSettings, spec: FamilySpec, plan: OpenPlan, prompts: Sequence[str], quiet: bool
) -> list[Skipped]:
    from baton.common.families.loaded import load_family
    from baton.common.families.local import use_threads
    from baton.common.tooling.skipping import SkippingTerms, sensitivity

    use_threads(settings.threads)
    family = load_family(settings.family, [plan.segments[0].member])
    terms = SkippingTerms(plan, tuple(prompts), _SEED, find_scorer(spec.scorer))
    with Bar("leaving guidance out", terms.calls, quiet, remaining=True) as bar:
        return sensitivity(family, terms, bar.advance)


def _tell(found: Sequence[Skipped], member: str, picture: Path | None, as_json: bool) -> None:
    from baton.common.tooling.skipping import TOLERANCE, propose_budget

    budget = propose_budget(found)
    if as_json:
        proposed = None if budget is None else str(budget)
        rows = [one.row() for one in found]
        print_json({"member": member, "proposed": proposed, "tolerance": TOLERANCE, "rows": rows})
        return
    rows = [_row(one) for one in found]
    print_rows(rows, list(rows[0]), as_json=False)
    if budget is not None:
        print(f"\nsaves most within {TOLERANCE:g} of the score; in family.json:")
        print(f'  "guidance_budget": "{budget}"')
    if picture is not None:
        print(picture)


def _row(one: Skipped) -> dict[str, Any]:
    low, high = one.difference_ci95 or (math.nan, math.nan)
    scored = one.difference is not None
    return {
        "instead": one.budget.branches,
        "after": f"{one.budget.after:g}",
        "in a row": one.budget.in_a_row,
        "rows saved": f"{one.saved:.1%}",
        "PSNR": f"{one.psnr:.1f}",
        "graded": f"{one.graded:.3f}" if scored else "",
        "difference": f"{one.difference:+.3f} ({low:+.3f} to {high:+.3f})" if scored else "",
    }


def _plot(found: Sequence[Skipped], title: str, path: Path) -> None:
    """What is lost by where it begins, a line for each way; of scores, else of likeness."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    scored = all(one.difference is not None for one in found)
    ways: dict[str, list[Skipped]] = {}
    for one in found:
        name = f"{one.budget.branches}, {one.budget.in_a_row} in a row"
        ways.setdefault(name, []).append(one)
    for (name, line), colour in zip(ways.items(), COLOURS, strict=False):
        after = [one.budget.after for one in line]
        values = [one.psnr if one.difference is None else one.difference for one in line]
        axes.plot(after, values, marker=".", color=colour, label=name)
        if scored:
            low, high = zip(*(one.difference_ci95 or (0, 0) for one in line), strict=True)
            axes.fill_between(after, low, high, color=colour, alpha=0.12, linewidth=0)
    unit = "graded score against all guidance, paired" if scored else "PSNR to all guidance, dB"
    axes.set(title=title, xlabel="left out from this share of the steps on", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with saving(path, make_folder=False) as file:
        figure.savefig(file, format="png", dpi=130)
