"""The verifier accepts what is there and refuses what is not."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from common.families.manifest import BUILT_IN
from common.families.scenes.grammar import SceneSpec, sample_spec
from common.families.scenes.icons import COLORS, ICONS, SIZES, icon_mask
from common.families.scenes.render import IMAGE_SIZE, Pixels, PlacedIcon, Scene, compose, render
from common.families.scenes.verify import detect, judge, relation_between, verify
from common.quality.verifier import find_scorer, scenes_verifier
from tests.support.mutations import made_false

COUNT = 1000
VAE = BUILT_IN["scenes"] / "shared/vae"


@cache
def cases() -> list[tuple[SceneSpec, str, SceneSpec, Scene]]:
    """Descriptions, each with what was made false in a second one, and a scene of the first."""
    rng = np.random.default_rng(21)
    found = []
    for _ in range(COUNT):
        spec = sample_spec(rng)
        found.append((spec, *made_false(spec, rng), compose(spec, rng)))
    return found


def rates(pictures: list[Pixels]) -> tuple[int, Counter[str]]:
    """How many true descriptions are refused, and false ones accepted, by what is false."""
    refused, accepted = 0, Counter[str]()
    for (spec, what, false_spec, _), picture in zip(cases(), pictures, strict=True):
        seen = detect(picture)
        refused += not judge(seen, spec).strict
        accepted[what] += judge(seen, false_spec).strict
    return refused, +accepted


def test_every_render_is_accepted_and_hardly_any_false_description() -> None:
    refused, accepted = rates([render(scene) for *_, scene in cases()])
    assert refused == 0
    assert accepted.total() <= COUNT / 100, accepted


@pytest.mark.skipif(not VAE.is_dir(), reason=f"the built-in family's weights are not at {VAE}")
def test_after_the_autoencoder_almost_all_are_accepted_and_few_false_ones() -> None:
    vae = AutoencoderKL.from_pretrained(VAE, torch_dtype=torch.float32, low_cpu_mem_usage=False)
    pictures: list[Pixels] = []
    rendered = np.stack([render(scene) for *_, scene in cases()])
    with torch.inference_mode():
        for batch in np.split(rendered, 10):
            x = torch.from_numpy(batch).permute(0, 3, 1, 2) / 127.5 - 1
            decoded = vae.decode(vae.encode(x).latent_dist.mode()).sample
            pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            pictures += list(pixels.permute(0, 2, 3, 1).numpy())
    refused, accepted = rates(pictures)
    assert refused <= 0.03 * COUNT
    assert accepted.total() <= 0.02 * COUNT, accepted


def test_a_rendered_scene_is_detected_as_it_was_placed() -> None:
    def key(icon: PlacedIcon) -> tuple[object, ...]:
        return icon.x, icon.y, icon.icon, icon.color, icon.size

    for *_, scene in cases()[:200]:
        seen = detect(render(scene))
        assert seen.background == scene.background
        assert sorted(map(key, seen.icons)) == sorted(map(key, scene.icons))


def test_an_empty_picture_holds_no_icon_and_no_fact() -> None:
    ground = render(Scene("fog", ()))
    assert detect(ground) == Scene("fog", ())
    spec = SceneSpec(cases()[0][0].objects)
    assert verify(ground, spec).graded == 0.0


def test_noise_is_no_scene_that_anyone_asked_for() -> None:
    rng = np.random.default_rng(5)
    for spec, *_ in cases()[:50]:
        noise = rng.integers(256, size=(IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        assert not verify(noise, spec).strict


@pytest.mark.parametrize(
    "shape", [(32, 32), (32, 32, 4), (32, 32, 1), (16, 16, 3), (33, 32, 3), (3, 32, 32), (0, 0, 3)]
)
def test_a_picture_of_another_shape_is_a_value_error(shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match="32x32"):
        detect(picture)
    with pytest.raises(ValueError, match="32x32"):
        verify(picture, cases()[0][0])


def placed(x: int, y: int) -> PlacedIcon:
    return PlacedIcon("cat", "red", "large", x, y)


@pytest.mark.parametrize(
    ("x", "y", "relation"),
    [
        (0, 8, "left of"),
        (16, 8, "right of"),
        (8, 0, "above"),
        (8, 16, "below"),
        (0, 4, "left of"),
        (4, 0, "above"),
        (0, 0, "left of"),
        (16, 16, "right of"),
    ],
)
def test_a_relation_is_along_the_longer_axis(x: int, y: int, relation: str) -> None:
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert relation_between(placed(x, y), placed(8, 8)) == relation
    assert relation_between(placed(8, 8), placed(x, y)) == opposite[relation]


def test_a_relation_is_between_centres_whatever_the_sizes() -> None:
    small, large = PlacedIcon("cat", "red", "small", 2, 0), PlacedIcon("car", "red", "large", 0, 16)
    assert relation_between(small, large) == "above"
    assert relation_between(large, small) == "below"


def test_a_composed_scene_keeps_to_the_description_and_to_the_picture() -> None:
    for spec, *_, scene in cases():
        assert judge(scene, spec).strict
        covered = np.zeros((IMAGE_SIZE, IMAGE_SIZE), int)
        for icon in scene.icons:
            side = SIZES[icon.size]
            assert 0 <= icon.x <= IMAGE_SIZE - side
            assert 0 <= icon.y <= IMAGE_SIZE - side
            covered[icon.y : icon.y + side, icon.x : icon.x + side] += 1
        assert covered.max() == 1


@pytest.mark.parametrize("size", SIZES)
def test_silhouettes_span_their_box_but_for_the_margin_and_differ(size: str) -> None:
    masks = {icon: icon_mask(icon, size) for icon in ICONS}
    for mask in masks.values():
        assert mask.shape == (SIZES[size], SIZES[size])
        inside = mask[1:-1, 1:-1]
        assert inside.sum() == mask.sum()
        assert inside.any(axis=0).sum() >= len(inside) - 2
    assert len({mask.tobytes() for mask in masks.values()}) == len(ICONS)
    with pytest.raises(KeyError):
        icon_mask("dog", size)


def test_the_scorer_knows_its_grammar_and_nothing_else() -> None:
    scorer = find_scorer("scenes")
    assert scorer is scenes_verifier
    assert find_scorer("sdxl") is None
    picture = render(Scene("night", (PlacedIcon("cat", next(iter(COLORS)), "large", 0, 0),)))
    quality = scenes_verifier(picture, "a blue cat on a night background")
    assert quality is not None
    assert dict(quality.facts) == {"1 cat": True, "cat blue": False, "night background": True}
    assert (quality.graded, quality.strict) == (pytest.approx(2 / 3), False)
    assert scenes_verifier(picture, "a dog in the rain") is None
    assert scenes_verifier(picture[:16], "a cat") is None
