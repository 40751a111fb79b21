"""The masks that ship with the built-in family."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from baton.common.accel.masks import load_mask, mask_path
from baton.common.diffusion.flows import flows_of
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.limits import Accel
from baton.common.plan import Plan
from tests.support.tasks import accelerated, plan

MEMBERS = ("large", "medium", "small")


@cache
def scenes() -> LoadedFamily:
    return load_family()


def expanded(member: str, steps: int, accel: Accel) -> Plan:
    asked = accelerated(replace(plan(f"device/{member}", steps), family="scenes"), accel)
    assert scenes().accelerator.notes(asked, [member]) == ()
    return scenes().accelerator.expand(asked)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(
    ("steps", "accel", "speed"),
    [(50, "masks", 2.0), (20, "masks", 1.5), (50, "full", 1.8), (20, "full", 1.6)],
)
def test_every_member_has_masks_that_spare_it_much_of_its_work(
    member: str, steps: int, accel: Accel, speed: float
) -> None:
    (segment,) = expanded(member, steps, accel).segments
    run = flows_of(scenes().blocks(member), segment)["positive"].schedule.run
    assert len(run) == steps
    assert scenes().profile(member).speed(run) >= speed


@pytest.mark.parametrize("member", MEMBERS)
def test_a_masks_file_says_how_it_was_trained(member: str) -> None:
    mask = load_mask(mask_path(scenes().masks_folder(member), "ddim", 50))
    assert mask.settings["estimator"] == "bernoulli"
    # whatever counted it then left out the products of attention itself
    assert mask.settings["macs_speed"] == pytest.approx(
        scenes().profile(member).speed(scenes().blocks(member).schedule(mask.run).run),
        rel=1e-2,
    )
