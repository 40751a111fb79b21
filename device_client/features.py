"""Features of a prompt, measured on the device: the coordinator never sees the prompt."""

from __future__ import annotations

import re

from baton.common.query import PromptFeatures

_COLORS = "red orange yellow green cyan blue purple pink brown black white grey gray golden silver"
_OTHERS = "small large big tiny huge tall short round square old new bright dark wooden metal"
_ATTRIBUTES = frozenset(f"{_COLORS} {_OTHERS}".split())
_RELATIONS = re.compile(
    r"\b(left of|right of|above|below|under|over|behind|in front of|next to|inside|on top of)\b"
)
_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "several": 4, "many": 6}
_JOINERS = re.compile(r"\b(?:and|with|,)\b|,")


def prompt_features(prompt: str) -> PromptFeatures:
    """Cheap surface features; they say how much a prompt asks for, not what."""
    text = prompt.lower()
    words = re.findall(r"[a-z0-9']+", text)
    relations = len(_RELATIONS.findall(text))
    numbers = [_NUMBERS.get(word, 0) for word in words]
    numbers += [int(word) for word in words if word.isdecimal() and len(word) <= 2]
    return PromptFeatures(
        words=len(words),
        objects=1 + relations + len(_JOINERS.findall(text)),
        attributes=sum(word in _ATTRIBUTES for word in words),
        relations=relations,
        count=max([1, *numbers]),
    )
