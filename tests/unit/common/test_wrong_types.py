"""Values of other types than a plan holds: taken for what they are, or refused as bad input."""

from __future__ import annotations

import enum
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest, UnknownName
from baton.common.expansion import plan_of
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import (
    check_accel,
    check_fraction,
    check_guidance,
    check_prompt,
    check_sampler,
    check_seed,
    check_steps,
)
from baton.common.request import Task

PLAN = plan_of(Arm.parse("device/small"), "tiny", "ddim", 4, 2.0)
WHOLE = [check_steps, check_seed]
REAL = [check_guidance, check_fraction]
TEXTS = [check_sampler, check_accel, check_prompt, Arm.parse]
NO_TEXT = [None, b"ddim", 3, np.float64(1), ["ddim"], np.array(["ddim", "euler"]), object()]


class Sampler(enum.StrEnum):
    EULER = "euler"


@pytest.mark.parametrize("check", WHOLE)
@pytest.mark.parametrize(
    "value",
    [
        *(None, 3.0, np.float64(3), True, np.True_, "3", b"3", Decimal(3), [3], np.array([3, 4])),
        *(3j, torch.tensor(True), torch.tensor(3.0), np.timedelta64(3)),
    ],
)
def test_what_is_no_whole_number_is_refused(check: Callable[..., object], value: object) -> None:
    with pytest.raises(InvalidRequest, match="whole number"):
        check(value)


@pytest.mark.parametrize("check", WHOLE)
@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), np.array(3)])
def test_whole_numbers_of_numpy_become_pythons(check: Callable[..., object], value: object) -> None:
    assert check(value) == 3
    assert type(check(value)) is int


@pytest.mark.parametrize("check", REAL)
@pytest.mark.parametrize(
    "value",
    [
        *(None, "0.5", b"0.5", True, [0.5], np.array([0.5, 1.0]), 1j, 10**400, object()),
        *(np.True_, np.array(True), np.str_("0.5"), np.bytes_(b"0.5"), np.complex64(0.5)),
        *(torch.tensor(True), torch.tensor([0.5, 1.0]), torch.tensor(0.5 + 1j)),
    ],
)
def test_what_is_no_number_is_refused(check: Callable[..., object], value: object) -> None:
    with pytest.raises(InvalidRequest, match="number"):
        check(value)


@pytest.mark.parametrize("check", WHOLE)
@pytest.mark.parametrize("value", [10**5000, -(10**5000), 2**200], ids=["many", "below", "wide"])
def test_a_number_too_long_to_be_told_is_refused(
    check: Callable[..., object], value: object
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("check", REAL)
@pytest.mark.parametrize("value", [np.float32(0.5), Fraction(1, 2), Decimal("0.5"), np.array(0.5)])
def test_numbers_of_any_kind_become_pythons(check: Callable[..., object], value: object) -> None:
    assert check(value) == 0.5
    assert type(check(value)) is float


@pytest.mark.parametrize("check", TEXTS)
@pytest.mark.parametrize("value", NO_TEXT, ids=lambda value: type(value).__name__)
def test_what_is_no_text_is_refused(check: Callable[..., object], value: object) -> None:
    with pytest.raises(InvalidRequest, match="text"):
        check(value)


@pytest.mark.parametrize("check", TEXTS)
def test_text_that_no_encoding_has_is_refused(check: Callable[..., object]) -> None:
    with pytest.raises(InvalidRequest, match="UTF-8"):
        check("a red \udcff cat")


def test_texts_of_any_kind_become_pythons() -> None:
    for value in (Sampler.EULER, np.str_("euler")):
        assert check_sampler(value) == "euler"
        assert type(check_sampler(value)) is str


def test_plans_and_tasks_hold_pythons_values() -> None:
    number, scale = np.int64(4), np.float32(2)
    plan = plan_of(Arm.device("small"), "tiny", Sampler.EULER, number, scale)  # type: ignore[arg-type]
    (grid,), (segment,) = plan.grids, plan.segments
    assert [type(plan.steps), type(segment.guidance.scale), type(grid.sampler)] == [int, float, str]
    task = Task(np.str_("a cat"), "", plan, np.uint16(7), np.int8(16))  # type: ignore[arg-type]
    assert [type(task.prompt), type(task.seed), type(task.size.width)] == [str, int, int]
    for seed, size in ((3.0, 16), (3, 16.0), (None, 16), (3, None), ("3", 16), (3, b"16")):
        with pytest.raises(InvalidRequest):
            Task("a cat", "", plan, seed, size)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [None, 16.0, "16.0", b"16", True, [16], np.float32(16)])
def test_a_size_that_is_no_whole_number_is_refused(size: object, family: LoadedFamily) -> None:
    with pytest.raises(InvalidRequest, match=r"whole number|a size is"):
        family.latent_shape(size)
    assert family.latent_shape(np.int64(16)) == family.latent_shape(16)


@pytest.mark.parametrize("member", [None, 3, b"large", ["large"]])
def test_a_member_that_is_no_text_is_refused(member: object, family: LoadedFamily) -> None:
    with pytest.raises(InvalidRequest):
        family.spec.check_member(member)  # type: ignore[arg-type]


def test_a_long_value_is_not_repeated() -> None:
    for value in (b"x" * 10**6, ["x" * 10**6], "x" * 10**6):
        with pytest.raises((InvalidRequest, UnknownName)) as caught:
            check_sampler(value)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 200
