"""What a caller asks for, and what of it can never work. No torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

from baton.common.errors import InvalidRequest
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
from baton.common.rpc.convert import MAX_REASON_CHARS
from baton.device_client.decide import PREFERENCES, Preference


@dataclass(frozen=True)
class Wish:
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


def check_wish(wish: Wish) -> Wish:
    """The wish in Python's own types. Raises InvalidRequest for what can never work."""
    return replace(
        wish,
        prompt=check_prompt(wish.prompt),
        negative=check_prompt(wish.negative, "negative prompt"),
        steps=None if wish.steps is None else check_steps(wish.steps),
        guidance=None if wish.guidance is None else check_guidance(wish.guidance),
        seed=check_seed(wish.seed),
        size=None if wish.size is None else whole("size", wish.size),
        sampler=check_sampler(wish.sampler),
        preference=_check_preference(wish.preference),
        arm=None if wish.arm is None else text("an arm", wish.arm),
        edge=None if wish.edge is None else text("an edge", wish.edge),
        timeout=None if wish.timeout is None else _check_timeout(wish.timeout),
        accel=None if wish.accel is None else check_accel(wish.accel),
        fallback=_check_fallback(wish.fallback),
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
