"""What a distance between pictures has to be like."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from baton.common.families.scenes.render import render
from baton.common.families.scenes.training.vae import any_scene
from baton.common.families.scenes.worlds import FLAT
from tests.bench.perceptual import distance

Pictures = npt.NDArray[np.uint8]


@pytest.fixture
def scene() -> Pictures:
    """[1, 32, 32, 3]."""
    return render(any_scene(FLAT, np.random.default_rng(0)), FLAT)[None]


def noisy(pictures: Pictures, deviation: float) -> Pictures:
    noise = deviation * np.random.default_rng(1).standard_normal(pictures.shape)
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


def test_equal_pictures_are_at_no_distance(scene: Pictures) -> None:
    assert distance(scene, scene) == pytest.approx([0.0], abs=1e-12)


def test_it_is_the_same_both_ways(scene: Pictures) -> None:
    other = noisy(scene, 30)
    assert distance(scene, other) == pytest.approx(distance(other, scene))


def test_more_noise_is_farther(scene: Pictures) -> None:
    found = [float(distance(scene, noisy(scene, deviation))[0]) for deviation in (2, 10, 40)]
    assert found == sorted(found)
    assert 0 < found[0] < found[-1] <= 2


def test_another_picture_is_farther_than_the_same_one_a_little_darker(scene: Pictures) -> None:
    darker = (scene * 0.9).astype(np.uint8)
    mirrored_and_blue = scene[:, :, ::-1, ::-1]
    assert distance(scene, darker) < distance(scene, mirrored_and_blue)


def test_each_pair_is_compared_by_itself(scene: Pictures) -> None:
    other = noisy(scene, 30)
    both = distance(np.concatenate([scene, scene]), np.concatenate([scene, other]))
    assert both == pytest.approx([0.0, distance(scene, other)[0]], abs=1e-12)


def test_pictures_must_be_of_one_size_and_not_too_small(scene: Pictures) -> None:
    with pytest.raises(ValueError, match="one size"):
        distance(scene, scene[:, :16])
    with pytest.raises(ValueError, match="20 pixels"):
        distance(scene[:, :16], scene[:, :16])
