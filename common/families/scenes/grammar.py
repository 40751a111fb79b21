"""Prompts about scenes: what they say, how they are written, and how they are read back.

Six tasks are those of the GenEval benchmark (Ghosh et al. 2023): single object, two objects,
counting, colours, position, and colour attribution. Worlds with surfaces have a seventh: one or two
objects, each with its surface.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from baton.common.families.scenes.icons import ICONS
from baton.common.families.scenes.worlds import World

RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
GENEVAL_TASKS: tuple[str, ...] = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
)
SURFACE_TASK = "surface"
MAX_COUNT = 3

_COUNT_WORDS = {2: "two", 3: "three"}
_PLURALS = {"fish": "fish", "cross": "crosses"}


@dataclass(frozen=True)
class ObjectSpec:
    """One noun phrase of a prompt; None means that the prompt leaves it open."""

    icon: str
    count: int = 1
    color: str | None = None
    size: str | None = None
    surface: str | None = None

    def phrase(self) -> str:
        words = [word for word in (self.size, self.surface, self.color) if word]
        if self.count > 1:
            words = [_COUNT_WORDS[self.count], *words, plural(self.icon)]
        else:
            words = [*words, self.icon]
            words.insert(0, "an" if words[0][0] in "aeiou" else "a")
        return " ".join(words)


@dataclass(frozen=True)
class SceneSpec:
    """What a prompt asks for: one or two noun phrases, a relation, a background."""

    objects: tuple[ObjectSpec, ...]
    relation: str | None = None
    background: str | None = None

    @property
    def task(self) -> str:
        if self.relation:
            return "position"
        if any(obj.count > 1 for obj in self.objects):
            return "counting"
        if any(obj.surface for obj in self.objects):
            return SURFACE_TASK
        colored = any(obj.color for obj in self.objects)
        if len(self.objects) == 2:
            return "color_attr" if colored else "two_object"
        return "colors" if colored else "single_object"

    def prompt(self, prefix: str = "") -> str:
        """The prompt's text, for instance ``two red cats on a night background``."""
        joiner = f" {self.relation or 'and'} "
        text = prefix + joiner.join(obj.phrase() for obj in self.objects)
        return f"{text} on a {self.background} background" if self.background else text


def plural(icon: str) -> str:
    return _PLURALS.get(icon, icon + "s")


def tasks_of(world: World) -> tuple[str, ...]:
    """The tasks that a world's prompts belong to."""
    return (*GENEVAL_TASKS, SURFACE_TASK) if world.has_surfaces else GENEVAL_TASKS


def vocabulary(world: World) -> list[str]:
    """Every word that the grammar can write, sorted."""
    words = {"a", "an", "photo", "of", "and", "on", "background"}
    words.update(world.colors, world.backgrounds, world.sizes, ICONS, _COUNT_WORDS.values())
    words.update(world.surfaces if world.has_surfaces else ())
    words.update(plural(icon) for icon in ICONS)
    words.update(word for relation in RELATIONS for word in relation.split())
    return sorted(words)


_COLORED = {"colors": 1.0, "color_attr": 1.0, "position": 0.5, "counting": 0.5, SURFACE_TASK: 0.5}
_SURFACED = {SURFACE_TASK: 1.0, "position": 0.15, "counting": 0.15}


def sample_spec(rng: np.random.Generator, world: World, task: str | None = None) -> SceneSpec:
    """A random scene description, uniform over the world's tasks unless one is named."""
    tasks = tasks_of(world)
    task = task or tasks[rng.integers(len(tasks))]
    pair = task in ("two_object", "position", "color_attr")
    pair = pair or (task == SURFACE_TASK and rng.random() < 0.5)
    icons = rng.choice(len(ICONS), size=2 if pair else 1, replace=False)
    colored = rng.random() < _COLORED.get(task, 0.0)
    surfaced = _SURFACED.get(task, 0.0) if world.has_surfaces else 0.0
    count = int(rng.integers(2, MAX_COUNT + 1)) if task == "counting" else 1
    objects = tuple(
        ObjectSpec(
            icon=ICONS[i],
            count=count,
            color=pick(rng, world.colors) if colored else None,
            size=pick(rng, world.sizes) if rng.random() < 0.25 else None,
            surface=pick(rng, world.surfaces) if surfaced and rng.random() < surfaced else None,
        )
        for i in icons
    )
    relation = RELATIONS[rng.integers(len(RELATIONS))] if task == "position" else None
    background = pick(rng, world.backgrounds) if rng.random() < 0.5 else None
    return SceneSpec(objects, relation, background)


def sample_prompt(
    rng: np.random.Generator, world: World, task: str | None = None
) -> tuple[str, SceneSpec]:
    """A random prompt with what it means."""
    spec = sample_spec(rng, world, task)
    return spec.prompt("a photo of " if rng.random() < 0.5 else ""), spec


def pick(rng: np.random.Generator, names: Iterable[str]) -> str:
    """One of the names, uniformly."""
    choices = list(names)
    return choices[rng.integers(len(choices))]


_NOUNS = {icon: icon for icon in ICONS} | {plural(icon): icon for icon in ICONS}
_COUNTS = {"a": 1, "an": 1, "one": 1, "the": 1} | {word: n for n, word in _COUNT_WORDS.items()}
_BACKGROUND = re.compile(r"^(.*?) on (?:an?|the) (\w+) background$")
_RELATION = re.compile(
    r" (?:to the |on the )?(left of|right of) | (above|below|over|under) | (and) "
)
_RELATION_SYNONYMS = {"over": "above", "under": "below"}


def parse_prompt(prompt: str, world: World) -> SceneSpec:
    """Read a prompt back.

    Raises ValueError, saying which word, if the prompt lies outside the world's grammar.
    """
    text = re.sub(r"\s+", " ", prompt.strip().lower().rstrip("."))
    text = re.sub(r"^an? (?:photo|picture|icon) of ", "", text)
    background = None
    if match := _BACKGROUND.match(text):
        text, background = match.groups()
        if background not in world.backgrounds:
            raise ValueError(f"unknown background {background!r}")
    parts = [part for part in _RELATION.split(text) if part]
    if len(parts) not in (1, 3):
        raise ValueError(f"cannot read {prompt!r}: expected one or two objects")
    objects = tuple(_parse_phrase(part, world) for part in parts[::2])
    if len(objects) == 2 and objects[0].icon == objects[1].icon:
        raise ValueError(f"both objects are a {objects[0].icon}")
    word = parts[1] if len(parts) == 3 else "and"
    relation = None if word == "and" else _RELATION_SYNONYMS.get(word, word)
    if sum(obj.count for obj in objects) > MAX_COUNT:
        raise ValueError(f"more than {MAX_COUNT} objects")
    return SceneSpec(objects, relation, background)


def _parse_phrase(phrase: str, world: World) -> ObjectSpec:
    *modifiers, noun = phrase.split()
    if noun not in _NOUNS:
        raise ValueError(f"unknown object {noun!r}")
    count = 1
    facts: dict[str, str] = {}
    for word in modifiers:
        if word in _COUNTS:
            count = _COUNTS[word]
        elif word in world.colors:
            facts["color"] = word
        elif word in world.sizes:
            facts["size"] = word
        elif world.has_surfaces and word in world.surfaces:
            facts["surface"] = word
        else:
            raise ValueError(f"unknown word {word!r}")
    return ObjectSpec(_NOUNS[noun], count, **facts)
