"""Every description can be written and read back; every text is read or refused."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.families.scenes.grammar import (
    MAX_COUNT,
    RELATIONS,
    ObjectSpec,
    SceneSpec,
    parse_prompt,
    vocabulary,
)
from common.families.scenes.icons import BACKGROUNDS, COLORS, ICONS, SIZES

objects = st.builds(
    ObjectSpec,
    icon=st.sampled_from(ICONS),
    count=st.integers(1, MAX_COUNT),
    color=st.none() | st.sampled_from(list(COLORS)),
    size=st.none() | st.sampled_from(list(SIZES)),
)
specs = st.builds(
    SceneSpec,
    objects=st.lists(objects, min_size=1, max_size=2, unique_by=lambda obj: obj.icon)
    .filter(lambda found: sum(obj.count for obj in found) <= MAX_COUNT)
    .map(tuple),
    relation=st.none() | st.sampled_from(RELATIONS),
    background=st.none() | st.sampled_from(list(BACKGROUNDS)),
).filter(lambda spec: spec.relation is None or len(spec.objects) == 2)
words = st.sampled_from([*vocabulary(), "the", "one", "to", "over", "under", "dog"])
near_prompts = st.lists(words, max_size=10).map(" ".join)


@given(specs, st.sampled_from(["", "a photo of ", "an icon of ", "A Picture of "]))
def test_a_description_is_read_back_from_its_prompt(spec: SceneSpec, prefix: str) -> None:
    assert parse_prompt(spec.prompt(prefix)) == spec


@settings(max_examples=500)
@given(near_prompts | st.text(max_size=60))
def test_any_text_is_read_or_a_value_error(text: str) -> None:
    try:
        spec = parse_prompt(text)
    except ValueError:
        return
    assert parse_prompt(spec.prompt()) == spec
