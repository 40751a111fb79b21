"""Sizes of pictures, as callers give them."""

from __future__ import annotations

import numpy as np
import pytest

from baton.common.errors import InvalidRequest
from baton.common.size import MAX_SIDE, Size


@pytest.mark.parametrize("given", [64, "64", "64x64", (64, 64), [64, 64], np.int16(64)])
def test_a_square_is_said_in_many_ways(given: object) -> None:
    size = Size.of(given)
    assert (size, str(size), size.pixels) == (Size(64, 64), "64x64", 4096)
    assert [type(side) for side in (size.width, size.height)] == [int, int]


def test_the_width_comes_first() -> None:
    assert Size.of("96x64") == Size.of("96×64") == Size.of((96, 64)) == Size(96, 64)


@pytest.mark.parametrize(
    "given",
    ["", "x", "64x", "x64", "64 x 64", "64X64", "-1", "6.4", "1x1x1", 64.0, True, None, (64,),
     b"64", 0, -1, MAX_SIDE + 1, (64, 0), (64, 2**70), (64, "64"), "9" * 400],
)  # fmt: skip
def test_what_is_no_size_is_refused_in_one_short_line(given: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Size.of(given)
    assert len(str(caught.value)) < 200
