from __future__ import annotations

import pytest

from baton.common.limits import MAX_PROMPT_CHARS
from baton.common.query import PromptFeatures
from baton.device_client.features import prompt_features


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [  # words, objects, attributes, relations, count
        ("a photo of a bench", (5, 1, 0, 0, 1)),
        ("a photo of four microwaves", (5, 1, 0, 0, 4)),
        ("a photo of a scissors and a bird", (8, 2, 0, 0, 1)),
        ("a photo of a bear above a clock", (8, 2, 0, 1, 1)),
        ("a photo of a blue vase and a black banana", (10, 2, 2, 0, 1)),
        ("a red cat left of a blue house on a night background", (12, 2, 2, 1, 1)),
        ("a rabbit wearing a black tophat and monocle", (8, 2, 1, 0, 1)),
        ("a yellow swirl next to a blue dashed line.", (9, 2, 2, 1, 1)),
        ("a family of four posing at Mount Rushmore", (8, 1, 0, 0, 4)),
        ("The sharp black cat clawed at the soft red blanket.", (10, 1, 2, 0, 1)),
        ("two violins, 12 bows, and many hats in front of them", (11, 5, 0, 1, 12)),
        ("yin-yang", (2, 1, 0, 0, 1)),
    ],
)
def test_a_prompt_is_measured_by_its_words(prompt: str, expected: tuple[int, ...]) -> None:
    assert prompt_features(prompt) == PromptFeatures(*expected)


def test_upper_case_and_white_space_change_nothing() -> None:
    plain = prompt_features("two red cats left of a house")
    assert prompt_features("  TWO Red\ncats\tleft of  a HOUSE ") == plain


def test_words_inside_other_words_count_for_nothing() -> None:
    features = prompt_features("a sandwich, undercooked, in Blackpool")
    assert (features.attributes, features.relations, features.count) == (0, 0, 1)


@pytest.mark.parametrize(
    "prompt",
    ["", "  ", "猫と家", "🐈", ",,,", "9" * 4000, "99 cats", "and " * 1000, "left of" * 571, "²"],
)
def test_the_coordinator_accepts_the_features_of_any_prompt(prompt: str) -> None:
    assert len(prompt) <= MAX_PROMPT_CHARS
    features = prompt_features(prompt)  # checked by the limits that a coordinator has, too
    assert features.objects >= 1
    assert features.count >= 1
