"""Prompts about scenes: what they say, how they are written, and how they are read back.

The six tasks are those of the GenEval benchmark (Ghosh et al. 2023): single object, two objects,
counting, colours, position, and colour attribution.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from common.families.scenes.icons import BACKGROUNDS, COLORS, ICONS, SIZES

RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
TASKS: tuple[str, ...] = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
)
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

    def phrase(self) -> str:
        words = [word for word in (self.size, self.color) if word]
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


def vocabulary() -> list[str]:
    """Every word that the grammar can write, sorted."""
    words = {"a", "an", "photo", "of", "and", "on", "background"}
    words.update(COLORS, BACKGROUNDS, SIZES, ICONS, _COUNT_WORDS.values())
    words.update(plural(icon) for icon in ICONS)
    words.update(word for relation in RELATIONS for word in relation.split())
    return sorted(words)


def sample_spec(rng: np.random.Generator, task: str | None = None) -> SceneSpec:
    """A random scene description, uniform over tasks unless one is named."""
    task = task or TASKS[rng.integers(len(TASKS))]
    pair = task in ("two_object", "position", "color_attr")
    icons = rng.choice(len(ICONS), size=2 if pair else 1, replace=False)
    chance = {"colors": 1.0, "color_attr": 1.0, "position": 0.5, "counting": 0.5}.get(task, 0.0)
    colored = rng.random() < chance
    count = int(rng.integers(2, MAX_COUNT + 1)) if task == "counting" else 1
    objects = tuple(
        ObjectSpec(
            icon=ICONS[i],
            count=count,
            color=_pick(rng, COLORS) if colored else None,
            size=_pick(rng, SIZES) if rng.random() < 0.25 else None,
        )
        for i in icons
    )
    relation = RELATIONS[rng.integers(len(RELATIONS))] if task == "position" else None
    background = _pick(rng, BACKGROUNDS) if rng.random() < 0.5 else None
    return SceneSpec(objects, relation, background)


def sample_prompt(rng: np.random.Generator, task: str | None = None) -> tuple[str, SceneSpec]:
    """A random prompt with what it means."""
    spec = sample_spec(rng, task)
    return spec.prompt("a photo of " if rng.random() < 0.5 else ""), spec


def _pick(rng: np.random.Generator, names: Iterable[str]) -> str:
    choices = list(names)
    return choices[rng.integers(len(choices))]


_NOUNS = {icon: icon for icon in ICONS} | {plural(icon): icon for icon in ICONS}
_COUNTS = {"a": 1, "an": 1, "one": 1, "the": 1} | {word: n for n, word in _COUNT_WORDS.items()}
_BACKGROUND = re.compile(r"^(.*?) on (?:an?|the) (\w+) background$")
_RELATION = re.compile(
    r" (?:to the |on the )?(left of|right of) | (above|below|over|under) | (and) "
)
_RELATION_SYNONYMS = {"over": "above", "under": "below"}


def parse_prompt(prompt: str) -> SceneSpec:
    """Read a prompt back.

    Raises ValueError, saying which word, if the prompt lies outside the grammar.
    """
    text = re.sub(r"\s+", " ", prompt.strip().lower().rstrip("."))
    text = re.sub(r"^an? (?:photo|picture|icon) of ", "", text)
    background = None
    if match := _BACKGROUND.match(text):
        text, background = match.groups()
        if background not in BACKGROUNDS:
            raise ValueError(f"unknown background {background!r}")
    parts = [part for part in _RELATION.split(text) if part]
    if len(parts) not in (1, 3):
        raise ValueError(f"cannot read {prompt!r}: expected one or two objects")
    objects = tuple(_parse_phrase(part) for part in parts[::2])
    if len(objects) == 2 and objects[0].icon == objects[1].icon:
        raise ValueError(f"both objects are a {objects[0].icon}")
    word = parts[1] if len(parts) == 3 else "and"
    relation = None if word == "and" else _RELATION_SYNONYMS.get(word, word)
    if sum(obj.count for obj in objects) > MAX_COUNT:
        raise ValueError(f"more than {MAX_COUNT} objects")
    return SceneSpec(objects, relation, background)


def _parse_phrase(phrase: str) -> ObjectSpec:
    *modifiers, noun = phrase.split()
    if noun not in _NOUNS:
        raise ValueError(f"unknown object {noun!r}")
    count, color, size = 1, None, None
    for word in modifiers:
        if word in _COUNTS:
            count = _COUNTS[word]
        elif word in COLORS:
            color = word
        elif word in SIZES:
            size = word
        else:
            raise ValueError(f"unknown word {word!r}")
    return ObjectSpec(_NOUNS[noun], count, color, size)
