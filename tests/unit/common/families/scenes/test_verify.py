"""The verifier accepts what is there and refuses what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from baton.common.errors import UnknownName
from baton.common.families.manifest import BUILT_IN
from baton.common.families.registry import find_scorer
from baton.common.families.scenes.grammar import SceneSpec, parse_prompt, sample_spec
from baton.common.families.scenes.icons import ICONS, stamp
from baton.common.families.scenes.render import Pixels, PlacedIcon, Scene, compose, render
from baton.common.families.scenes.scoring import scenes_verifier
from baton.common.families.scenes.training.calibration import (
    BLURS,
    NOISES,
    acceptance_curve,
    blurred,
    noisy,
    scenes_of,
)
from baton.common.families.scenes.verify import UNCLEAR, detect, judge, relation_between, verify
from baton.common.families.scenes.worlds import DETAIL, FLAT, WORLDS, World, world_of
from tests.support.mutations import made_false

COUNT = 400
VAE = BUILT_IN["scenes"] / "shared/vae"

every_world = pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)


@cache
def cases(world: World) -> list[tuple[SceneSpec, str, SceneSpec, Scene]]:
    """Descriptions, each with what was made false in a second one, and a scene of the first."""
    rng = np.random.default_rng(21)
    found = []
    for _ in range(COUNT):
        spec = sample_spec(rng, world)
        found.append((spec, *made_false(spec, world, rng), compose(spec, world, rng)))
    return found


@cache
def detected(world: World) -> list[Scene]:
    """What is seen in the renders of the cases."""
    return [detect(render(scene, world)) for *_, scene in cases(world)]


def rates(world: World, seen: list[Scene]) -> tuple[int, Counter[str]]:
    """How many true descriptions are refused, and false ones accepted, by what is false."""
    refused, accepted = 0, Counter[str]()
    for (spec, what, false_spec, _), scene in zip(cases(world), seen, strict=True):
        refused += not judge(scene, spec, world).strict
        accepted[what] += judge(scene, false_spec, world).strict
    return refused, +accepted


@every_world
def test_every_render_is_accepted_and_hardly_any_false_description(world: World) -> None:
    refused, accepted = rates(world, detected(world))
    assert refused == 0
    assert accepted.total() <= COUNT / 100, accepted


@every_world
def test_of_descriptions_shuffled_among_renders_only_those_that_are_true_are_accepted(
    world: World,
) -> None:
    scenes = [scene for *_, scene in cases(world)]
    first, *others = (spec for spec, *_ in cases(world))
    shuffled = [*others, first]
    for scene, seen, spec in zip(scenes, detected(world), shuffled, strict=True):
        assert judge(seen, spec, world).strict == judge(scene, spec, world).strict


@pytest.mark.skipif(not VAE.is_dir(), reason=f"the built-in family's weights are not at {VAE}")
def test_after_the_autoencoder_almost_all_are_accepted_and_few_false_ones() -> None:
    vae = AutoencoderKL.from_pretrained(VAE, torch_dtype=torch.float32, low_cpu_mem_usage=False)
    world = world_of(vae.config.sample_size)
    pictures: list[Pixels] = []
    rendered = np.stack([render(scene, world) for *_, scene in cases(world)])
    with torch.inference_mode():
        for batch in np.split(rendered, 10):
            x = torch.from_numpy(batch).permute(0, 3, 1, 2) / 127.5 - 1
            decoded = vae.decode(vae.encode(x).latent_dist.mode()).sample
            pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            pictures += list(pixels.permute(0, 2, 3, 1).numpy())
    refused, accepted = rates(world, [detect(picture) for picture in pictures])
    assert refused <= 0.03 * COUNT
    assert accepted.total() <= 0.02 * COUNT, accepted


@every_world
def test_a_rendered_scene_is_detected_as_it_was_placed(world: World) -> None:
    def key(icon: PlacedIcon) -> tuple[object, ...]:
        return icon.x, icon.y, icon.icon, icon.color, icon.size, icon.surface

    for (*_, scene), seen in zip(cases(world), detected(world), strict=True):
        assert seen.background == scene.background
        assert sorted(map(key, seen.icons)) == sorted(map(key, scene.icons))


@pytest.mark.parametrize("surface", DETAIL.surfaces)
@pytest.mark.parametrize("size", DETAIL.sizes)
def test_every_surface_of_every_icon_is_read_on_every_background(surface: str, size: str) -> None:
    names = list(DETAIL.colors)
    for index, icon in enumerate(ICONS):
        for ground in DETAIL.backgrounds:
            placed = PlacedIcon(icon, names[index % len(names)], size, 20, 17, surface)
            assert detect(render(Scene(ground, (placed,)), DETAIL)) == Scene(ground, (placed,))


def test_a_pattern_that_is_smeared_away_is_no_surface() -> None:
    spec = parse_prompt("a striped cat", DETAIL)
    placed = PlacedIcon("cat", "yellow", "large", 20, 20, "striped")
    ground = np.array(DETAIL.backgrounds["fog"])
    body = stamp(DETAIL, "cat", "large").body[..., None]
    half_ink = (np.array(DETAIL.colors["yellow"]) + np.array(DETAIL.ink)) / 2
    picture = render(Scene("fog", ()), DETAIL)
    picture[20:46, 20:46] = np.round(body * half_ink + (1 - body) * ground)
    assert [icon.surface for icon in detect(picture).icons] == [UNCLEAR]
    assert verify(picture, spec).facts == {"1 cat": True, "cat striped": False}
    assert verify(render(Scene("fog", (placed,)), DETAIL), spec).strict


@pytest.mark.parametrize(("damage", "strengths"), [(blurred, BLURS), (noisy, NOISES)])
def test_acceptance_falls_smoothly_with_blur_and_noise(
    damage: Callable[[Pixels, float], Pixels], strengths: tuple[float, ...]
) -> None:
    curve = acceptance_curve(DETAIL, scenes_of(DETAIL, 40, 0), damage, strengths)
    assert curve[0] == 1.0
    assert curve[-1] < 0.3
    steps = np.diff(curve)
    assert steps.max() <= 0.05  # never much better again
    assert steps.min() >= -0.75
    assert sum(step < -0.03 for step in steps) >= 3  # not all at once


@every_world
def test_an_empty_picture_holds_no_icon_and_no_fact(world: World) -> None:
    ground = render(Scene("fog", ()), world)
    assert detect(ground) == Scene("fog", ())
    spec = SceneSpec(cases(world)[0][0].objects)
    assert verify(ground, spec).graded == 0.0


@every_world
def test_noise_is_no_scene_that_anyone_asked_for(world: World) -> None:
    rng = np.random.default_rng(5)
    for spec, *_ in cases(world)[:50]:
        noise = rng.integers(256, size=(world.image_size, world.image_size, 3), dtype=np.uint8)
        assert not verify(noise, spec).strict


@pytest.mark.parametrize(
    "shape",
    [
        *[(32, 32), (32, 32, 4), (32, 32, 1), (16, 16, 3), (33, 32, 3), (3, 32, 32), (0, 0, 3)],
        *[(64, 32, 3), (64, 64), (64, 64, 4), (128, 128, 3)],
    ],
)
def test_a_picture_of_another_shape_is_a_value_error(shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match="32x32 or 64x64"):
        detect(picture)
    with pytest.raises(ValueError, match="32x32 or 64x64"):
        verify(picture, cases(FLAT)[0][0])


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
    assert relation_between(placed(x, y), placed(8, 8), FLAT) == relation
    assert relation_between(placed(8, 8), placed(x, y), FLAT) == opposite[relation]


def test_a_relation_is_between_centres_whatever_the_sizes() -> None:
    small, large = PlacedIcon("cat", "red", "small", 2, 0), PlacedIcon("car", "red", "large", 0, 16)
    assert relation_between(small, large, FLAT) == "above"
    assert relation_between(large, small, FLAT) == "below"


@every_world
def test_a_composed_scene_keeps_to_the_description_and_to_the_picture(world: World) -> None:
    for spec, *_, scene in cases(world):
        assert judge(scene, spec, world).strict
        covered = np.zeros((world.image_size, world.image_size), int)
        for icon in scene.icons:
            side = world.sizes[icon.size]
            assert 0 <= icon.x <= world.image_size - side
            assert 0 <= icon.y <= world.image_size - side
            covered[icon.y : icon.y + side, icon.x : icon.x + side] += 1
        assert covered.max() == 1


def test_icons_of_the_detailed_world_stand_anywhere() -> None:
    corners = {(icon.x % 4, icon.y % 4) for *_, scene in cases(DETAIL) for icon in scene.icons}
    assert len(corners) == 16


@pytest.mark.parametrize(
    ("world", "size"), [(world, size) for world in WORLDS for size in world.sizes]
)
def test_silhouettes_span_their_box_but_for_the_margin_and_differ(world: World, size: str) -> None:
    bodies = {icon: stamp(world, icon, size).body for icon in ICONS}
    margin = world.margin
    for body in bodies.values():
        assert body.shape == (world.sizes[size], world.sizes[size])
        inside = body[margin:-margin, margin:-margin]
        assert inside.sum() == body.sum()
        assert (inside > 0).any(axis=0).sum() >= len(inside) - 2
    assert len({body.tobytes() for body in bodies.values()}) == len(ICONS)
    with pytest.raises(KeyError):
        stamp(world, "dog", size)


def test_icons_of_the_detailed_world_are_anti_aliased_and_of_the_flat_one_crisp() -> None:
    crisp, smooth = (np.unique(stamp(world, "circle", "large").body) for world in (FLAT, DETAIL))
    assert set(crisp) == {0.0, 1.0}
    assert len(smooth) > 10


def test_the_scorer_knows_its_grammar_and_nothing_else() -> None:
    scorer = find_scorer("scenes")
    assert scorer is scenes_verifier
    assert find_scorer("") is None
    with pytest.raises(UnknownName, match="scenes"):
        find_scorer("sdxl")
    placed = PlacedIcon("cat", "red", "large", 0, 0)
    picture = render(Scene("night", (placed,)), FLAT)
    quality = scenes_verifier(picture, "a blue cat on a night background")
    assert quality is not None
    assert dict(quality.facts) == {"1 cat": True, "cat blue": False, "night background": True}
    assert (quality.graded, quality.strict) == (pytest.approx(2 / 3), False)
    assert scenes_verifier(picture, "a dog in the rain") is None
    assert scenes_verifier(picture[:16], "a cat") is None


def test_the_scorer_reads_each_picture_in_its_world() -> None:
    placed = PlacedIcon("cat", "red", "large", 3, 5, "dotted")
    picture = render(Scene("night", (placed,)), DETAIL)
    quality = scenes_verifier(picture, "a dotted cat")
    assert quality is not None
    assert dict(quality.facts) == {"1 cat": True, "cat dotted": True}
    flat = render(Scene("night", (PlacedIcon("cat", "red", "large", 0, 0),)), FLAT)
    assert scenes_verifier(flat, "a dotted cat") is None
