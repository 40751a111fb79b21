"""Prompts about scenes, written and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from common.families.manifest import BUILT_IN
from common.families.scenes.grammar import (
    MAX_COUNT,
    TASKS,
    ObjectSpec,
    SceneSpec,
    parse_prompt,
    sample_prompt,
    sample_spec,
    vocabulary,
)
from common.families.scenes.text import MAX_TOKENS, build_tokenizer

SHIPPED = BUILT_IN["scenes"] / "shared/tokenizer"


def seeded_prompts(count: int) -> list[tuple[str, SceneSpec]]:
    rng = np.random.default_rng(11)
    return [sample_prompt(rng) for _ in range(count)]


def test_two_thousand_sampled_prompts_are_read_back_as_they_were_meant() -> None:
    for prompt, spec in seeded_prompts(2000):
        assert parse_prompt(prompt) == spec
        assert parse_prompt(spec.prompt()) == spec
        assert parse_prompt("  A Photo of " + spec.prompt().upper() + ". ") == spec


def test_sampled_prompts_use_only_the_vocabulary() -> None:
    words = {word for prompt, _ in seeded_prompts(2000) for word in prompt.split()}
    assert words == set(vocabulary())


@pytest.mark.parametrize("task", TASKS)
def test_a_sampled_description_is_of_the_task_that_was_asked_for(task: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        spec = sample_spec(rng, task)
        assert spec.task == task
        assert sum(obj.count for obj in spec.objects) <= MAX_COUNT


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
def test_prompts_read_as_a_person_reads_them(prompt: str, spec: SceneSpec) -> None:
    assert parse_prompt(prompt) == spec


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
def test_what_lies_outside_the_grammar_is_said(prompt: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_prompt(prompt)


@pytest.fixture(scope="module", params=["made anew", "shipped"])
def tokenizer(request: pytest.FixtureRequest) -> CLIPTokenizer:
    if request.param == "made anew":
        return build_tokenizer()
    if not Path(SHIPPED).is_dir():
        pytest.skip(f"the built-in family's weights are not here ({SHIPPED})")
    return CLIPTokenizer.from_pretrained(SHIPPED)


def test_every_word_of_the_vocabulary_is_one_token(tokenizer: CLIPTokenizer) -> None:
    tokens = [tokenizer(word, add_special_tokens=False).input_ids for word in vocabulary()]
    assert {len(ids) for ids in tokens} == {1}
    assert len({ids[0] for ids in tokens}) == len(tokens)


def test_no_prompt_of_the_grammar_is_cut(tokenizer: CLIPTokenizer) -> None:
    lengths = [len(tokenizer(prompt).input_ids) for prompt, _ in seeded_prompts(500)]
    longest = (
        "a photo of a small yellow triangle right of a large purple circle on a dusk background"
    )
    assert max(*lengths, len(tokenizer(longest).input_ids)) <= MAX_TOKENS


@pytest.mark.parametrize("text", ["zebra", "größer", "猫", "a\0b", "🐈", "<html>", "1234"])
def test_any_other_text_has_tokens_of_the_vocabulary(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, truncation=True).input_ids
    assert all(0 <= token < len(tokenizer) for token in ids)
    assert len(ids) <= MAX_TOKENS
