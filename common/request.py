"""What a caller asks for, and what of it can never work. No torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from baton.common.errors import MAX_REASON_CHARS, InvalidRequest
from baton.common.given import real, text, whole
from baton.common.plan import (
    Accel,
    SamplerName,
    check_accel,
    check_guidance,
    check_prompt,
    check_sampler,
    check_seed,
    check_steps,
)

Preference = Literal["quality", "balanced", "speed"]
PREFERENCES: tuple[Preference, ...] = get_args(Preference)


@dataclass(frozen=True)
class GenerationRequest:
    """What the caller asks for. None leaves it to the family, the coordinator or chance.

    timeout: seconds that the picture may take; None sets no limit. accel: how steps may be made
    cheaper (none, propagate, masks, full). fallback: whether the device may draw what no edge did;
    left out, it may unless the caller named the arm and no edge has begun.
    """

    prompt: str = field(repr=False)
    negative: str = field(default="", repr=False)
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    size: int | None = None
    sampler: SamplerName = "ddim"
    preference: Preference = "balanced"
    arm: str | None = None
    edge: str | None = None
    timeout: float | None = None
    accel: Accel | None = None
    fallback: bool | None = None

    def hide(self, text: str) -> str:
        """An error's text without the prompts, which a node might have put into it, as one line."""
        for prompt in filter(None, (self.prompt.strip(), self.negative.strip())):
            text = re.sub(rf"(?<!\w){re.escape(prompt)}(?!\w)", "(the prompt)", text, flags=re.I)
        line = "".join(letter if letter.isprintable() else " " for letter in text)
        return line[:MAX_REASON_CHARS]


def check_request(request: GenerationRequest) -> GenerationRequest:
    """The request in Python's own types. Raises InvalidRequest for what can never work."""
    return replace(
        request,
        prompt=check_prompt(request.prompt),
        negative=check_prompt(request.negative, "negative prompt"),
        steps=None if request.steps is None else check_steps(request.steps),
        guidance=None if request.guidance is None else check_guidance(request.guidance),
        seed=check_seed(request.seed),
        size=None if request.size is None else whole("size", request.size),
        sampler=check_sampler(request.sampler),
        preference=_check_preference(request.preference),
        arm=None if request.arm is None else text("an arm", request.arm),
        edge=None if request.edge is None else text("an edge", request.edge),
        timeout=None if request.timeout is None else _check_timeout(request.timeout),
        accel=None if request.accel is None else check_accel(request.accel),
        fallback=_check_fallback(request.fallback),
    )


def _check_fallback(fallback: object) -> bool | None:
    if isinstance(fallback, bool | None):
        return fallback
    raise InvalidRequest(f"fallback is true or false, got {type(fallback).__name__}")


def _check_preference(name: object) -> Preference:
    name = text("a preference", name)
    for known in PREFERENCES:
        if name == known:
            return known
    raise InvalidRequest(f"the preference is one of {', '.join(PREFERENCES)}, got {name[:32]!r}")


def _check_timeout(seconds: object) -> float:
    seconds = real("a timeout", seconds)
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"a timeout is a number of seconds above 0, got {seconds}")
    return seconds
