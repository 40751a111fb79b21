"""What families register by name, for a manifest to say: scorers, and makers of prompts.

Each is imported when it is asked for. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from baton.common.errors import UnknownName
from baton.common.quality.verifier import Scorer

T = TypeVar("T")


class Prompts(Protocol):
    """``count`` prompts for pictures of a side, the same ones for the same seed."""

    def __call__(self, size: int, count: int, seed: int) -> list[str]: ...


def _scenes_scorer() -> Scorer:
    from baton.common.families.scenes.scoring import scenes_verifier

    return scenes_verifier


def _scenes_prompts() -> Prompts:
    from baton.common.families.scenes.scoring import scenes_prompts

    return scenes_prompts


_SCORERS: Mapping[str, Callable[[], Scorer]] = {"scenes": _scenes_scorer}
_PROMPTS: Mapping[str, Callable[[], Prompts]] = {"scenes": _scenes_prompts}


def find_scorer(name: str) -> Scorer | None:
    """None for an empty name. Raises UnknownName."""
    return _found("scorer", name, _SCORERS)


def find_prompts(name: str) -> Prompts | None:
    """None for an empty name. Raises UnknownName."""
    return _found("maker of prompts", name, _PROMPTS)


def check_registered(scorer: str, prompts: str) -> None:
    """Raises UnknownName for a name that is neither empty nor known; imports nothing."""
    _check("scorer", scorer, _SCORERS)
    _check("maker of prompts", prompts, _PROMPTS)


def _found(what: str, name: str, known: Mapping[str, Callable[[], T]]) -> T | None:
    _check(what, name, known)
    return known[name]() if name else None


def _check(what: str, name: str, known: Mapping[str, object]) -> None:
    if name and name not in known:
        raise UnknownName(f"unknown {what} {name[:32]!r}; known: {', '.join(known)}")
