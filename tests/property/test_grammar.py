"""Every description can be written and read back; every text is read or refused."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.common.families.scenes.grammar import (
    MAX_COUNT,
    RELATIONS,
    ObjectSpec,
    SceneSpec,
    parse_prompt,
    vocabulary,
)
from baton.common.families.scenes.icons import ICONS
from baton.common.families.scenes.worlds import WORLDS, World

worlds = st.sampled_from(WORLDS)


def objects(world: World) -> st.SearchStrategy[ObjectSpec]:
    surfaces = world.surfaces if world.has_surfaces else ()
    return st.builds(
        ObjectSpec,
        icon=st.sampled_from(ICONS),
        count=st.integers(1, MAX_COUNT),
        color=st.none() | st.sampled_from(list(world.colors)),
        size=st.none() | st.sampled_from(list(world.sizes)),
        surface=st.none() | st.sampled_from(surfaces) if surfaces else st.none(),
    )


def specs(world: World) -> st.SearchStrategy[SceneSpec]:
    return st.builds(
        SceneSpec,
        objects=st.lists(objects(world), min_size=1, max_size=2, unique_by=lambda obj: obj.icon)
        .filter(lambda found: sum(obj.count for obj in found) <= MAX_COUNT)
        .map(tuple),
        relation=st.none() | st.sampled_from(RELATIONS),
        background=st.none() | st.sampled_from(list(world.backgrounds)),
    ).filter(lambda spec: spec.relation is None or len(spec.objects) == 2)


words = st.sampled_from([*vocabulary(WORLDS[-1]), "the", "one", "to", "over", "under", "dog"])
near_prompts = st.lists(words, max_size=10).map(" ".join)


@given(st.data(), worlds, st.sampled_from(["", "a photo of ", "an icon of ", "A Picture of "]))
def test_a_description_is_read_back_from_its_prompt(
    data: st.DataObject, world: World, prefix: str
) -> None:
    spec = data.draw(specs(world))
    assert parse_prompt(spec.prompt(prefix), world) == spec


@settings(max_examples=500)
@given(worlds, near_prompts | st.text(max_size=60))
def test_any_text_is_read_or_a_value_error(world: World, text: str) -> None:
    try:
        spec = parse_prompt(text, world)
    except ValueError:
        return
    assert parse_prompt(spec.prompt(), world) == spec
