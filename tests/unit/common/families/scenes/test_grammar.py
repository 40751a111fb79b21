"""Prompts about scenes, written and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from baton.common.families.manifest import BUILT_IN, read_manifest
from baton.common.families.scenes.grammar import (
    GENEVAL_TASKS,
    MAX_COUNT,
    SURFACE_TASK,
    ObjectSpec,
    SceneSpec,
    parse_prompt,
    sample_prompt,
    sample_spec,
    tasks_of,
    vocabulary,
)
from baton.common.families.scenes.text import build_tokenizer
from baton.common.families.scenes.worlds import DETAIL, FLAT, WORLDS, World, world_of

SHIPPED = BUILT_IN["scenes"] / "shared/tokenizer"
FIRST_PROMPTS = [
    "a square on a dusk background",
    "a photo of a cross",
    "a square on a fog background",
]

every_world = pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)


def seeded_prompts(world: World, count: int) -> list[tuple[str, SceneSpec]]:
    rng = np.random.default_rng(11)
    return [sample_prompt(rng, world) for _ in range(count)]


@every_world
def test_two_thousand_sampled_prompts_are_read_back_as_they_were_meant(world: World) -> None:
    for prompt, spec in seeded_prompts(world, 2000):
        assert parse_prompt(prompt, world) == spec
        assert parse_prompt(spec.prompt(), world) == spec
        assert parse_prompt("  A Photo of " + spec.prompt().upper() + ". ", world) == spec


@every_world
def test_sampled_prompts_use_only_the_vocabulary(world: World) -> None:
    words = {word for prompt, _ in seeded_prompts(world, 2000) for word in prompt.split()}
    assert words == set(vocabulary(world))


@pytest.mark.parametrize(
    ("world", "task"), [(world, task) for world in WORLDS for task in tasks_of(world)]
)
def test_a_sampled_description_is_of_the_task_that_was_asked_for(world: World, task: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        spec = sample_spec(rng, world, task)
        assert spec.task == task
        assert sum(obj.count for obj in spec.objects) <= MAX_COUNT


def test_only_a_world_with_surfaces_speaks_of_them() -> None:
    assert tasks_of(FLAT) == GENEVAL_TASKS
    assert tasks_of(DETAIL) == (*GENEVAL_TASKS, SURFACE_TASK)
    assert parse_prompt("a small striped red cat", DETAIL) == SceneSpec(
        (ObjectSpec("cat", 1, "red", "small", "striped"),)
    )
    with pytest.raises(ValueError, match="'striped'"):
        parse_prompt("a striped cat", FLAT)
    assert not set(DETAIL.surfaces) & set(vocabulary(FLAT))


def test_the_flat_world_draws_the_prompts_that_its_scores_were_measured_on() -> None:
    assert [prompt for prompt, _ in seeded_prompts(FLAT, 3)] == FIRST_PROMPTS


@pytest.mark.parametrize(
    ("prompt", "spec"),
    [
        ("a cat", SceneSpec((ObjectSpec("cat"),))),
        ("two fish", SceneSpec((ObjectSpec("fish", 2),))),
        ("three small pink crosses", SceneSpec((ObjectSpec("cross", 3, "pink", "small"),))),
        (
            "the red cat to the left of the house on a snow background",
            SceneSpec((ObjectSpec("cat", 1, "red"), ObjectSpec("house")), "left of", "snow"),
        ),
        (
            "an icon of one car over one tree",
            SceneSpec((ObjectSpec("car"), ObjectSpec("tree")), "above"),
        ),
        ("a ring and a star", SceneSpec((ObjectSpec("ring"), ObjectSpec("star")))),
    ],
)
@every_world
def test_prompts_read_as_a_person_reads_them(world: World, prompt: str, spec: SceneSpec) -> None:
    assert parse_prompt(prompt, world) == spec


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "expected"),
        ("a", "'a'"),
        ("a dog", "'dog'"),
        ("a fluffy cat", "'fluffy'"),
        ("a cat on a beach background", "'beach'"),
        ("a cat and a star and a ring", "one or two"),
        ("a cat and a cat", "both"),
        ("two cats and two stars", "3"),
        ("a cat above", "'above'"),
    ],
)
@every_world
def test_what_lies_outside_the_grammar_is_said(world: World, prompt: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_prompt(prompt, world)


@pytest.fixture(scope="module", params=["made anew", "shipped"])
def reader(request: pytest.FixtureRequest) -> tuple[CLIPTokenizer, World]:
    """A tokenizer, and the world that it was made for."""
    if request.param == "made anew":
        return build_tokenizer(DETAIL), DETAIL
    if not Path(SHIPPED).is_dir():
        pytest.skip(f"the built-in family's weights are not here ({SHIPPED})")
    world = world_of(read_manifest(BUILT_IN["scenes"]).sizes.default)
    return CLIPTokenizer.from_pretrained(SHIPPED), world


def test_every_word_of_the_vocabulary_is_one_token(reader: tuple[CLIPTokenizer, World]) -> None:
    tokenizer, world = reader
    tokens = [tokenizer(word, add_special_tokens=False).input_ids for word in vocabulary(world)]
    assert {len(ids) for ids in tokens} == {1}
    assert len({ids[0] for ids in tokens}) == len(tokens)


def test_no_prompt_of_the_grammar_is_cut(reader: tuple[CLIPTokenizer, World]) -> None:
    tokenizer, world = reader
    lengths = [len(tokenizer(prompt).input_ids) for prompt, _ in seeded_prompts(world, 500)]
    surface = "outlined " if world.has_surfaces else ""
    longest = (
        f"a photo of a small {surface}yellow triangle right of a large {surface}purple circle"
        " on a dusk background"
    )
    assert max(*lengths, len(tokenizer(longest).input_ids)) <= tokenizer.model_max_length


@pytest.mark.parametrize("text", ["zebra", "größer", "猫", "a\0b", "🐈", "<html>", "1234"])
def test_any_other_text_has_tokens_of_the_vocabulary(
    reader: tuple[CLIPTokenizer, World], text: str
) -> None:
    tokenizer, _ = reader
    ids = tokenizer(text, truncation=True).input_ids
    assert all(0 <= token < len(tokenizer) for token in ids)
    assert len(ids) <= tokenizer.model_max_length
