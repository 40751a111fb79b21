"""What ``accel`` means on a node that has loaded a family's members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from baton.common.accel.directives import Accelerator
from baton.common.accel.masks import load_mask, mask_path, save_mask
from baton.common.accel.propagation import Propagation
from baton.common.errors import Incompatible, InvalidRequest, WeightsError
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.local import begin
from baton.common.limits import ACCELS, Accel, SamplerName
from baton.common.plan import FULL_STEP, OpenPlan, Plan, StepDirective
from tests.support.families import flip_bit
from tests.support.graphs import make_mask, masked_copy, with_directives, with_mask
from tests.support.tasks import accelerated, plan, task

STEPS = 10
RELAY = plan("edge/large@0.5>device/small", STEPS)


@pytest.fixture(scope="module")
def masked(family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    """Has masks for ddim in 10 steps."""
    return masked_copy(family, tmp_path_factory.mktemp("masked") / "family", ("ddim", STEPS))


def stored(family: LoadedFamily, member: str, propagated: bool = False) -> tuple[int, ...]:
    return load_mask(mask_path(family.masks_folder(member), "ddim", STEPS, propagated)).run


def directives(of: OpenPlan | Plan) -> list[StepDirective]:
    return [of.directive_at(step) for step in range(of.steps)]


def levels_of(family: LoadedFamily) -> Callable[[SamplerName, int], str]:
    return lambda sampler, steps: family.schedule(sampler, steps).digest


def propagated(family: LoadedFamily, member: str, steps: int = STEPS) -> tuple[StepDirective, ...]:
    return family.accelerator.of(member).propagation.directives(family.blocks(member), steps)


def test_without_acceleration_nothing_is_written(masked: LoadedFamily) -> None:
    assert masked.accelerator.expand(RELAY) == RELAY.closed()
    assert masked.accelerator.notes(RELAY, ["large", "small"]) == ()


def test_propagation_is_each_members_own_over_the_whole_trajectory(masked: LoadedFamily) -> None:
    asked = accelerated(RELAY, "propagate")
    of = masked.accelerator.expand(asked)
    large, small = propagated(masked, "large"), propagated(masked, "small")
    assert directives(of) == [*large[:5], *small[5:]]
    assert masked.accelerator.notes(asked, ["large", "small"]) == ()


def test_masks_are_those_on_disk(masked: LoadedFamily) -> None:
    asked = accelerated(RELAY, "masks")
    of = masked.accelerator.expand(asked)
    expected = [*stored(masked, "large")[:5], *stored(masked, "small")[5:]]
    assert directives(of) == [StepDirective(blocks=bits) for bits in expected]
    assert masked.accelerator.notes(asked, ["large", "small"]) == ()


def test_in_full_acceleration_the_mask_is_the_one_for_the_propagation(masked: LoadedFamily) -> None:
    of = masked.accelerator.expand(accelerated(plan("edge/large", STEPS), "full"))
    spread, mask = propagated(masked, "large"), stored(masked, "large", propagated=True)
    assert masked.accelerator.of("large").propagation.keys_for(STEPS) == (0, 1, 6)
    assert [directive.blocks for directive in directives(of)] == list(mask)
    for directive, was in zip(directives(of), spread, strict=True):
        assert directive == replace(was, blocks=directive.blocks)


def test_a_mask_brings_the_key_steps_that_it_was_trained_with(masked: LoadedFamily) -> None:
    other = replace(masked.accelerator.of("large"), propagation=Propagation((0, 5), 10))
    of = accelerated(plan("edge/large", STEPS), "full")
    found = Accelerator("tiny", {"large": other}, levels_of(masked)).expand(of)
    assert [c.blocks for c in directives(found)] == list(stored(masked, "large", propagated=True))
    assert [c.ahead for c in directives(found)] == [0, 4, 0, 0, 0, 0, 3, 0, 0, 0]


@pytest.mark.parametrize("accel", ["masks", "full"])
def test_a_mask_for_propagation_and_one_without_are_not_mistaken(
    family: LoadedFamily, tmp_path: Path, accel: Accel
) -> None:
    swapped = masked_copy(family, tmp_path / "swapped", ("ddim", STEPS))
    alone, within = (
        mask_path(swapped.masks_folder("large"), "ddim", STEPS, propagated)
        for propagated in (False, True)
    )
    held = alone.read_bytes()
    alone.write_bytes(within.read_bytes())
    within.write_bytes(held)
    with pytest.raises(Incompatible, match="propagated from steps 0"):
        swapped.accelerator.expand(accelerated(plan("edge/large", STEPS), accel))


@pytest.mark.parametrize("accel", ["masks", "full"])
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 11), ("euler", STEPS), ("dpmpp_2m", 20)])
def test_where_there_is_no_mask_the_encoder_is_propagated_and_it_is_said(
    masked: LoadedFamily, accel: Accel, sampler: SamplerName, steps: int
) -> None:
    of = accelerated(plan("edge/large@0.5>device/small", steps, sampler), accel)
    found = masked.accelerator.expand(of)
    expected = masked.accelerator.expand(accelerated(of, "propagate"))
    assert directives(found) == directives(expected)
    for members in (["large"], ["small"], ["large", "small"]):
        notes = masked.accelerator.notes(of, members)
        assert [note.split()[0] for note in notes] == members
        for note in notes:
            assert f"no block mask for {sampler} in {steps} steps" in note
            assert "propagated" in note
            assert note.isprintable()


def test_nothing_is_said_of_members_that_run_elsewhere_or_are_unknown(masked: LoadedFamily) -> None:
    of = accelerated(plan("edge/large", 11), "masks")
    assert masked.accelerator.notes(of, ["small", "huge"]) == ()
    assert len(masked.accelerator.notes(of, ["large", "huge"])) == 1


@pytest.mark.parametrize("accel", ACCELS)
@pytest.mark.parametrize("steps", [1, STEPS, 11])
def test_naming_what_would_run_changes_nothing(
    masked: LoadedFamily, accel: Accel, steps: int
) -> None:
    asked = accelerated(plan("edge/large@0.5>device/small", steps), accel)
    found = masked.accelerator.expand(asked)
    named = with_directives(asked, directives(found))
    assert masked.accelerator.expand(named) == found
    assert begin(masked, task(named)).plan == found


def test_guidance_stays_as_it_was_asked(masked: LoadedFamily) -> None:
    guided = [step % 3 > 0 for step in range(STEPS)]
    for accel in ACCELS:
        of = accelerated(plan("edge/large", STEPS, guided=guided), accel)
        found = masked.accelerator.expand(of)
        assert [d.branches == "both" for d in directives(found)] == guided


def test_a_plan_that_names_its_blocks_keeps_them(masked: LoadedFamily) -> None:
    graph = masked.blocks("small")
    own = [graph.all, *[graph.all & ~graph.encoder] * (STEPS - 1)]
    of = accelerated(with_mask(plan("edge/small", STEPS), own), "masks")
    assert masked.accelerator.expand(of) == of.closed()


def test_each_member_is_expanded_only_where_it_is_loaded(masked: LoadedFamily) -> None:
    alone = load_family(str(masked.spec.folder), ["small"])
    of = alone.accelerator.expand(accelerated(RELAY, "propagate"))
    assert directives(of)[:5] == [FULL_STEP] * 5
    whole = masked.accelerator.expand(accelerated(RELAY, "propagate"))
    assert directives(of)[5:] == directives(whole)[5:]
    named = with_directives(RELAY, directives(of)[:5] + directives(whole)[5:])
    rest = replace(named.segments[0], accel="propagate")
    assert masked.accelerator.expand(replace(named, segments=(rest, *named.segments[1:]))) == whole


def test_blocks_that_a_member_lacks_are_refused(masked: LoadedFamily) -> None:
    for member in ("large", "small"):
        count = len(masked.blocks(member))
        for bits in (1 << count, (1 << 1024) - 1):
            named = with_directives(RELAY, [StepDirective(blocks=bits)] * STEPS)
            of = replace(named, segments=tuple(replace(s, member=member) for s in named.segments))
            with pytest.raises(InvalidRequest, match=member):
                masked.accelerator.expand(of)


def test_a_member_whose_blocks_are_not_known_runs_in_full_and_it_is_said(
    masked: LoadedFamily,
) -> None:
    unknown = replace(masked.accelerator.of("large"), graph=None)
    accelerator = Accelerator("tiny", {"large": unknown}, levels_of(masked))
    for accel in ("propagate", "masks", "full"):
        of = accelerated(plan("edge/large", STEPS), accel)
        assert accelerator.expand(of) == of.closed()
        (note,) = accelerator.notes(of, ["large"])
        assert "large runs in full" in note
    named = with_mask(plan("edge/large", STEPS), [1] * STEPS)
    with pytest.raises(InvalidRequest, match="large"):
        accelerator.expand(named)


@pytest.mark.parametrize(
    ("sampler", "steps", "member"),
    [("euler", STEPS, "large"), ("ddim", 12, "large"), ("ddim", STEPS, "small")],
)
def test_a_mask_put_in_the_place_of_another_is_refused_with_both_named(
    family: LoadedFamily, tmp_path: Path, sampler: SamplerName, steps: int, member: str
) -> None:
    wrong = masked_copy(family, tmp_path / "wrong", ("ddim", STEPS))
    save_mask(
        make_mask(family, "large", "ddim", STEPS),
        mask_path(wrong.masks_folder(member), sampler, steps),
    )
    of = accelerated(plan(f"edge/{member}", steps, sampler), "masks")
    for use in (
        lambda: wrong.accelerator.expand(of),
        lambda: wrong.accelerator.notes(of, [member]),
        lambda: begin(wrong, task(of)),
    ):
        with pytest.raises(Incompatible) as caught:
            use()
        text = str(caught.value)
        assert f"tiny/large ({family.member_fingerprints['large'][:12]}) with ddim in 10" in text
        assert f"not for tiny/{member} (" in text
        assert f"with {sampler} in {steps} steps" in text
        assert text.isprintable()


def test_a_mask_of_other_weights_is_refused_with_both_fingerprints(
    family: LoadedFamily, tmp_path: Path
) -> None:
    other = masked_copy(family, tmp_path / "other", ("ddim", STEPS))
    flip_bit(other.spec.folder / "large/unet/diffusion_pytorch_model.safetensors")
    altered = load_family(str(other.spec.folder))
    there, here = (known.member_fingerprints["large"][:12] for known in (family, altered))
    assert there != here
    with pytest.raises(Incompatible, match=f"{there}.*{here}"):
        altered.accelerator.expand(accelerated(plan("edge/large", STEPS), "masks"))
    assert altered.accelerator.expand(accelerated(plan("edge/small", STEPS), "full"))
    fine = altered.accelerator.expand(accelerated(plan("edge/large", STEPS), "propagate"))
    assert directives(fine)[0].blocks is not None


def test_a_damaged_mask_is_refused_and_not_fallen_back_from(
    family: LoadedFamily, tmp_path: Path
) -> None:
    damaged = masked_copy(family, tmp_path / "damaged", ("ddim", STEPS))
    flip_bit(mask_path(damaged.masks_folder("large"), "ddim", STEPS), 40)
    with pytest.raises(WeightsError, match=r"ddim-10\.json"):
        damaged.accelerator.expand(accelerated(plan("edge/large", STEPS), "masks"))


def test_a_family_may_say_how_it_propagates(family: LoadedFamily, masked: LoadedFamily) -> None:
    assert family.accelerator.of("large").propagation == Propagation()
    told = masked.accelerator.of("large").propagation
    assert told == Propagation((0, 1, 6), 10, parallel=True, prior_noise=0.05)
